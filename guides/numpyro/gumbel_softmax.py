r"""Codes by chance, trained through a relaxation (Jang et al. 2017; Maddison et al. 2017).

.. math:: q(z = e_k | x) = \mathrm{softmax}_k(-|z_e(x) - e_k|^2)

In training the value is a mixture of the codes' vectors, by Gumbel noise at a temperature; its
divergence is that of the hard codes, so the objective is no bound. Evaluation draws hard codes.
"""

from __future__ import annotations

__all__ = ["GumbelSoftmaxGuide"]

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from guides.numpyro.vector_quantizer import VectorQuantizerGuide
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.codes import Codes, RelaxedCodes
from ppl_vae.numpyro.guide import Site
from ppl_vae.numpyro.nets.modes import Moded


class GumbelSoftmaxGuide(VectorQuantizerGuide):
    """The quantiser's encoder, and a distribution over all codes by their distances.

    The codebook learns through the relaxed value, by gradient (`update: gradient`) or not at all
    (`levels`); there are no penalties.

    Args:
        model: with one latent map and a `codebook`, such as `VQVAE`.
        temperature: of the relaxation, above 0; towards 0 it is hard.
        **sizes: as of `VectorQuantizerGuide`.

    Raises:
        UsageError: a codebook of moving averages, which needs one code a position.
    """

    def __init__(self, model: Callable[..., Any], temperature: float = 0.5, **sizes: Any) -> None:
        super().__init__(model, **sizes)
        if not temperature > 0:
            raise UsageError(f"temperature: expected above 0, came {temperature}")
        if hasattr(getattr(model, "codebook", None), "running_sums"):
            raise UsageError(
                "GumbelSoftmaxGuide: expected a codebook that learns by gradient, came one of "
                "moving averages: set model.init_args.update to gradient"
            )
        self.temperature = temperature
        self.mode = Moded()

    def posterior(self, site: Site, features: Array) -> RelaxedCodes:
        """Codes by their distances, maps (n, d, h, w): relaxed in training, else hard.

        Raises:
            UsageError: in training, a prior over hard codes alone.
        """
        codebook = site.context
        z = codebook.bound(features)
        is_learning = not self.mode.use_running_average
        if is_learning and not isinstance(site.prior, Codes):
            raise UsageError(
                f"GumbelSoftmaxGuide: site {site.name} has a prior over hard codes alone, which "
                "relaxed ones cannot be trained under: set model.init_args.prior_layers to 0, and "
                "learn the prior afterwards (ppl-vae prior RUN)"
            )
        if codebook.is_learning:
            codebook.start(z)
        vectors = codebook.vectors
        away = ((jnp.expand_dims(z, -4) - vectors[:, :, None, None]) ** 2).sum(-3)
        posterior = RelaxedCodes(vectors, -away, self.temperature if is_learning else None)
        if codebook.is_learning:
            codebook.learn(z, posterior.indices)
        return posterior
