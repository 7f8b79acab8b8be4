r"""NVAE's Normal, both of its parameters softly clamped (Vahdat & Kautz 2020; the authors' code).

.. math:: N\left(5 \tanh(m / 5),\ \left(e^{5 \tanh(l / 5)} + 0.01\right)^2\right)
"""

from __future__ import annotations

__all__ = ["ClampedNormal"]

from collections.abc import Sequence
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor

BOUND = 5.0
MIN_SCALE = 0.01


class ClampedNormal(dist.Normal):
    """Normal of a net's raw outputs, which it keeps: NVAE's posteriors are residuals on those.

    Its divergence from another Normal is the ordinary one.

    Args:
        raw_loc: m, any real number; `loc` stays within ±5.
        raw_scale: l, any real number; `scale` stays between exp(-5) + 0.01 and exp(5) + 0.01.
    """

    def __init__(
        self, raw_loc: Tensor, raw_scale: Tensor, validate_args: bool | None = None
    ) -> None:
        self.raw_loc, self.raw_scale = torch.broadcast_tensors(raw_loc, raw_scale)
        scale = soft_clamp(raw_scale).exp() + MIN_SCALE
        super().__init__(soft_clamp(raw_loc), scale, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(ClampedNormal, _instance)
        new.raw_loc = self.raw_loc.expand(batch_shape)
        new.raw_scale = self.raw_scale.expand(batch_shape)
        expanded: Self = super().expand(batch_shape, _instance=new)
        return expanded


def soft_clamp(x: Tensor) -> Tensor:
    """5 tanh(x / 5): x near zero, never beyond ±5."""
    return BOUND * torch.tanh(x / BOUND)
