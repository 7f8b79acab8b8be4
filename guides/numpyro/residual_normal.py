r"""Posteriors that shift and rescale the prior (Vahdat & Kautz 2020, NVAE, section 3.2).

.. math:: q(z_l | z_{>l}, x) = N(\mu_p + \Delta\mu,\ (\sigma_p \Delta\sigma)^2)

Where the prior moves, the posterior moves with it, and its divergence depends on the residuals
and the prior's scale alone:

.. math::
    KL(q, p) = \tfrac12 \left(\Delta\mu^2 / \sigma_p^2 + \Delta\sigma^2
        - \log \Delta\sigma^2 - 1\right)
"""

from __future__ import annotations

__all__ = ["ResidualNormal", "ResidualNormalGuide"]

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.kl import kl_divergence

from guides.numpyro.mean_field import MeanFieldGuide
from ppl_vae.numpyro.guide import Site, check_normal


class ResidualNormal(dist.Normal):
    """A Normal as residuals of another.

    Args:
        prior: the Normal that is shifted and rescaled.
        shift: Δμ, in the latent's units.
        factor: Δσ > 0, a share of the prior's scale.
    """

    reparametrized_params = ("loc", "scale")
    pytree_data_fields = ("loc", "scale", "prior", "shift", "factor")

    def __init__(
        self, prior: Any, shift: Any, factor: Any, *, validate_args: bool | None = None
    ) -> None:
        self.prior = prior
        self.shift, self.factor = jnp.broadcast_arrays(shift, factor)
        loc, scale = prior.loc + self.shift, prior.scale * self.factor
        super().__init__(loc, scale, validate_args=validate_args)


@kl_divergence.register(ResidualNormal, dist.Normal)
def _divergence(q: ResidualNormal, p: Any) -> Array:
    shift, factor = q.shift, q.factor
    if p is not q.prior:  # another Normal, or the prior run anew: what parts them is added
        shift = shift + (q.prior.loc - p.loc)
        factor = factor * (q.prior.scale / p.scale)
    return 0.5 * (jnp.square(shift / p.scale) + jnp.square(factor) - 1) - jnp.log(factor)


class ResidualNormalGuide(MeanFieldGuide):
    """The image says by how much each site's prior is shifted and rescaled, the top one's too.

    Arguments as of `MeanFieldGuide`; priors must be Normal.
    """

    def posterior(self, site: Site, features: dict[str, tuple[Array, Array]]) -> Any:
        """The prior (n, *event_shape), shifted and rescaled by the image's message."""
        check_normal(self, site)
        shift, variance = features[site.name]
        return ResidualNormal(site.prior, shift, jnp.sqrt(variance))
