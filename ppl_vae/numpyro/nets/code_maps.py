"""Nets between images and maps of codes: strided convolutions, residual blocks, and back.

Images and maps come and go with channels first; convolutions run with channels last.
"""

from __future__ import annotations

__all__ = ["CodeDecoder", "CodeEncoder"]

from collections.abc import Sequence
from itertools import pairwise

from flax import nnx
from jax import Array

from ppl_vae.numpyro.nets.conv import MapDecoder, conv, halved
from ppl_vae.numpyro.nets.mlp import ACTIVATIONS, batch_norm_layer


class Block(nnx.Module):
    """x + g(f(x)), a 3 × 3 convolution after an activation in either."""

    def __init__(self, channels: int, activation: str, *, rngs: nnx.Rngs) -> None:
        self.first = conv(channels, channels, rngs=rngs)
        self.second = conv(channels, channels, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        activation = ACTIVATIONS[self.activation]
        found: Array = x + self.second(activation(self.first(activation(x))))
        return found


class CodeEncoder(nnx.Module):
    """Images (n, c, h, w) to maps (n, num_outputs, h', w'), the sides halved at each width.

    Args:
        x_shape: (channels, height, width).
        widths: channels of the strided convolutions, from the image on.
        num_outputs: channels of the map.
        blocks: residual blocks after them, as many channels as the last.
        activation, batch_norm: of the strided convolutions.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        widths: Sequence[int],
        num_outputs: int,
        blocks: int = 0,
        activation: str = "relu",
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
        self.blocks = nnx.List([Block(widths[-1], activation, rngs=rngs) for _ in range(blocks)])
        self.out = conv(widths[-1], num_outputs, rngs=rngs)
        self.activation = activation
        self.out_shape = (num_outputs, *halved(x_shape[1], x_shape[2], len(widths))[-1])

    def __call__(self, x: Array) -> Array:
        h = x.transpose(0, 2, 3, 1)
        for i, layer in enumerate(self.convs):
            h = layer(h)
            if len(self.norms):
                h = self.norms[i](h)
            h = ACTIVATIONS[self.activation](h)
        for block in self.blocks:
            h = block(h)
        found: Array = self.out(h).transpose(0, 3, 1, 2)
        return found


class CodeDecoder(nnx.Module):
    """Maps (n, *in_shape) to (n, num_outputs, h, w): residual blocks, then doubled sides.

    Args:
        in_shape: of a map of codes.
        x_shape: (channels, height, width) of the image.
        widths: as of the encoder; the first is the decoder's, at every size.
        num_outputs: parameters of a pixel.
        blocks, activation, batch_norm: as of the encoder.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        x_shape: Sequence[int],
        widths: Sequence[int],
        num_outputs: int,
        blocks: int = 0,
        activation: str = "relu",
        batch_norm: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stem = conv(in_shape[0], widths[-1], rngs=rngs)
        self.blocks = nnx.List([Block(widths[-1], activation, rngs=rngs) for _ in range(blocks)])
        self.up = MapDecoder(
            (widths[-1], *in_shape[1:]),
            (widths[0], *x_shape[1:]),
            len(widths),
            activation,
            batch_norm,
            rngs=rngs,
        )
        self.out = conv(widths[0], num_outputs, rngs=rngs)
        self.activation = activation

    def __call__(self, z: Array) -> Array:
        h = self.stem(z.transpose(0, 2, 3, 1))
        for block in self.blocks:
            h = block(h)
        h = self.up(ACTIVATIONS[self.activation](h).transpose(0, 3, 1, 2))
        found: Array = self.out(h.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        return found
