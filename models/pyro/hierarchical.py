r"""The deep hierarchical generative model of Sønderby et al. 2016 (Ladder VAE, section 2.1).

.. math:: p(x, z) = p(x | z_1)\, N(z_L; 0, I) \prod_{l<L} N(z_l; \mu(z_{l+1}), \sigma^2(z_{l+1}))
"""

from __future__ import annotations

__all__ = ["Group", "HierarchicalVAE"]

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppl_vae.architecture import Architecture
from ppl_vae.checks import check_batch, check_latents
from ppl_vae.pyro.bind import bind
from ppl_vae.pyro.distributions import standard_normal
from ppl_vae.pyro.likelihoods import Likelihood
from ppl_vae.pyro.nets import MLP, GaussianHead, decoder


class Group(nn.Module):
    """p(z_l | z_{l+1}): an MLP and a Gaussian head."""

    def __init__(
        self, num_above: int, latent: int, widths: Sequence[int], architecture: Architecture
    ) -> None:
        super().__init__()
        self.mlp = MLP(num_above, widths, architecture.activation, architecture.batch_norm)
        self.head = GaussianHead(widths[-1], (latent,))

    def prior(self, h: Tensor) -> dist.Distribution:
        """p(z_l | z_{l+1}), (n, latent), by what `mlp` makes of z_{l+1}: h (n, widths[-1])."""
        loc, variance = self.head(h)
        return dist.Normal(loc, variance.sqrt()).to_event(1)


class HierarchicalVAE(nn.Module):
    """L stochastic layers, each a Gaussian given the one above.

    Args:
        x_shape: (channels, height, width).
        latents: sizes of z1 (nearest the data) to zL (top).
        hidden: width of the nets at each level; hidden[0] stands between x and z1.
        layers: layers of each net; with a single latent `hidden` lists them itself.
        net: "mlp", or "conv" between z1 and the image; hidden[0] then is its channels, halving
            the image's sides `layers` times.
        activation: see `ppl_vae.architecture`.
        likelihood: "bernoulli", "discretized_logistic", "discretized_logistic_mixture" or
            "normal".
        batch_norm: before every activation, and in guides unless they are told otherwise.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latents: Sequence[int] = (64, 32, 16, 8, 4),
        hidden: Sequence[int] = (512, 256, 128, 64, 32),
        layers: int = 2,
        net: str = "mlp",
        activation: str = "leaky_relu",
        likelihood: str = "bernoulli",
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.latents = check_latents("latents", latents)
        self.architecture = Architecture(tuple(hidden), layers, net, activation, batch_norm)
        self.likelihood = Likelihood(likelihood)
        widths = self.architecture.widths(len(self.latents))
        self.groups = nn.ModuleList(
            Group(above, latent, width, self.architecture)
            for above, latent, width in zip(latents[1:], latents[:-1], widths[1:], strict=True)
        )
        self.decoder = decoder(
            latents[0],
            self.x_shape,
            widths[0],
            self.architecture,
            self.likelihood.num_outputs(self.x_shape[0]),
        )

    def forward(self, x: Tensor | None = None, *, n: int | None = None) -> Tensor:
        """Images (n, c, h, w): `x`, or n generated ones."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, pyro.plate("data", n):
            top = len(net.latents)
            prior = standard_normal(n, net.latents[-1:], like=next(net.parameters()))
            z = pyro.sample(f"z{top}", prior)
            for level in range(top - 1, 0, -1):
                group: Any = net.groups[level - 1]
                h = group.mlp(z)
                z = pyro.sample(f"z{level}", group.prior(h), infer={"context": h})
            return pyro.sample("x", net.likelihood(net.decoder(z)), obs=x)
