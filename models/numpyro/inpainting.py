r"""A hierarchical conditional VAE that fills in what is missing of an image.

With k the known pixels and m the mask:

.. math:: p(x, z \mid k, m) = p(x_{missing} \mid z, k, m)
          \prod_{l=L}^{1} N(z_l; \mu_l(z_{>l}, k, m), \sigma_l^2(z_{>l}, k, m))

A conditional VAE (Sohn, Lee & Yan 2015, Learning structured output representation using deep
conditional generative models) with a ladder of latent maps, one a resolution. One extractor reads
the masked image for prior and decoder, and the whole image for the posterior, with the same
parameters; its maps of the masked image join the decoder at equal size (Ronneberger, Fischer &
Brox 2015, U-Net), so that colours agree at the border.
"""

from __future__ import annotations

__all__ = ["Extractor", "InpaintingGroup", "InpaintingVAE"]

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array

from ppl_vae.architecture import Architecture
from ppl_vae.checks import check_batch, check_levels
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.completed import CompletedImage, CompletedPixels
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.likelihoods import Likelihood
from ppl_vae.numpyro.nets import PixelCNNNet
from ppl_vae.numpyro.nets.conv import conv
from ppl_vae.numpyro.nets.maps import GaussianMapHead, MapBlock, upsample


class Extractor(nnx.Module):
    """Maps of an image and its mask: at full size, and halved once a level."""

    def __init__(
        self, num_inputs: int, channels: Sequence[int], *, rngs: nnx.Rngs, **block: Any
    ) -> None:
        first = MapBlock(num_inputs, channels[0], rngs=rngs, **block)
        self.blocks = nnx.List(
            [
                first,
                *(MapBlock(a, b, stride=2, rngs=rngs, **block) for a, b in pairwise(channels)),
            ]
        )

    def __call__(self, x: Array) -> list[Array]:
        """[(n, channels[l], h / 2^l, w / 2^l)] of x (n, num_inputs, h, w), sides rounded up."""
        maps: list[Array] = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps


class InpaintingGroup(nnx.Module):
    """One level: the prior of its latent map, and the way from there to twice the size."""

    def __init__(
        self, latent: int, width: int, below: int, *, rngs: nnx.Rngs, **block: Any
    ) -> None:
        self.head = GaussianMapHead(width, latent, rngs=rngs)
        self.merge = MapBlock(width + latent, width, rngs=rngs, **block)
        self.rise = MapBlock(width + below, below, rngs=rngs, **block)

    def prior(self, h: Array) -> dist.Distribution:
        """p(z_l | z_{>l}, k, m), maps (n, latent, h, w), from the state h (n, width, h, w)."""
        loc, variance = self.head(h)
        return dist.Normal(loc, jnp.sqrt(variance)).to_event(3)

    def onwards(self, h: Array, z: Array, skip: Array) -> Array:
        """The latent fed back, then upsampling and the masked image's map of that size.

        Args:
            h: (n, width, h, w), the state; z: (n, latent, h, w).
            skip: (n, below, h', w'), the masked image's map a level below.

        Returns:
            (n, below, h', w'), the state there.
        """
        h = self.merge(jnp.concatenate([h, z], axis=1))
        size = (skip.shape[2], skip.shape[3])
        return self.rise(jnp.concatenate([upsample(h, size), skip], axis=1))


