"""Batch norm over the whole batch where processes share it, on every device.

torch's own SyncBatchNorm runs on CUDA alone; sums over processes run everywhere, two going forward
and two coming back. Mean first, then what is left of it: as exact as torch's batch norm of one
process.
"""

from __future__ import annotations

__all__ = ["synchronised"]

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from ppl_vae.pyro import ranks


@contextmanager
def synchronised(norms: Iterable[Any]) -> Iterator[None]:
    """Within it torch's batch norms, in training, take their statistics of all processes' rows."""
    norms = list(norms)
    for norm in norms:
        norm.forward = MethodType(_forward, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: Any, x: Tensor) -> Tensor:
    if not norm.training:
        normal: Tensor = type(norm).forward(norm, x)
        return normal
    axes, wide = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
    h = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    count = h.new_full((1,), h.numel() // h.shape[1])  # made on the device: nothing is copied
    sums = _Sum.apply(torch.cat([h.sum(axes), count]))
    number = sums[-1].detach()
    mean = sums[:-1] / number
    centred = h - mean.reshape(wide)
    var = _Sum.apply(centred.square().sum(axes)) / number
    _move_averages(norm, mean.detach(), var.detach() * number / (number - 1))
    y = centred * (var + norm.eps).rsqrt().reshape(wide)
    if norm.affine:
        y = y * norm.weight.reshape(wide) + norm.bias.reshape(wide)
    return y.to(x.dtype)


@torch.no_grad()
def _move_averages(norm: Any, mean: Tensor, var: Tensor) -> None:
    if norm.running_mean is None:
        return
    norm.num_batches_tracked += 1
    share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(var.to(norm.running_var.dtype), share)


class _Sum(torch.autograd.Function):
    """Sum over processes, whose slope is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return ranks.all_sum(value.contiguous().clone())

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return ranks.all_sum(slope.contiguous().clone())
