r"""The nearest code as posterior (van den Oord et al. 2017, VQ-VAE, section 3).

.. math:: q(z = e_k | x) = 1 \text{ for } k = \arg\min_j |z_e(x) - e_j|^2

trained by the three parts of their equation 3, the last two of which are the guide's factors:

.. math:: \log p(x | z_e + \mathrm{stop}(e - z_e)) - |\mathrm{stop}(z_e) - e|^2
          - \beta\, |z_e - \mathrm{stop}(e)|^2
"""

from __future__ import annotations

__all__ = ["VectorQuantizerGuide", "check_commitment", "quantised"]

from collections.abc import Callable, Sequence
from typing import Any

import numpyro
from flax import nnx
from jax import Array, lax

from ppl_vae.architecture import Architecture
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.codes import NearestCode
from ppl_vae.numpyro.guide import Guide, Site, data_shape
from ppl_vae.numpyro.nets.code_maps import CodeEncoder


class VectorQuantizerGuide(Guide):
    """A convolutional encoder to a map of vectors, each put to the nearest of the model's codes.

    Squared distances are summed over the map, nats as the image's likelihood is (the paper's code
    averages both). They count in training alone: a bound has none of them.

    Args:
        model: with one latent map and a `codebook`, such as `VQVAE`.
        commitment: β; 0.25 is the paper's.
        hidden, blocks, activation, batch_norm: None takes the model's own.
        name: of the guide's parameters among the program's sites.
        rngs: for the initial weights.

    Raises:
        UsageError: a model without a codebook.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        commitment: float = 0.25,
        hidden: Sequence[int] | None = None,
        blocks: int | None = None,
        activation: str | None = None,
        batch_norm: bool | None = None,
        *,
        rngs: nnx.Rngs,
        name: str = "guide",
    ) -> None:
        super().__init__(model, name=name)
        if getattr(model, "codebook", None) is None or len(self.sites) != 1:
            raise UsageError(
                f"{type(self).__name__}: expected a model of one latent map with a codebook, came "
                f"{type(model).__name__}: take VQVAE, or another guide"
            )
        self.commitment = check_commitment(commitment)
        changes = {"hidden": hidden, "activation": activation, "batch_norm": batch_norm}
        sizes = Architecture.of(model, 1, **changes)
        (event_shape,) = self.sites.values()
        self.encoder = CodeEncoder(
            data_shape(model),
            sizes.hidden,
            event_shape[0],
            getattr(model, "blocks", 0) if blocks is None else blocks,
            sizes.activation,
            sizes.batch_norm,
            rngs=rngs,
        )
        if self.encoder.out_shape != tuple(event_shape):
            raise UsageError(
                f"hidden: expected widths that bring images to maps of {tuple(event_shape[1:])}, "
                f"came {sizes.hidden}, which bring them to {self.encoder.out_shape[1:]}: "
                "give as many as the model has"
            )

    def encode(self, x: Array) -> Array:
        """(n, d, h', w'): z_e."""
        found: Array = self.encoder(x)
        return found

    def posterior(self, site: Site, features: Array) -> NearestCode:
        """The nearest codes, (n, d, h, w); in training their codebook learns, with penalties."""
        codebook = site.context
        return quantised(site.name, codebook, codebook.bound(features), self.commitment)


def quantised(name: str, codebook: Any, z: Array, commitment: float) -> NearestCode:
    """The codes nearest to z (n, d, h, w); in training their codebook learns, with penalties."""
    if not codebook.is_learning:
        return NearestCode(z, codebook.vectors)
    codebook.start(z)
    posterior = NearestCode(z, codebook.vectors)
    codebook.learn(z, posterior.indices)
    _penalise(f"{name}_commitment", commitment * _squared(z, posterior.loc))
    if codebook.by_gradient:
        _penalise(f"{name}_codebook", _squared(lax.stop_gradient(z), posterior.code))
    return posterior


def check_commitment(commitment: float) -> float:
    """β; UsageError below 0."""
    if commitment < 0:
        raise UsageError(f"commitment: expected at least 0, came {commitment}")
    return commitment


def _penalise(name: str, penalty: Array) -> None:
    numpyro.factor(name, penalty)


def _squared(a: Array, b: Array) -> Array:
    """(n,): squared distance of maps (n, d, h, w)."""
    return ((a - b) ** 2).sum((-3, -2, -1))
