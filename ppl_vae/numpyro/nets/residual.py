r"""NVAE's residual cells (Vahdat & Kautz 2020, section 3.1.1 and figure 3).

.. math:: y = \mathrm{skip}(x) + 0.1\; \mathrm{SE}(f(x))

Batch norm comes before its activation, Swish, and the convolution after both. In training some of
the biases stand before batch norm and do nothing; the authors' weights have them. Maps have their
channels last here: (n, height, width, c).
"""

from __future__ import annotations

__all__ = [
    "InvertedCell", "ResidualCell", "SkipDown", "SkipUp", "SqueezeExcite", "channels_first",
    "channels_last", "through",
]  # fmt: skip

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ppl_vae.numpyro.nets.batch_norm import BatchNorm
from ppl_vae.numpyro.nets.conv import upsampled
from ppl_vae.numpyro.nets.convolution import conv_general_dilated
from ppl_vae.numpyro.nets.depthwise import DepthwiseConv
from ppl_vae.numpyro.nets.initial import uniform
from ppl_vae.numpyro.nets.weight_norm import WeightNormConv

RESIDUAL = 0.1  # weight of a cell's own part
OFFSETS = ((0, 0), (1, 1), (0, 1), (1, 0))  # (row, column) of the pixels that a halving looks at


class ResidualCell(nnx.Module):
    """[batch norm, Swish, 3 × 3 convolution] twice: the cell of NVAE's encoder.

    Args:
        width: channels of the input.
        down: halve the sides and double the channels.
        squeeze_excite: gate the channels.
        rngs: for the initial weights.
    """

    def __init__(
        self, width: int, down: bool = False, squeeze_excite: bool = True, *, rngs: nnx.Rngs
    ) -> None:
        out = self.out_features = 2 * width if down else width
        self.norms = nnx.List([batch_norm(w, rngs=rngs) for w in (width, out)])
        self.convs = nnx.List(
            [
                WeightNormConv(width, out, 3, stride=2 if down else 1, rngs=rngs),
                WeightNormConv(out, out, 3, rngs=rngs),
            ]
        )
        self.skip = SkipDown(width, out, rngs=rngs) if down else None
        self.gate = SqueezeExcite(out, rngs=rngs) if squeeze_excite else None

    def __call__(self, x: Array) -> Array:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(jax.nn.silu(norm(h)))
        return joined(x, h, self.skip, self.gate)


class InvertedCell(nnx.Module):
    """A wide inside of depthwise 5 × 5 convolutions: the cell of NVAE's decoder.

    Batch norm, 1 × 1 to expansion · width, batch norm, Swish, depthwise 5 × 5, batch norm, Swish,
    1 × 1 to the output, batch norm. These convolutions have neither bias nor weight norm.

    Args:
        width: channels of the input.
        up: double the sides (nearest) and halve the channels.
        expansion: of the channels inside; 6 in the decoder, 3 behind it.
        squeeze_excite: gate the channels.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        width: int,
        up: bool = False,
        expansion: int = 6,
        squeeze_excite: bool = True,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        out = self.out_features = width // 2 if up else width
        inner = expansion * width
        self.norms = nnx.List([batch_norm(w, rngs=rngs) for w in (width, inner, inner, out)])
        self.convs = nnx.List(
            [
                plain(width, inner, rngs=rngs),
                DepthwiseConv(inner, 5, rngs=rngs),
                plain(inner, out, rngs=rngs),
            ]
        )
        self.skip = SkipUp(width, out, rngs=rngs) if up else None
        self.gate = SqueezeExcite(out, rngs=rngs) if squeeze_excite else None

    def __call__(self, x: Array) -> Array:
        h = x if self.skip is None else upsampled(x, (2 * x.shape[1], 2 * x.shape[2]))
        h = self.convs[0](self.norms[0](h))
        for norm, conv in zip(self.norms[1:-1], self.convs[1:], strict=True):
            h = conv(jax.nn.silu(norm(h)))
        return joined(x, self.norms[-1](h), self.skip, self.gate)


class SqueezeExcite(nnx.Module):
    """Channels scaled by gates in (0, 1) that see the mean of every map (Hu et al. 2018)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        hidden = max(width // 16, 4)
        self.squeeze = linear(width, hidden, rngs=rngs)
        self.excite = linear(hidden, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        hidden = jax.nn.relu(self.squeeze(x.mean((1, 2))))
        return x * jax.nn.sigmoid(self.excite(hidden))[:, None, None]


class SkipDown(nnx.Module):
    """Halved sides by four 1 × 1 convolutions, each of one pixel in four, side by side."""

    def __init__(self, num_inputs: int, num_outputs: int, *, rngs: nnx.Rngs) -> None:
        quarter = num_outputs // 4
        widths = (quarter, quarter, quarter, num_outputs - 3 * quarter)
        self.convs = nnx.List([WeightNormConv(num_inputs, w, 1, rngs=rngs) for w in widths])

    def __call__(self, x: Array) -> Array:
        x = jax.nn.silu(x)
        parts = [
            conv(x[:, row::2, column::2])
            for conv, (row, column) in zip(self.convs, OFFSETS, strict=True)
        ]
        return jnp.concatenate(parts, -1)


class SkipUp(nnx.Module):
    """Doubled sides: bilinear, corner pixels on corner pixels, then a 1 × 1 convolution."""

    def __init__(self, num_inputs: int, num_outputs: int, *, rngs: nnx.Rngs) -> None:
        self.conv = WeightNormConv(num_inputs, num_outputs, 1, bias=False, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        rows, columns = (_bilinear(side).astype(x.dtype) for side in x.shape[1:3])
        return self.conv(jnp.einsum("oh,pw,nhwc->nopc", rows, columns, x))


def _bilinear(side: int) -> np.ndarray:
    """(2 · side, side): weights of linear interpolation between corner-aligned pixels."""
    at = np.linspace(0, side - 1, 2 * side)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(side)), 0)


def batch_norm(width: int, *, rngs: nnx.Rngs) -> BatchNorm:
    """Batch norm whose running statistics take 5 % of each batch."""
    return BatchNorm(width, momentum=0.95, rngs=rngs)


def plain(num_inputs: int, num_outputs: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    """1 × 1 convolution without bias, weights as torch's begin."""
    init = uniform(num_inputs)
    return nnx.Conv(
        num_inputs,
        num_outputs,
        (1, 1),
        use_bias=False,
        kernel_init=init,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def linear(num_inputs: int, num_outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Linear layer, weights and bias as torch's begin."""
    init = uniform(num_inputs)
    return nnx.Linear(num_inputs, num_outputs, kernel_init=init, bias_init=init, rngs=rngs)


def joined(x: Array, h: Array, skip: Any, gate: Any) -> Array:
    """A cell's input, by its skip, and what it adds to it."""
    h = h if gate is None else gate(h)
    result: Array = (x if skip is None else skip(x)) + RESIDUAL * h
    return result


def through(cells: Iterable[Any], h: Array) -> Array:
    """Maps after all the cells."""
    for cell in cells:
        h = cell(h)
    return h


def channels_first(h: Array) -> Array:
    """(n, height, width, c) as (n, c, height, width)."""
    return h.transpose(0, 3, 1, 2)


def channels_last(h: Array) -> Array:
    """(n, c, height, width) as (n, height, width, c)."""
    return h.transpose(0, 2, 3, 1)
