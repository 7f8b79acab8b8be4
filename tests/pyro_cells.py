"""NVAE's parts in Pyro as tests take them; `numpyro_cells` has the same names."""

from __future__ import annotations

__all__ = ["clamped", "conv", "flow", "forward", "jacobian", "last_log_norm", "seen"]

from typing import Any

import numpy as np
import torch
from torch.distributions import kl_divergence

from models.pyro import NVAE
from ppl_vae.pyro import state
from ppl_vae.pyro.clamped import ClampedNormal
from ppl_vae.pyro.flows import AutoregressiveShift
from ppl_vae.pyro.nets.masked import ShiftNet
from ppl_vae.pyro.nets.weight_norm import WeightNormConv


def shift(width: int, reverse: bool) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ShiftNet(width, reverse).double()


def jacobian(z: Any, reverse: bool) -> Any:
    """(D, D) of one map's shift."""
    net = shift(z.shape[0], reverse)
    found = torch.autograd.functional.jacobian(lambda z: net(z[None])[0], torch.as_tensor(z))
    return found.numpy().reshape(z.size, z.size)


def flow(z: Any) -> tuple[Any, Any, Any]:
    """(y, log determinant, z from y alone) of maps z through a cell in raster order."""
    cell = AutoregressiveShift(shift(z.shape[1], False))
    with torch.no_grad():
        start = torch.as_tensor(z)
        y = cell(start)
        log_det = cell.log_abs_det_jacobian(start, y)
        back = cell.inv(y.clone())
    return y.numpy(), log_det.numpy(), back.numpy()


def forward(z: Any) -> Any:
    """(D, D): Jacobian of a cell in raster order, of one map."""
    cell = AutoregressiveShift(shift(z.shape[0], False))
    found = torch.autograd.functional.jacobian(lambda z: cell(z[None])[0], torch.as_tensor(z))
    return found.numpy().reshape(z.size, z.size)


def conv(num_inputs: int, num_outputs: int, size: int, seed: int) -> tuple[dict[str, Any], Any]:
    """(parameters by name, effective weight) of a fresh weight-normed convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = WeightNormConv(num_inputs, num_outputs, size)
    found = {name.removeprefix("model."): value for name, value in state(layer, None).items()}
    return found, layer.effective_weight().detach().numpy()


def last_log_norm(width: int) -> tuple[Any, Any]:
    """(log_weight_norm, masked weight) of the last convolution of a fresh autoregressive cell."""
    layer: Any = shift(width, False).convs[-1]
    return layer.log_weight_norm.detach().numpy(), layer.direction().detach().numpy()


def clamped(raw_loc: Any, raw_scale: Any) -> tuple[Any, Any, Any]:
    """(loc, scale, divergence from the one at zero)."""
    fn = ClampedNormal(torch.as_tensor(raw_loc), torch.as_tensor(raw_scale))
    zero = torch.zeros(1, dtype=torch.float64)
    kl = kl_divergence(fn, ClampedNormal(zero, zero))
    return fn.loc.numpy(), fn.scale.numpy(), kl.numpy()


def seen(x: Any, num_levels: int) -> Any:
    """Images at the levels that a program of so many is about."""
    sizes = {"scales": 1, "groups": 1, "channels": 2, "blocks": 1, "block_cells": 1}
    model = NVAE((3, 2, 2), likelihood="normal", num_levels=num_levels, **sizes)
    return np.asarray(model.seen(torch.as_tensor(x)))
