"""Nets between images and maps of codes: strided convolutions, residual blocks, and back."""

from __future__ import annotations

__all__ = ["CodeDecoder", "CodeEncoder"]

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ppl_vae.pyro.nets.conv import MapDecoder, conv, halved
from ppl_vae.pyro.nets.mlp import ACTIVATIONS


class Block(nn.Module):
    """x + g(f(x)), a 3 × 3 convolution after an activation in either."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels), conv(channels, channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.activation]
        found: Tensor = x + self.second(activation(self.first(activation(x))))
        return found


class CodeEncoder(nn.Module):
    """Images (n, c, h, w) to maps (n, num_outputs, h', w'), the sides halved at each width.

    Args:
        x_shape: (channels, height, width).
        widths: channels of the strided convolutions, from the image on.
        num_outputs: channels of the map.
        blocks: residual blocks after them, as many channels as the last.
        activation, batch_norm: of the strided convolutions.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        widths: Sequence[int],
        num_outputs: int,
        blocks: int = 0,
        activation: str = "relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        channels = [x_shape[0], *widths]
        self.convs = nn.ModuleList(
            conv(a, b, stride=2, bias=not batch_norm) for a, b in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths if batch_norm)
        self.blocks = nn.ModuleList(Block(widths[-1], activation) for _ in range(blocks))
        self.out = conv(widths[-1], num_outputs)
        self.activation = activation
        self.out_shape = (num_outputs, *halved(x_shape[1], x_shape[2], len(widths))[-1])

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for i, layer in enumerate(self.convs):
            h = layer(h)
            if len(self.norms):
                h = self.norms[i](h)
            h = ACTIVATIONS[self.activation](h)
        for block in self.blocks:
            h = block(h)
        found: Tensor = self.out(h)
        return found


class CodeDecoder(nn.Module):
    """Maps (n, *in_shape) to (n, num_outputs, h, w): residual blocks, then doubled sides.

    Args:
        in_shape: of a map of codes.
        x_shape: (channels, height, width) of the image.
        widths: as of the encoder; the first is the decoder's, at every size.
        num_outputs: parameters of a pixel.
        blocks, activation, batch_norm: as of the encoder.
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
    ) -> None:
        super().__init__()
        self.stem = conv(in_shape[0], widths[-1])
        self.blocks = nn.ModuleList(Block(widths[-1], activation) for _ in range(blocks))
        self.up = MapDecoder(
            (widths[-1], *in_shape[1:]),
            (widths[0], *x_shape[1:]),
            len(widths),
            activation,
            batch_norm,
        )
        self.out = conv(widths[0], num_outputs)
        self.activation = activation

    def forward(self, z: Tensor) -> Tensor:
        h = self.stem(z)
        for block in self.blocks:
            h = block(h)
        found: Tensor = self.out(self.up(ACTIVATIONS[self.activation](h)))
        return found
