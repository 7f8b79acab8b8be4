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

import torch
from torch import Tensor, nn

from ppl_vae import spectral
from ppl_vae.errors import UsageError
from ppl_vae.pyro.asking import batch_norms
from ppl_vae.settings import ObjectiveSettings

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
        vectors: {"u.RxC" | "v.RxC": (k, R) | (k, C)}: state that goes into checkpoints.

    Raises:
        UsageError: a penalty is asked for, and there is nothing that it holds for.
    """

    def __init__(
        self, model: Any, guide: Any, settings: ObjectiveSettings, full_weight: float, seed: int
    ) -> None:
        self.settings, self.full_weight = settings, full_weight
        self.layers: dict[str, Any] = {}
        self.gains: list[Tensor] = []
        self.vectors: dict[str, Tensor] = {}
        if settings.spectral_weight:
            self.layers = weighted(model, guide, settings.spectral_layers)
            if not self.layers:
                raise UsageError(
                    "objective.spectral_weight: neither model nor guide has a convolution: set "
                    "objective.spectral_layers to all for linear layers, or the weight to 0"
                )
            with torch.no_grad():
                shapes = {name: _matrix(layer).shape for name, layer in self.layers.items()}
            self.groups = spectral.groups(
                {name: (int(a), int(b)) for name, (a, b) in shapes.items()}
            )
            like = next(iter(self.layers.values())).weight
            for name, vector in spectral.initial(self.groups, seed).items():
                self.vectors[name] = torch.as_tensor(vector, dtype=like.dtype, device=like.device)
            self._spectral(spectral.FIRST - spectral.STEPS)
        if settings.batch_norm_weight:
            self.gains = [norm.weight for norm in batch_norms(model, guide) if norm.affine]
            if not self.gains:
                raise UsageError(NO_NORMS)

    def __call__(self, kl_weight: float | Tensor) -> Tensor:
        """What is added to the loss, with gradients; the vectors move on."""
        share = kl_weight / self.full_weight if self.full_weight else 1.0
        total: Any = 0.0
        if self.layers:
            weight = self.settings.annealed(self.settings.spectral_weight, share)
            total = total + weight * self._spectral(spectral.STEPS)
        if self.gains:
            weight = self.settings.annealed(self.settings.batch_norm_weight, share)
            total = total + weight * sum(gain.abs().max() for gain in self.gains)
        return total

    def _spectral(self, iterations: int) -> Tensor:
        total: Any = 0.0
        for (rows, columns), names in self.groups.items():
            of = f"{rows}x{columns}"
            w = torch.stack([_matrix(self.layers[name]) for name in names])
            u, v = power_iterations(
                w.detach(), self.vectors[f"u.{of}"], self.vectors[f"v.{of}"], iterations
            )
            self.vectors[f"u.{of}"].copy_(u)  # in place: a recorded step knows them by address
            self.vectors[f"v.{of}"].copy_(v)
            total = total + torch.einsum("kr,krc,kc->", u, w, v)
        return total


@torch.no_grad()
def power_iterations(w: Tensor, u: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """(u, v) after so many iterations on weights (k, R, C), from u (k, R) and v (k, C)."""
    for _ in range(iterations):
        v = _unit(torch.einsum("krc,kr->kc", w, u))
        u = _unit(torch.einsum("krc,kc->kr", w, v))
    return u, v


def singular_values(model: Any, guide: Any, layers: str = "all") -> dict[str, float]:
    """{layer: largest singular value of its weight}, exact: how sharp a pair is."""
    with torch.no_grad():
        return {
            name: float(torch.linalg.matrix_norm(_matrix(layer), 2))
            for name, layer in weighted(model, guide, layers).items()
        }


def weighted(model: Any, guide: Any, layers: str) -> dict[str, Any]:
    """{name: layer} of the convolutions, and linear layers with "all", of the pair's modules.

    A layer whose weight is made from parameters gives it as `effective_weight()`, (outputs, …).
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return {
        f"{prefix}.{name}": layer
        for prefix, module in (("model", model), ("guide", guide))
        if isinstance(module, nn.Module)
        for name, layer in module.named_modules()
        if isinstance(layer, kinds) or hasattr(layer, "effective_weight")
        if layers == "all" or _weight(layer).dim() > 2
    }


def _weight(layer: Any) -> Tensor:
    made = getattr(layer, "effective_weight", None)
    weight: Tensor = layer.weight if made is None else made()
    return weight


def _matrix(layer: Any) -> Tensor:
    """(outputs, the rest)."""
    return _weight(layer).flatten(1)


def _unit(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=spectral.EPS)
