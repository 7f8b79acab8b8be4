"""NVAE's parts in NumPyro as tests take them; `pyro_cells` has the same names."""

from __future__ import annotations

__all__ = ["clamped", "conv", "flow", "forward", "jacobian", "last_log_norm", "seen"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpyro.distributions.kl import kl_divergence
from numpyro_whole import whole

from models.numpyro import NVAE
from ppl_vae.numpyro import state
from ppl_vae.numpyro.build import as_dtype
from ppl_vae.numpyro.clamped import ClampedNormal
from ppl_vae.numpyro.flows import AutoregressiveShift
from ppl_vae.numpyro.nets.masked import ShiftNet
from ppl_vae.numpyro.nets.weight_norm import WeightNormConv


def shift(width: int, reverse: bool) -> Any:
    net = ShiftNet(width, reverse, rngs=nnx.Rngs(0))
    as_dtype(net, jnp.float64)
    return net


def jacobian(z: Any, reverse: bool) -> Any:
    """(D, D) of one map's shift."""
    net = shift(z.shape[0], reverse)
    return whole(jax.jacrev(lambda z: net(z[None])[0]))(z).reshape(z.size, z.size)


def flow(z: Any) -> tuple[Any, Any, Any]:
    """(y, log determinant, z from y alone) of maps z through a cell in raster order."""
    cell = AutoregressiveShift(shift(z.shape[1], False))

    @whole
    def run(z: Any) -> Any:
        y = cell(z)
        return y, cell.log_abs_det_jacobian(z, y), cell.inv(y)

    found: tuple[Any, Any, Any] = run(z)
    return found


def forward(z: Any) -> Any:
    """(D, D): Jacobian of a cell in raster order, of one map."""
    cell = AutoregressiveShift(shift(z.shape[0], False))
    return whole(jax.jacrev(lambda z: cell(z[None])[0]))(z).reshape(z.size, z.size)


def conv(num_inputs: int, num_outputs: int, size: int, seed: int) -> tuple[dict[str, Any], Any]:
    """(parameters by name, effective weight) of a fresh weight-normed convolution."""
    layer = WeightNormConv(num_inputs, num_outputs, size, rngs=nnx.Rngs(seed))
    found = {name.removeprefix("model."): value for name, value in state(layer, None).items()}
    return found, whole(layer.effective_weight)()


def last_log_norm(width: int) -> tuple[Any, Any]:
    """(log_weight_norm, masked weight) of the last convolution of a fresh autoregressive cell."""
    layer: Any = shift(width, False).convs[-1]
    return np.asarray(layer.log_weight_norm[...]), whole(layer.direction)()


@whole
def clamped(raw_loc: Any, raw_scale: Any) -> tuple[Any, Any, Any]:
    """(loc, scale, divergence from the one at zero)."""
    fn = ClampedNormal(raw_loc, raw_scale)
    zero = jnp.zeros(1)
    return fn.loc, fn.scale, kl_divergence(fn, ClampedNormal(zero, zero))


def seen(x: Any, num_levels: int) -> Any:
    """Images at the levels that a program of so many is about."""
    sizes = {"scales": 1, "groups": 1, "channels": 2, "blocks": 1, "block_cells": 1}
    rngs = nnx.Rngs(0)
    model = NVAE((3, 2, 2), likelihood="normal", num_levels=num_levels, **sizes, rngs=rngs)
    return np.asarray(model.seen(jnp.asarray(x)))
