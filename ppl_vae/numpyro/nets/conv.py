"""Convolutional nets that halve and double an image's sides, for any size, odd ones too.

Images and features come and go as (n, channels, height, width), as in torch; convolutions run
with channels last.
"""

from __future__ import annotations

__all__ = ["ConvDecoder", "ConvEncoder", "MapDecoder", "halved"]

from collections.abc import Sequence
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ppl_vae.numpyro.nets.convolution import conv_general_dilated
from ppl_vae.numpyro.nets.initial import glorot_uniform, zeros
from ppl_vae.numpyro.nets.mlp import ACTIVATIONS, batch_norm_layer, linear


def conv(
    num_inputs: int, num_outputs: int, stride: int = 1, bias: bool = True, *, rngs: nnx.Rngs
) -> nnx.Conv:
    """3 × 3 convolution, padded by one, with uniform Glorot weights and zero bias."""
    return nnx.Conv(
        num_inputs,
        num_outputs,
        (3, 3),
        strides=stride,
        padding=1,
        use_bias=bias,
        kernel_init=glorot_uniform(),
        bias_init=zeros,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def halved(height: int, width: int, times: int) -> list[tuple[int, int]]:
    """Sides after 0 … `times` halvings, rounded up.

    >>> halved(7, 28, 2)
    [(7, 28), (4, 14), (2, 7)]
    """
    sides = [(height, width)]
    for _ in range(times):
        sides.append(((sides[-1][0] + 1) // 2, (sides[-1][1] + 1) // 2))
    return sides


def upsampled(h: Array, side: tuple[int, int]) -> Array:
    """Nearest upsampling of (n, height, width, c), as torch's "nearest": floor(i · old / new)."""
    if side[0] % h.shape[1] == 0 and side[1] % h.shape[2] == 0:  # its slope is a sum, no scatter
        return h.repeat(side[0] // h.shape[1], 1).repeat(side[1] // h.shape[2], 2)
    rows = jnp.arange(side[0]) * h.shape[1] // side[0]
    columns = jnp.arange(side[1]) * h.shape[2] // side[1]
    return h[:, rows][:, :, columns]


class ConvEncoder(nnx.Module):
    """Images (n, c, h, w) to features (n, out_features): one strided convolution a width."""

    def __init__(
        self,
        x_shape: Sequence[int],
        widths: Sequence[int],
        activation: str = "leaky_relu",
        batch_norm: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        channels = [x_shape[0], *widths]
        self.convs = nnx.List(
            [conv(a, b, stride=2, bias=not batch_norm, rngs=rngs) for a, b in pairwise(channels)]
        )
        self.norms = nnx.List(
            [batch_norm_layer(width, rngs=rngs) for width in widths if batch_norm]
        )
        self.activation = activation
        height, width = halved(x_shape[1], x_shape[2], len(widths))[-1]
        self.out_features = channels[-1] * height * width

    def __call__(self, x: Array) -> Array:
        h = x.transpose(0, 2, 3, 1)
        for i, layer in enumerate(self.convs):
            h = layer(h)
            if len(self.norms):
                h = self.norms[i](h)
            h = ACTIVATIONS[self.activation](h)
        return h.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


class ConvDecoder(nnx.Module):
    """(n, num_inputs) to (n, num_outputs, h, w): upsampling and a convolution a width."""

    def __init__(
        self,
        num_inputs: int,
        x_shape: Sequence[int],
        widths: Sequence[int],
        num_outputs: int,
        activation: str = "leaky_relu",
        batch_norm: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.sides = tuple(halved(x_shape[1], x_shape[2], len(widths))[::-1])
        self.in_shape = (widths[0], *self.sides[0])
        channels = [*widths, widths[-1]]
        num_features = widths[0] * self.sides[0][0] * self.sides[0][1]
        self.linear = linear(num_inputs, num_features, rngs=rngs)
        self.convs = nnx.List(
            [conv(a, b, bias=not batch_norm, rngs=rngs) for a, b in pairwise(channels)]
        )
        self.norms = nnx.List(
            [batch_norm_layer(width, rngs=rngs) for width in channels[1:] if batch_norm]
        )
        self.out = conv(channels[-1], num_outputs, rngs=rngs)
        self.activation = activation

    def __call__(self, z: Array) -> Array:
        activation = ACTIVATIONS[self.activation]
        h = activation(self.linear(z)).reshape(-1, *self.in_shape).transpose(0, 2, 3, 1)
        for i, layer in enumerate(self.convs):
            h = layer(upsampled(h, self.sides[i + 1]))
            if len(self.norms):
                h = self.norms[i](h)
            h = activation(h)
        return self.out(h).transpose(0, 3, 1, 2)


class MapDecoder(nnx.Module):
    """A latent map (n, *in_shape) to a map (n, *out_shape) whose sides were halved `times` times.

    A convolution, then upsampling and a convolution for each halving, `out_shape[0]` channels
    throughout.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        times: int,
        activation: str = "leaky_relu",
        batch_norm: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.sides = tuple(halved(out_shape[1], out_shape[2], times)[::-1])
        channels = [in_shape[0], *[out_shape[0]] * (times + 1)]
        self.convs = nnx.List(
            [conv(a, b, bias=not batch_norm, rngs=rngs) for a, b in pairwise(channels)]
        )
        self.norms = nnx.List(
            [batch_norm_layer(width, rngs=rngs) for width in channels[1:] if batch_norm]
        )
        self.activation = activation

    def __call__(self, z: Array) -> Array:
        h = z.transpose(0, 2, 3, 1)
        for i, layer in enumerate(self.convs):
            h = layer(upsampled(h, self.sides[i]) if i else h)
            if len(self.norms):
                h = self.norms[i](h)
            h = ACTIVATIONS[self.activation](h)
        return h.transpose(0, 3, 1, 2)