class InpaintingVAE(nnx.Module):
    """L latent maps, each given the ones above and the masked image.

    An image carries its mask as last channel, 1 where a pixel is known, so every public call takes
    it as any other: `fit`, `log_weights` (log p(missing | known)), `sample` (nothing known).

    Args:
        x_shape: (channels + condition + 1, height, width), the mask's channel among them.
        latents: channels of z1 (half the image's sides) to zL (its sides halved L times).
        channels: of the nets at full size, at z1, …, at zL.
        layers: convolutions a block.
        activation: see `ppl_vae.architecture`.
        likelihood: "bernoulli", "discretized_logistic" or "normal".
        batch_norm: before every activation, and in guides unless they are told otherwise.
        pixel_layers: of a PixelCNN under the decoder's maps, so that missing pixels depend on each
            other; 0 leaves them independent given the latents.
        pixel_channels, pixel_kernel: its size.
        condition: numbers of a vector that each image comes with, such as a label's or a caption's
            (`Images.with_vectors`): as many maps between image and mask, read like these.
        rngs: for the initial weights.

    Attributes:
        takes_masks: that images come with their masks.
        context_channels: {site: channels} of what a guide is shown beside the prior.
    """

    takes_masks = True

    def __init__(
        self,
        x_shape: Sequence[int],
        latents: Sequence[int] = (4, 8, 16),
        channels: Sequence[int] = (32, 32, 64, 64),
        layers: int = 1,
        activation: str = "leaky_relu",
        likelihood: str = "bernoulli",
        batch_norm: bool = True,
        pixel_layers: int = 0,
        pixel_channels: int = 16,
        pixel_kernel: int = 3,
        condition: int = 0,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.x_shape = tuple(x_shape)
        self.latents, self.channels = tuple(latents), tuple(channels)
        check_levels(self.x_shape, self.latents, self.channels, condition)
        self.condition, self.num_pixels = condition, self.x_shape[0] - 1 - condition
        self.architecture = Architecture(self.channels[1:], layers, "conv", activation, batch_norm)
        self.likelihood = Likelihood(likelihood)
        block: dict[str, Any] = {
            "layers": layers,
            "activation": activation,
            "batch_norm": batch_norm,
        }
        self.extractor = Extractor(self.x_shape[0], self.channels, rngs=rngs, **block)
        self.start = MapBlock(self.channels[-1], self.channels[-1], rngs=rngs, **block)
        pairs = zip(self.latents, pairwise(self.channels), strict=True)
        self.groups = nnx.List(
            [
                InpaintingGroup(latent, width, below, rngs=rngs, **block)
                for latent, (below, width) in pairs
            ]
        )
        outputs = self.likelihood.num_outputs(self.num_pixels)
        shape, size = (
            (self.num_pixels, *self.x_shape[1:]),
            (pixel_channels, pixel_layers, pixel_kernel),
        )
        self.pixels = (
            PixelCNNNet(shape, outputs, *size, self.channels[0], rngs=rngs)
            if pixel_layers
            else nnx.data(None)
        )
        self.out: Any = (
            nnx.data(None) if pixel_layers else conv(self.channels[0], outputs, rngs=rngs)
        )
        self.context_channels = nnx.static(
            {f"z{level}": 2 * width for level, width in enumerate(self.channels[1:], 1)}
        )

    def __call__(
        self, x: Array | None = None, *, n: int | None = None, known: Array | None = None
    ) -> Array:
        """Images with masks (n, c + condition + 1, h, w): `x`, or n generated ones.

        `known`: images with masks whose missing pixels are to be drawn; without it and `x`
        nothing is known.
        """
        given = known if x is None else x
        n = check_batch(given, n, self.x_shape)
        with bind("model", self) as net, numpyro.plate("data", n):
            if given is None:
                like = jax.tree.leaves(nnx.state(net, nnx.Param))[0]
                given = jnp.zeros((n, *net.x_shape), like.dtype)
            told_at = net.num_pixels
            image, mask = given[:, :told_at], (given[:, -1:] >= 0.5).astype(given.dtype)
            told = given[:, told_at:-1]
            masked, whole = net.read(image, told, mask, both=x is not None)
            h = net.start(masked[-1])
            for level in range(len(net.latents), 0, -1):
                group = net.groups[level - 1]
                context = None if whole is None else jnp.concatenate([h, whole[level]], axis=1)
                z = numpyro.sample(f"z{level}", group.prior(h), infer={"context": context})
                h = group.onwards(h, z, masked[level - 1])
            return numpyro.sample("x", net.completed(h, image, told, mask), obs=x)

    def completed(self, h: Array, image: Array, told: Array, mask: Array) -> Any:
        """The image's distribution, from the decoder's last maps.

        Args:
            h: (n, channels[0], h, w).
            image, told, mask: as of `read`.

        Returns:
            Of images with condition and mask, (n, c + condition + 1, h, w): it scores the missing
            pixels.
        """
        shown = jnp.concatenate([told, mask], axis=1)
        if self.pixels is not None:
            return CompletedPixels(self.pixels, self.likelihood, h, image, shown)
        parameters = self.out(h.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        return CompletedImage(unwrapped(self.likelihood(parameters)), image, shown)

    def read(self, image: Array, told: Array, mask: Array, both: bool) -> tuple[Any, Any]:
        """Maps of the masked image, and of the whole one if wanted, from one pass.

        Args:
            image: (n, c, h, w); told: (n, condition, h, w), the vector's maps.
            mask: (n, 1, h, w), 1 where known.
            both: whether the whole image is wanted.

        Returns:
            (maps, maps or None), as `Extractor` gives them.
        """
        masked = jnp.concatenate([image * mask, told, mask], axis=1)
        if not both:
            return self.extractor(masked), None
        whole = jnp.concatenate([image, told, jnp.ones_like(mask)], axis=1)
        parts = [jnp.split(maps, 2) for maps in self.extractor(jnp.concatenate([masked, whole]))]
        return [part[0] for part in parts], [part[1] for part in parts]
