"""Convolutions of each channel by itself."""

from __future__ import annotations

__all__ = ["DepthwiseConv", "depthwise"]

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from ppl_vae.numpyro.nets.convolution import on_cpu
from ppl_vae.numpyro.nets.initial import uniform


class DepthwiseConv(nnx.Module):
    """Square depthwise convolution of maps (n, height, width, c) that keeps the sides, no bias.

    Args:
        width: channels.
        size: side of the kernel, odd.
        rngs: for the initial weights, in torch's layout and as torch's begin.
    """

    def __init__(self, width: int, size: int, *, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(uniform(size**2)(rngs.params(), (width, 1, size, size)))

    def effective_weight(self) -> Array:
        """(width, 1, size, size)."""
        return self.weight[...]

    def __call__(self, x: Array) -> Array:
        return depthwise(x, self.effective_weight())


def depthwise(x: Array, w: Array) -> Array:
    """Maps (n, height, width, c) under weights (c, 1, size, size), with the same sides.

    On the CPU as a sum of shifted maps: XLA's convolution by groups takes many times as long there.
    """
    dtype = jnp.result_type(x, w)
    if on_cpu():
        return _shifted_sum(x.astype(dtype), w.astype(dtype))
    pad = w.shape[-1] // 2
    return lax.conv_general_dilated(
        x.astype(dtype),
        w.astype(dtype),
        (1, 1),
        [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@jax.custom_vjp
def _shifted_sum(x: Array, w: Array) -> Array:
    """Σ_rc w_rc x shifted by (r, c): what XLA makes one pass over the map of."""
    size = w.shape[-1]
    height, width = x.shape[1:3]
    padded = _padded(x, size)
    shifted = (
        padded[:, row : row + height, column : column + width] * w[:, 0, row, column]
        for row in range(size)
        for column in range(size)
    )
    total: Array = sum(shifted, jnp.zeros((), x.dtype))
    return total


def _shifted_sum_forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return _shifted_sum(x, w), (x, w)


def _shifted_sum_backward(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    """The map's slope is a shifted sum again, under the kernel turned round; autodiff's is not.

    Derived by JAX it would be a sum of padded maps, each written out: 2.5 times the time.
    """
    x, w = kept
    size = w.shape[-1]
    padded = _padded(x, size)

    def by_weight(tap: Array) -> Array:
        shifted = lax.dynamic_slice(padded, (0, tap // size, tap % size, 0), x.shape)
        return (shifted * slope).sum((0, 1, 2))

    by_tap = lax.map(by_weight, jnp.arange(size**2))
    return _shifted_sum(slope, w[:, :, ::-1, ::-1]), by_tap.T.reshape(w.shape)


_shifted_sum.defvjp(_shifted_sum_forward, _shifted_sum_backward)


def _padded(x: Array, size: int) -> Array:
    return jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
