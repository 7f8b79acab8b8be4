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

from collections.abc import Sequence
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.distributions.kl import register_kl

from guides.pyro.mean_field import MeanFieldGuide
from ppl_vae.pyro.guide import Site, check_normal


class ResidualNormal(dist.Normal):
    """A Normal as residuals of another.

    Args:
        prior: the Normal that is shifted and rescaled.
        shift: Δμ, in the latent's units.
        factor: Δσ > 0, a share of the prior's scale.
    """

    def __init__(
        self, prior: Normal, shift: Tensor, factor: Tensor, validate_args: bool | None = None
    ) -> None:
        self.prior = prior
        self.shift, self.factor = torch.broadcast_tensors(shift, factor)
        loc, scale = prior.loc + self.shift, prior.scale * self.factor
        super().__init__(loc, scale, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(ResidualNormal, _instance)
        new.prior = self.prior
        new.shift, new.factor = self.shift.expand(batch_shape), self.factor.expand(batch_shape)
        expanded: Self = super().expand(batch_shape, _instance=new)
        return expanded


@register_kl(ResidualNormal, Normal)
def _divergence(q: ResidualNormal, p: Normal) -> Tensor:
    shift, factor = q.shift, q.factor
    if p is not q.prior:  # another Normal, or the prior run anew: what parts them is added
        shift = shift + (q.prior.loc - p.loc)
        factor = factor * (q.prior.scale / p.scale)
    return 0.5 * ((shift / p.scale) ** 2 + factor**2 - 1) - factor.log()


class ResidualNormalGuide(MeanFieldGuide):
    """The image says by how much each site's prior is shifted and rescaled, the top one's too.

    Arguments as of `MeanFieldGuide`; priors must be Normal.
    """

    def posterior(self, site: Site, features: dict[str, tuple[Tensor, Tensor]]) -> Any:
        """The prior (n, *event_shape), shifted and rescaled by the image's message."""
        check_normal(self, site)
        shift, variance = features[site.name]
        return ResidualNormal(site.prior, shift, variance.sqrt())
