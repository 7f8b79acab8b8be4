r"""Convolutions whose slopes are fast wherever the program runs them, inside a `lax.scan` too.

XLA's compiler for the CPU turns a convolution into the layout that its fast kernels want (channels
last, weights (rows, columns, in, out)) only at a program's top level. An epoch is one `scan`, and
there the slopes that JAX derives, convolutions in other layouts, run through plain loops: 20 to 40
times the time of a training step. Here the map's slope is written as a convolution in that layout.

The weights' slope as a convolution has whole maps for kernels, channels for images and images for
channels, which is fast for few and small maps alone. Of others it is a matrix product, for a few
images at a time, so that what their taps see, side by side, stays in a core's cache. With the
output's slope :math:`g`, stride s and the padded map x,

.. math:: \nabla_x = g_{\uparrow s} * w^{\text{turned}}, \qquad
          (\nabla_w)_{ab} = \sum_{n, i, j} x_{n, s i + a, s j + b} \; g_{n, i, j}^\top
"""

from __future__ import annotations

__all__ = ["conv", "conv_general_dilated", "on_cpu"]

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
PIXELS = 1024  # that one product goes over, at least, if there are as many
FEW = 16_000  # of all images: so few go through XLA's convolution faster than in products
Pads = tuple[tuple[int, int], ...]  # before and after, of rows and of columns


def conv(x: Array, w: Array, stride: int, pad: int) -> Array:
    """Maps (n, height, width, c) under weights in torch's layout, (out, in, rows, columns)."""
    dtype = jnp.result_type(x, w)
    w = w.astype(dtype).transpose(2, 3, 1, 0)
    return conv_general_dilated(x.astype(dtype), w, (stride, stride), ((pad, pad),) * 2)


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = LAYOUT,
    feature_group_count: int = 1,
    **settings: Any,
) -> Array:
    """`lax.conv_general_dilated`, to be given to `nnx.Conv` under that name.

    Two-dimensional convolutions of maps with channels last on the CPU take the slopes above, which
    have no forward mode (`jax.jvp`); all else is lax's own.
    """
    dilated = {*(lhs_dilation or ()), *(rhs_dilation or ())} - {1}
    special = dilated or feature_group_count != 1 or any(v is not None for v in settings.values())
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    ours = lhs.ndim == 4 and numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, LAYOUT)
    if special or not ours or not on_cpu():
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            **settings,
        )
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    return _convolved(lhs, rhs, strides, tuple((before, after) for before, after in padding))


def on_cpu() -> bool:
    """Whether what is traced now is for a CPU: the default device's, where one is set."""
    config: Any = jax.config  # whose fields of contexts mypy does not know
    device = config.jax_default_device
    return (getattr(device, "platform", device) or jax.default_backend()) == "cpu"


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolved(x: Array, w: Array, strides: tuple[int, ...], pads: Pads) -> Array:
    return _plain(x, w, strides, pads)


def _forward(x: Array, w: Array, strides: tuple[int, ...], pads: Pads) -> Any:
    return _plain(x, w, strides, pads), (x, w)


def _backward(
    strides: tuple[int, ...], pads: Pads, kept: tuple[Array, Array], slope: Array
) -> tuple[Array, Array]:
    x, w = kept
    of_x = []
    for side, out, size, stride, (before, _) in zip(
        x.shape[1:3], slope.shape[1:3], w.shape[:2], strides, pads, strict=True
    ):
        spread = (out - 1) * stride + 1  # the slope's side, its entries a stride apart
        of_x.append((size - 1 - before, side + before - spread))
    turned = w[::-1, ::-1].swapaxes(2, 3)
    by_x = _plain(slope, turned, (1, 1), tuple(of_x), lhs_dilation=strides)
    return by_x, _by_weights(x, slope, w, strides, pads)


def _by_weights(x: Array, slope: Array, w: Array, strides: tuple[int, ...], pads: Pads) -> Array:
    """The weights' slope, shaped as w: summed in float32 at least, whatever the dtype."""
    *kernel, num_inputs, num_outputs = w.shape
    n, *out, _ = slope.shape
    if not slope.size:
        return jnp.zeros_like(w)
    if n * math.prod(out) < FEW and math.prod(kernel) > 1:
        return _by_maps(x, slope, w, strides, pads)
    several = jax.device_count() > 1  # which have images each, and share out one product
    each = n if several else min(n, math.ceil(PIXELS / math.prod(out)))
    count = math.ceil(n / each)
    more = (0, count * each - n, 0)  # images without a slope, so that all groups are of a size
    sides = ((before, after, 0) for before, after in pads)
    x = lax.pad(x, jnp.zeros((), x.dtype), [more, *sides, (0, 0, 0)])
    slope = lax.pad(slope, jnp.zeros((), slope.dtype), [more, *[(0, 0, 0)] * 3])
    spans = [(side - 1) * stride + 1 for side, stride in zip(out, strides, strict=True)]
    dtype = jnp.promote_types(w.dtype, jnp.float32)

    def of_group(x: Array, slope: Array) -> Array:
        """(out, taps · in), of some images."""
        seen = [
            x[:, row : row + spans[0] : strides[0], column : column + spans[1] : strides[1]]
            for row in range(kernel[0])
            for column in range(kernel[1])
        ]
        patches = jnp.concatenate(seen, -1).reshape(-1, len(seen) * num_inputs)
        return jnp.matmul(slope.reshape(-1, num_outputs).T, patches, preferred_element_type=dtype)

    groups = [part.reshape(count, each, *part.shape[1:]) for part in (x, slope)]
    if count == 1 or math.prod(kernel) == 1:  # nothing to keep small
        total = jax.vmap(of_group)(*groups).sum(0)
    else:
        nothing = jnp.zeros((num_outputs, math.prod(kernel) * num_inputs), dtype)
        total, _ = lax.scan(lambda sum, group: (sum + of_group(*group), None), nothing, groups)
    return total.T.reshape(w.shape).astype(w.dtype)


def _by_maps(x: Array, slope: Array, w: Array, strides: tuple[int, ...], pads: Pads) -> Array:
    """The weights' slope as a convolution of maps by maps."""
    around = []
    for side, out, size, stride, (before, _) in zip(
        x.shape[1:3], slope.shape[1:3], w.shape[:2], strides, pads, strict=True
    ):
        spread = (out - 1) * stride + 1
        around.append((before, spread + size - 1 - side - before))
    found = _plain(
        x.transpose(3, 1, 2, 0),
        slope.transpose(1, 2, 0, 3),
        (1, 1),
        tuple(around),
        rhs_dilation=strides,
        preferred_element_type=jnp.promote_types(w.dtype, jnp.float32),
    )
    return found.transpose(1, 2, 0, 3).astype(w.dtype)


_convolved.defvjp(_forward, _backward)


def _plain(x: Array, w: Array, strides: tuple[int, ...], pads: Pads, **more: Any) -> Array:
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=LAYOUT, **more)
