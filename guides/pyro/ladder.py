r"""The Ladder VAE's guide (Sønderby et al. 2016, section 2.2).

A deterministic pass upwards gives each site a Gaussian message; on the way down it meets the
prior, and their precision-weighted product is the posterior:

.. math::
    \sigma_l^{-2} = \hat\sigma_l^{-2} + \sigma_{p,l}^{-2}, \qquad
    \mu_l = \sigma_l^2 (\hat\mu_l \hat\sigma_l^{-2} + \mu_{p,l} \sigma_{p,l}^{-2})

The top site has no conditional prior to merge with: its posterior is the message itself.
"""

from __future__ import annotations

__all__ = ["LadderGuide"]

from typing import Any

import pyro.distributions as dist
from torch import Tensor

from guides.pyro.mean_field import MeanFieldGuide
from ppl_vae.pyro.guide import Site, check_normal


class LadderGuide(MeanFieldGuide):
    """Precision-weighted merge of the image's message with the prior, at each site below the top.

    Arguments as of `MeanFieldGuide`; priors must be Normal, but for the top one.
    """

    def posterior(self, site: Site, features: dict[str, tuple[Tensor, Tensor]]) -> Any:
        """Normal (n, *event_shape): the message times the prior; on top the message alone."""
        if site.name == self.order[-1]:
            return super().posterior(site, features)
        check_normal(self, site)
        loc, variance = features[site.name]
        precision = 1 / variance
        prior_precision = site.prior.scale**-2
        merged = 1 / (precision + prior_precision)
        mean = merged * (loc * precision + site.prior.loc * prior_precision)
        return dist.Normal(mean, merged.sqrt())
