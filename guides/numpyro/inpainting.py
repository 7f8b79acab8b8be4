r"""Posterior of a conditional hierarchy, from the whole image (see `models.numpyro.InpaintingVAE`).

.. math:: q(z_l \mid z_{>l}, x) = N(\mu_{p,l} + \Delta\mu_l,\ \sigma_{p,l}^2\, \Delta\sigma_l^2)

as a residual of the prior p(z_l | z_{>l}, k, m) (Vahdat & Kautz 2020, NVAE, section 3.2), or with
loc and scale of its own. The image's maps are made by the model's extractor, whose parameters stay
the model's: the program hands them over as the site's context.
"""

from __future__ import annotations

__all__ = ["InpaintingGuide"]

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jax import Array

from ppl_vae.architecture import Architecture
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.guide import Guide, Site, check_normal
from ppl_vae.numpyro.nets.maps import GaussianMapHead, MapBlock


class InpaintingGuide(Guide):
    """A block of convolutions and a Gaussian head a site, over what the model shows of the image.

    Args:
        model: an `InpaintingVAE`, or any program with latent maps that shows, as each site's
            context, maps of that size, and tells their channels as `context_channels`.
        layers, activation, batch_norm: None takes the model's own.
        residual: posterior as a residual of the prior, which must be Normal.
        name: of the guide's parameters among the program's sites.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        layers: int | None = None,
        activation: str | None = None,
        batch_norm: bool | None = None,
        residual: bool = True,
        *,
        rngs: nnx.Rngs,
        name: str = "guide",
    ) -> None:
        super().__init__(model, name=name)
        shown = getattr(model, "context_channels", None)
        if shown is None or shown.keys() != self.sites.keys():
            raise UsageError(
                "guide: InpaintingGuide needs a model that shows it the whole image at each site "
                f"(context_channels), came {type(model).__name__}: take InpaintingVAE, or "
                "MeanFieldGuide, LadderGuide or BottomUpGuide"
            )
        changes = {"layers": layers, "activation": activation, "batch_norm": batch_norm}
        sizes = Architecture.of(model, len(self.sites), **changes)
        self.residual = residual
        self.order = tuple(reversed(self.sites))
        self.blocks = nnx.List(
            [
                MapBlock(
                    shown[site],
                    shown[site] // 2,
                    sizes.layers,
                    activation=sizes.activation,
                    batch_norm=sizes.batch_norm,
                    rngs=rngs,
                )
                for site in self.order
            ]
        )
        self.heads = nnx.List(
            [
                GaussianMapHead(shown[site] // 2, self.sites[site][0], rngs=rngs)
                for site in self.order
            ]
        )

    def encode(self, x: Array) -> tuple[()]:
        """Nothing: the model's extractor reads the image, and each site's context has its maps."""
        return ()

    def posterior(self, site: Site, features: Any) -> Any:
        """Normal maps (n, latent, h, w): residual, or with loc and scale of their own."""
        i = self.order.index(site.name)
        loc, variance = self.heads[i](self.blocks[i](site.context))
        if self.residual:
            check_normal(self, site)
            return dist.Normal(site.prior.loc + loc, site.prior.scale * jnp.sqrt(variance))
        return dist.Normal(loc, jnp.sqrt(variance))
