r"""The classical deep VAE's guide, sampled from the data upwards (Burda et al. 2016, section 2).

.. math:: q(z | x) = q(z_1 | x) \prod_{l>1} q(z_l | z_{l-1})

It runs against the model's order: z_1's parent in the model, z_2, descends from z_1 here. So its
divergence must be the sampled log q - log p; the closed form of a site would be wrong.
"""

from __future__ import annotations

__all__ = ["BottomUpGuide"]

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from ppl_vae.architecture import Architecture
from ppl_vae.pyro.bind import bind
from ppl_vae.pyro.guide import data_shape, latent_sites
from ppl_vae.pyro.nets import MLP, GaussianHead, encoder


class BottomUpGuide(nn.Module):
    """A plain program of its own: z1 from the image, each next site from the one below.

    Arguments as of `MeanFieldGuide`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        hidden: Sequence[int] | None = None,
        layers: int | None = None,
        net: str | None = None,
        activation: str | None = None,
        batch_norm: bool | None = None,
        *,
        name: str = "guide",
    ) -> None:
        super().__init__()
        self.name = name
        self.sites = latent_sites(model)
        self.order = tuple(reversed(self.sites))
        changes = {"layers": layers, "net": net, "activation": activation, "batch_norm": batch_norm}
        architecture = Architecture.of(model, len(self.sites), hidden=hidden, **changes)
        widths = architecture.widths(len(self.sites))
        nets: list[Any] = [encoder(data_shape(model), widths[0], architecture)]
        for below, width in zip(self.order[:-1], widths[1:], strict=True):
            size = math.prod(self.sites[below])
            nets.append(MLP(size, width, architecture.activation, architecture.batch_norm))
        self.nets = nn.ModuleList(nets)
        self.heads = nn.ModuleList(
            GaussianHead(part.out_features, self.sites[site])
            for part, site in zip(nets, self.order, strict=True)
        )

    def forward(self, x: Tensor, **kwargs: Any) -> dict[str, Tensor]:
        """Latent values {site: (n, …)} drawn from the posterior of images `x`."""
        values: dict[str, Tensor] = {}
        with bind(self.name, self) as guide, pyro.plate("data", x.shape[0]):
            h = x
            for site, net, head in zip(guide.order, guide.nets, guide.heads, strict=True):
                loc, variance = head(net(h))
                posterior = dist.Normal(loc, variance.sqrt()).to_event(loc.dim() - 1)
                h = values[site] = pyro.sample(site, posterior)
        return values
