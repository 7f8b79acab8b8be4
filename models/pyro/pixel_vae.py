r"""PixelVAE and its relatives (Gulrajani et al. 2017, arXiv 1611.05013).

.. math:: p(x, z) = p(x | z_1)\, p(z_L) \prod_{l<L} p(z_l | z_{l+1}), \qquad
          p(x | z_1) = \prod_i p(x_i | x_{<i}, z_1)

A PixelCNN's few layers take care of the texture, the latents of what lies beyond its reach. The
deeper the PixelCNN, the less is left for the latents to say.
"""

from __future__ import annotations

__all__ = ["HierarchicalPixelVAE", "PixelCNN", "PixelVAE"]

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.architecture import Architecture
from ppl_vae.checks import check_batch, check_latents
from ppl_vae.pyro.autoregressive import Autoregressive
from ppl_vae.pyro.bind import bind
from ppl_vae.pyro.distributions import standard_normal
from ppl_vae.pyro.likelihoods import Likelihood
from ppl_vae.pyro.nets import ConvDecoder, MapDecoder, PixelCNNNet, halved
from ppl_vae.pyro.nets.gaussian import MIN_VARIANCE
from ppl_vae.pyro.nets.precision import in_full


class PixelCNN(nn.Module):
    """A gated PixelCNN alone: no latents, an exact likelihood to measure the others against.

    Args:
        x_shape: (channels, height, width).
        channels, layers, kernel_size: see `ppl_vae.pyro.nets.PixelCNNNet`.
        likelihood: of a pixel given those before it: "bernoulli", "discretized_logistic", …
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        channels: int = 32,
        layers: int = 7,
        kernel_size: int = 5,
        likelihood: str = "bernoulli",
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.likelihood = Likelihood(likelihood)
        outputs = self.likelihood.num_outputs(self.x_shape[0])
        self.pixels = PixelCNNNet(self.x_shape, outputs, channels, layers, kernel_size)

    def forward(self, x: Tensor | None = None, *, n: int | None = None) -> Tensor:
        """Images (n, c, h, w): `x`, or n generated ones."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, pyro.plate("data", n):
            return pyro.sample("x", Autoregressive(net.pixels, net.likelihood, (n,)), obs=x)


class PixelVAE(nn.Module):
    """One latent vector, a convolutional decoder to a map of features, a PixelCNN under them.

    Args:
        x_shape: (channels, height, width).
        latent: size of z1.
        hidden: channels of the decoder from the data up, halving the image's sides at each; of
            guides too.
        activation: see `ppl_vae.architecture`.
        features: channels of the map that the pixels see.
        channels, layers, kernel_size: of the PixelCNN; its reach is layers · (kernel_size // 2).
        likelihood: of a pixel given those before it and the features.
        batch_norm: in the decoder, and in guides unless they are told otherwise.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent: int = 32,
        hidden: Sequence[int] = (32, 64),
        activation: str = "elu",
        features: int = 16,
        channels: int = 32,
        layers: int = 3,
        kernel_size: int = 5,
        likelihood: str = "bernoulli",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.latents = check_latents("latent", (latent,))
        self.architecture = Architecture(tuple(hidden), len(hidden), "conv", activation, batch_norm)
        self.likelihood = Likelihood(likelihood)
        self.decoder = ConvDecoder(
            latent,
            (features, *self.x_shape[1:]),
            tuple(hidden)[::-1],
            features,
            activation,
            batch_norm,
        )
        outputs = self.likelihood.num_outputs(self.x_shape[0])
        self.pixels = PixelCNNNet(self.x_shape, outputs, channels, layers, kernel_size, features)

    def forward(self, x: Tensor | None = None, *, n: int | None = None) -> Tensor:
        """Images (n, c, h, w): `x`, or n generated ones."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, pyro.plate("data", n):
            z = pyro.sample("z1", standard_normal(n, net.latents, like=net.pixels.out.weight))
            image = Autoregressive(net.pixels, net.likelihood, (n,), net.decoder(z))
            return pyro.sample("x", image, obs=x)


class HierarchicalPixelVAE(nn.Module):
    """L latent maps, each under an autoregressive prior that sees the map above, and pixels too.

    z1 has a quarter of the image's sides, each map above half the sides of the one below.

    Args:
        x_shape: (channels, height, width).
        latents: channels of z1 (nearest the data) to zL (top).
        hidden: of guides: channels of the net that touches the image, then one width a site above.
        activation: see `ppl_vae.architecture`.
        features: channels of the maps that pixels and priors see.
        channels, layers, kernel_size: of the pixels' PixelCNN.
        prior_channels, prior_layers: of those of the priors, whose kernels are 3 × 3.
        likelihood: of a pixel given those before it and the features.
        batch_norm: in the nets between maps, and in guides unless they are told otherwise.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latents: Sequence[int] = (4, 8),
        hidden: Sequence[int] = (32, 256),
        activation: str = "elu",
        features: int = 16,
        channels: int = 32,
        layers: int = 3,
        kernel_size: int = 5,
        prior_channels: int = 16,
        prior_layers: int = 2,
        likelihood: str = "bernoulli",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.latents = check_latents("latents", latents)
        self.architecture = Architecture(tuple(hidden), 2, "conv", activation, batch_norm)
        self.likelihood = Likelihood(likelihood)
        sides = halved(x_shape[1], x_shape[2], len(self.latents) + 1)[2:]
        maps = [(c, *side) for c, side in zip(self.latents, sides, strict=True)]
        below = [self.x_shape, *maps]
        self.decoders = nn.ModuleList(
            MapDecoder(above, (features, *own[1:]), 2 if i == 0 else 1, activation, batch_norm)
            for i, (own, above) in enumerate(pairwise(below))
        )
        outputs = self.likelihood.num_outputs(self.x_shape[0])
        self.pixels = PixelCNNNet(self.x_shape, outputs, channels, layers, kernel_size, features)
        self.priors = nn.ModuleList(
            PixelCNNNet(own, 2 * own[0], prior_channels, prior_layers, 3, num_features)
            for own, num_features in zip(maps, [*[features] * (len(maps) - 1), 0], strict=True)
        )

    def forward(self, x: Tensor | None = None, *, n: int | None = None) -> Tensor:
        """Images (n, c, h, w): `x`, or n generated ones."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, pyro.plate("data", n):
            h = None
            for level in range(len(net.latents), 0, -1):
                prior = Autoregressive(net.priors[level - 1], _gaussian, (n,), h)
                z = pyro.sample(f"z{level}", prior, infer={"context": h})
                h = net.decoders[level - 1](z)
            image = Autoregressive(net.pixels, net.likelihood, (n,), h)
            return pyro.sample("x", image, obs=x)


def _gaussian(h: Tensor) -> Any:
    loc, raw = in_full(h).chunk(2, 1)
    return dist.Normal(loc, (functional.softplus(raw) + MIN_VARIANCE).sqrt()).to_event(3)
