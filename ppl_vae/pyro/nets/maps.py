"""Nets over feature maps (n, channels, height, width): blocks of convolutions, Gaussian heads."""

from __future__ import annotations

__all__ = ["GaussianMapHead", "MapBlock", "upsample"]

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.pyro.nets.conv import conv
from ppl_vae.pyro.nets.gaussian import MIN_VARIANCE
from ppl_vae.pyro.nets.mlp import ACTIVATIONS
from ppl_vae.pyro.nets.precision import in_full


class MapBlock(nn.Module):
    """`layers` times a 3 × 3 convolution, batch norm if wanted, activation.

    Args:
        num_inputs, width: channels that come and go.
        stride: of the first convolution; 2 halves the sides, rounded up.
    """

    def __init__(
        self,
        num_inputs: int,
        width: int,
        layers: int = 1,
        stride: int = 1,
        activation: str = "leaky_relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        channels = [num_inputs] + [width] * layers
        self.convs = nn.ModuleList(
            conv(a, b, stride=1 if i else stride, bias=not batch_norm)
            for i, (a, b) in enumerate(pairwise(channels))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(layers * batch_norm))
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        for i, layer in enumerate(self.convs):
            h = layer(h)
            if len(self.norms):
                h = self.norms[i](h)
            h = ACTIVATIONS[self.activation](h)
        return h


class GaussianMapHead(nn.Module):
    """Maps (n, num_inputs, h, w) to loc and variance, each (n, channels, h, w)."""

    def __init__(self, num_inputs: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(num_inputs, 2 * channels)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = in_full(self.conv(h)).chunk(2, 1)
        return loc, functional.softplus(raw) + MIN_VARIANCE


def upsample(h: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest upsampling to (n, c, *size)."""
    return functional.interpolate(h, size=size, mode="nearest")
