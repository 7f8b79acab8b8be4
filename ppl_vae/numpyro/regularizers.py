r"""Penalties that keep a deep VAE smooth (Vahdat & Kautz 2020, section 3.2, eq. 5).

.. math::
    \lambda \sum_i \sigma_{max}(W_i) + \lambda_{BN} \sum_j \max_c |\gamma_{jc}|

The largest singular value of each weight, as a matrix (outputs, the rest), is u^T W v after a few
power iterations from the vectors of the step before (Yoshida & Miyato 2017). u and v have length
one at most, so it is never above the true value. Weights of one shape share one batched product.
"""

from __future__ import annotations

__all__ = ["Penalty", "power_iterations", "singular_values"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from ppl_vae import spectral
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.asking import batch_norms
from ppl_vae.settings import ObjectiveSettings

Vectors = dict[str, Array]

EXACT = lax.Precision.HIGHEST  # also where training rounds products to bfloat16

NO_NORMS = (
    "objective.batch_norm_weight: neither model nor guide has batch norm with a scale: "
    "build them with batch_norm=True, or set the weight to 0"
)


class Penalty:
    """The penalties of a model and a guide, at each step.

    Args:
        model, guide: modules; what is not one has no penalty.
        settings: which weights, and how much.
        full_weight: of the divergences when warm-up is over.
        seed: of the first vectors.

    Attributes:
        vectors: {"u.RxC" | "v.RxC": (k, R) | (k, C)}, those of the first step: state that goes
            from step to step and into checkpoints.

    Raises:
        UsageError: a penalty is asked for, and there is nothing that it holds for.
    """

    def __init__(
        self, model: Any, guide: Any, settings: ObjectiveSettings, full_weight: float, seed: int
    ) -> None:
        self.settings, self.full_weight = settings, full_weight
        self.vectors: Vectors = {}
        if settings.spectral_weight:
            matrices = _matrices(model, guide, settings.spectral_layers)
            if not matrices:
                raise UsageError(
                    "objective.spectral_weight: neither model nor guide has a convolution: set "
                    "objective.spectral_layers to all for linear layers, or the weight to 0"
                )
            self.groups = spectral.groups(
                {name: (len(w), w.size // len(w)) for name, w in matrices.items()}
            )
            dtype = next(iter(matrices.values())).dtype
            drawn = spectral.initial(self.groups, seed)
            first = {name: jnp.asarray(vector, dtype) for name, vector in drawn.items()}
            iterations = spectral.FIRST - spectral.STEPS
            begin = jax.jit(lambda w, vectors: self._spectral(w, vectors, iterations)[1])
            self.vectors = begin(matrices, first)
        if settings.batch_norm_weight and not _gains(model, guide):
            raise UsageError(NO_NORMS)

    def __call__(
        self, model: Any, guide: Any, vectors: Vectors, kl_weight: Any
    ) -> tuple[Array, Vectors]:
        """(what is added to the loss, the vectors moved on) for modules with present weights."""
        share = kl_weight / self.full_weight if self.full_weight else 1.0
        settings, total = self.settings, jnp.zeros(())
        if settings.spectral_weight:
            matrices = _matrices(model, guide, settings.spectral_layers)
            norms, vectors = self._spectral(matrices, vectors, spectral.STEPS)
            total = total + settings.annealed(settings.spectral_weight, share) * norms
        if settings.batch_norm_weight:
            gains = sum(jnp.abs(gain).max() for gain in _gains(model, guide))
            total = total + settings.annealed(settings.batch_norm_weight, share) * gains
        return total, vectors

    def _spectral(
        self, matrices: dict[str, Array], vectors: Vectors, iterations: int
    ) -> tuple[Array, Vectors]:
        total, moved = jnp.zeros(()), dict(vectors)
        for (rows, columns), names in self.groups.items():
            of = f"{rows}x{columns}"
            w = jnp.stack([matrices[name] for name in names])
            u, v = power_iterations(w, vectors[f"u.{of}"], vectors[f"v.{of}"], iterations)
            moved |= {f"u.{of}": u, f"v.{of}": v}
            total = total + jnp.einsum("kr,krc,kc->", u, w, v, precision=EXACT)
        return total, moved


def power_iterations(w: Array, u: Array, v: Array, iterations: int) -> tuple[Array, Array]:
    """(u, v) after so many iterations on weights (k, R, C), from u (k, R) and v (k, C)."""
    w = lax.stop_gradient(w)

    def once(_: Any, vectors: tuple[Array, Array]) -> tuple[Array, Array]:
        v = _unit(jnp.einsum("krc,kr->kc", w, vectors[0], precision=EXACT))
        return _unit(jnp.einsum("krc,kc->kr", w, v, precision=EXACT)), v

    u, v = lax.fori_loop(0, iterations, once, (u, v))
    return lax.stop_gradient(u), lax.stop_gradient(v)


def singular_values(model: Any, guide: Any, layers: str = "all") -> dict[str, float]:
    """{layer: largest singular value of its weight}, exact: how sharp a pair is."""
    return {
        name: float(np.linalg.norm(np.asarray(w), 2))
        for name, w in _matrices(model, guide, layers).items()
    }


def _matrices(model: Any, guide: Any, layers: str) -> dict[str, Array]:
    """{name: (outputs, the rest)} of convolutions, and linear layers with "all", in torch's layout.

    A layer whose weight is made from parameters gives it as `effective_weight()`, (outputs, …).
    """
    found = {}
    for prefix, module in (("model", model), ("guide", guide)):
        if not isinstance(module, nnx.Module):
            continue
        for path, layer in nnx.iter_graph(module):
            name = ".".join([prefix, *map(str, path)])
            if hasattr(layer, "effective_weight"):
                weight = layer.effective_weight()
            elif isinstance(layer, nnx.Linear | nnx.Conv):
                kernel = layer.kernel[...]
                last = kernel.ndim - 1
                weight = kernel.transpose(last, last - 1, *range(last - 1))
            else:
                continue
            if layers == "all" or weight.ndim > 2:
                found[name] = weight.reshape(len(weight), -1)
    return found


def _gains(model: Any, guide: Any) -> list[Array]:
    return [norm.scale[...] for norm in batch_norms(model, guide) if norm.scale is not None]


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), spectral.EPS)
