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

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.architecture import Architecture
from ppl_vae.checks import check_batch, check_levels
from ppl_vae.pyro.bind import bind
from ppl_vae.pyro.completed import CompletedImage, CompletedPixels
from ppl_vae.pyro.distributions import unwrapped
from ppl_vae.pyro.likelihoods import Likelihood
from ppl_vae.pyro.nets import PixelCNNNet
from ppl_vae.pyro.nets.conv import conv
from ppl_vae.pyro.nets.maps import GaussianMapHead, MapBlock, upsample


class Extractor(nn.Module):
    """Maps of an image and its mask: at full size, and halved once a level."""

    def __init__(self, num_inputs: int, channels: Sequence[int], **block: Any) -> None:
        super().__init__()
        first = MapBlock(num_inputs, channels[0], **block)
        self.blocks = nn.ModuleList(
            [first, *(MapBlock(a, b, stride=2, **block) for a, b in pairwise(channels))]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """[(n, channels[l], h / 2^l, w / 2^l)] of x (n, num_inputs, h, w), sides rounded up."""
        maps: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps


class InpaintingGroup(nn.Module):
    """One level: the prior of its latent map, and the way from there to twice the size."""

    def __init__(self, latent: int, width: int, below: int, **block: Any) -> None:
        super().__init__()
        self.head = GaussianMapHead(width, latent)
        self.merge = MapBlock(width + latent, width, **block)
        self.rise = MapBlock(width + below, below, **block)

    def prior(self, h: Tensor) -> dist.Distribution:
        """p(z_l | z_{>l}, k, m), maps (n, latent, h, w), from the state h (n, width, h, w)."""
        loc, variance = self.head(h)
        return dist.Normal(loc, variance.sqrt()).to_event(3)

    def onwards(self, h: Tensor, z: Tensor, skip: Tensor) -> Tensor:
        """The latent fed back, then upsampling and the masked image's map of that size.

        Args:
            h: (n, width, h, w), the state; z: (n, latent, h, w).
            skip: (n, below, h', w'), the masked image's map a level below.

        Returns:
            (n, below, h', w'), the state there.
        """
        h = self.merge(torch.cat([h, z], 1))
        size = (skip.shape[2], skip.shape[3])
        return self.rise(torch.cat([upsample(h, size), skip], 1))


class InpaintingVAE(nn.Module):
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
    ) -> None:
        super().__init__()
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
        self.extractor = Extractor(self.x_shape[0], self.channels, **block)
        self.start = MapBlock(self.channels[-1], self.channels[-1], **block)
        self.groups = nn.ModuleList(
            InpaintingGroup(latent, width, below, **block)
            for latent, (below, width) in zip(self.latents, pairwise(self.channels), strict=True)
        )
        outputs = self.likelihood.num_outputs(self.num_pixels)
        shape, size = (
            (self.num_pixels, *self.x_shape[1:]),
            (pixel_channels, pixel_layers, pixel_kernel),
        )
        self.pixels = PixelCNNNet(shape, outputs, *size, self.channels[0]) if pixel_layers else None
        self.out: Any = None if pixel_layers else conv(self.channels[0], outputs)
        self.context_channels = {
            f"z{level}": 2 * width for level, width in enumerate(self.channels[1:], 1)
        }

    def forward(
        self, x: Tensor | None = None, *, n: int | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Images with masks (n, c + condition + 1, h, w): `x`, or n generated ones.

        `known`: images with masks whose missing pixels are to be drawn; without it and `x`
        nothing is known.
        """
        given = known if x is None else x
        n = check_batch(given, n, self.x_shape)
        with bind("model", self) as net, pyro.plate("data", n):
            if given is None:
                given = next(net.parameters()).new_zeros(n, *net.x_shape)
            told_at = net.num_pixels
            image, mask = given[:, :told_at], (given[:, -1:] >= 0.5).to(given.dtype)
            told = given[:, told_at:-1]
            masked, whole = net.read(image, told, mask, both=x is not None)
            h = net.start(masked[-1])
            for level in range(len(net.latents), 0, -1):
                group: Any = net.groups[level - 1]
                context = None if whole is None else torch.cat([h, whole[level]], 1)
                z = pyro.sample(f"z{level}", group.prior(h), infer={"context": context})
                h = group.onwards(h, z, masked[level - 1])
            return pyro.sample("x", net.completed(h, image, told, mask), obs=x)

    def completed(self, h: Tensor, image: Tensor, told: Tensor, mask: Tensor) -> Any:
        """The image's distribution, from the decoder's last maps.

        Args:
            h: (n, channels[0], h, w).
            image, told, mask: as of `read`.

        Returns:
            Of images with condition and mask, (n, c + condition + 1, h, w): it scores the missing
            pixels.
        """
        shown = torch.cat([told, mask], 1)
        if self.pixels is not None:
            return CompletedPixels(self.pixels, self.likelihood, h, image, shown)
        parameters = self.out(h)
        return CompletedImage(unwrapped(self.likelihood(parameters)), image, shown)

    def read(self, image: Tensor, told: Tensor, mask: Tensor, both: bool) -> tuple[Any, Any]:
        """Maps of the masked image, and of the whole one if wanted, from one pass.

        Args:
            image: (n, c, h, w); told: (n, condition, h, w), the vector's maps.
            mask: (n, 1, h, w), 1 where known.
            both: whether the whole image is wanted.

        Returns:
            (maps, maps or None), as `Extractor` gives them.
        """
        masked = torch.cat([image * mask, told, mask], 1)
        if not both:
            return self.extractor(masked), None
        whole = torch.cat([image, told, torch.ones_like(mask)], 1)
        parts = [maps.chunk(2) for maps in self.extractor(torch.cat([masked, whole]))]
        return [part[0] for part in parts], [part[1] for part in parts]
