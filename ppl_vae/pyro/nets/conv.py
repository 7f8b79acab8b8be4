"""Convolutional nets that halve and double an image's sides, for any size, odd ones too."""

from __future__ import annotations

__all__ = ["ConvDecoder", "ConvEncoder", "MapDecoder", "halved"]

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.pyro.nets.mlp import ACTIVATIONS, linear


def conv(num_inputs: int, num_outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """3 × 3 convolution, padded by one, with uniform Glorot weights and zero bias."""
    layer = nn.Conv2d(num_inputs, num_outputs, 3, stride=stride, padding=1, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def halved(height: int, width: int, times: int) -> list[tuple[int, int]]:
    """Sides after 0 … `times` halvings, rounded up.

    >>> halved(7, 28, 2)
    [(7, 28), (4, 14), (2, 7)]
    """
    sides = [(height, width)]
    for _ in range(times):
        sides.append(((sides[-1][0] + 1) // 2, (sides[-1][1] + 1) // 2))
    return sides


class ConvEncoder(nn.Module):
    """Images (n, c, h, w) to features (n, out_features): one strided convolution a width."""

    def __init__(
        self,
        x_shape: Sequence[int],
        widths: Sequence[int],
        activation: str = "leaky_relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        channels = [x_shape[0], *widths]
        self.convs = nn.ModuleList(
            conv(a, b, stride=2, bias=not batch_norm) for a, b in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths if batch_norm)
        self.activation = activation
        height, width = halved(x_shape[1], x_shape[2], len(widths))[-1]
        self.out_features = channels[-1] * height * width

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for i, layer in enumerate(self.convs):
            h = layer(h)
            if len(self.norms):
                h = self.norms[i](h)
            h = ACTIVATIONS[self.activation](h)
        return h.flatten(1)


class ConvDecoder(nn.Module):
    """(n, num_inputs) to (n, num_outputs, h, w): upsampling and a convolution a width."""

    def __init__(
        self,
        num_inputs: int,
        x_shape: Sequence[int],
        widths: Sequence[int],
        num_outputs: int,
        activation: str = "leaky_relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.sides = halved(x_shape[1], x_shape[2], len(widths))[::-1]
        self.in_shape = (widths[0], *self.sides[0])
        channels = [*widths, widths[-1]]
        self.linear = linear(num_inputs, widths[0] * self.sides[0][0] * self.sides[0][1])
        self.convs = nn.ModuleList(conv(a, b, bias=not batch_norm) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in channels[1:] if batch_norm)
        self.out = conv(channels[-1], num_outputs)
        self.activation = activation

    def forward(self, z: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.activation]
        h = activation(self.linear(z)).unflatten(-1, self.in_shape)
        for i, layer in enumerate(self.convs):
            h = layer(functional.interpolate(h, size=self.sides[i + 1], mode="nearest"))
            if len(self.norms):
                h = self.norms[i](h)
            h = activation(h)
        return self.out(h)


class MapDecoder(nn.Module):
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
    ) -> None:
        super().__init__()
        self.sides = halved(out_shape[1], out_shape[2], times)[::-1]
        channels = [in_shape[0], *[out_shape[0]] * (times + 1)]
        self.convs = nn.ModuleList(conv(a, b, bias=not batch_norm) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in channels[1:] if batch_norm)
        self.activation = activation

    def forward(self, z: Tensor) -> Tensor:
        h = z
        for i, layer in enumerate(self.convs):
            h = layer(functional.interpolate(h, size=self.sides[i], mode="nearest") if i else h)
            if len(self.norms):
                h = self.norms[i](h)
            h = ACTIVATIONS[self.activation](h)
        return h
