"""What `training.precision: bfloat16` leaves unrounded: what distributions are made of."""

from __future__ import annotations

__all__ = ["in_full"]

import torch
from torch import Tensor


def in_full(h: Tensor) -> Tensor:
    """A head's outputs in float32 where autocast has left them in bfloat16, else as they are.

    Products are rounded and the states between them too; means, deviations and logits, and so all
    draws, densities and divergences, have float32's digits.
    """
    return h.float() if h.dtype is torch.bfloat16 else h
