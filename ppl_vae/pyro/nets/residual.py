r"""NVAE's residual cells (Vahdat & Kautz 2020, section 3.1.1 and figure 3).

.. math:: y = \mathrm{skip}(x) + 0.1\; \mathrm{SE}(f(x))

Batch norm comes before its activation, Swish, and the convolution after both. In training some of
the biases stand before batch norm and do nothing; the authors' weights have them.
"""

from __future__ import annotations

__all__ = ["InvertedCell", "ResidualCell", "SkipDown", "SkipUp", "SqueezeExcite", "through"]

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.pyro.nets.weight_norm import WeightNormConv

RESIDUAL = 0.1  # weight of a cell's own part
OFFSETS = ((0, 0), (1, 1), (0, 1), (1, 0))  # (row, column) of the pixels that a halving looks at


class ResidualCell(nn.Module):
    """[batch norm, Swish, 3 × 3 convolution] twice: the cell of NVAE's encoder.

    Args:
        width: channels of the input.
        down: halve the sides and double the channels.
        squeeze_excite: gate the channels.
    """

    def __init__(self, width: int, down: bool = False, squeeze_excite: bool = True) -> None:
        super().__init__()
        self.out_features = 2 * width if down else width
        self.norms = nn.ModuleList(batch_norm(w) for w in (width, self.out_features))
        self.convs = nn.ModuleList(
            [
                WeightNormConv(width, self.out_features, 3, stride=2 if down else 1),
                WeightNormConv(self.out_features, self.out_features, 3),
            ]
        )
        self.skip = SkipDown(width, self.out_features) if down else None
        self.gate = SqueezeExcite(self.out_features) if squeeze_excite else None

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(functional.silu(norm(h)))
        return joined(x, h, self.skip, self.gate)


class InvertedCell(nn.Module):
    """A wide inside of depthwise 5 × 5 convolutions: the cell of NVAE's decoder.

    Batch norm, 1 × 1 to expansion · width, batch norm, Swish, depthwise 5 × 5, batch norm, Swish,
    1 × 1 to the output, batch norm. These convolutions have neither bias nor weight norm.

    Args:
        width: channels of the input.
        up: double the sides (nearest) and halve the channels.
        expansion: of the channels inside; 6 in the decoder, 3 behind it.
        squeeze_excite: gate the channels.
    """

    def __init__(
        self, width: int, up: bool = False, expansion: int = 6, squeeze_excite: bool = True
    ) -> None:
        super().__init__()
        self.out_features = width // 2 if up else width
        inner = expansion * width
        self.norms = nn.ModuleList(batch_norm(w) for w in (width, inner, inner, self.out_features))
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(width, inner, 1, bias=False),
                nn.Conv2d(inner, inner, 5, padding=2, groups=inner, bias=False),
                nn.Conv2d(inner, self.out_features, 1, bias=False),
            ]
        )
        self.skip = SkipUp(width, self.out_features) if up else None
        self.gate = SqueezeExcite(self.out_features) if squeeze_excite else None

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.skip is None else functional.interpolate(x, scale_factor=2.0, mode="nearest")
        h = self.convs[0](self.norms[0](h))
        for norm, conv in zip(self.norms[1:-1], self.convs[1:], strict=True):
            h = conv(functional.silu(norm(h)))
        return joined(x, self.norms[-1](h), self.skip, self.gate)


class SqueezeExcite(nn.Module):
    """Channels scaled by gates in (0, 1) that see the mean of every map (Hu et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(width // 16, 4)
        self.squeeze = nn.Linear(width, hidden)
        self.excite = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.squeeze(x.mean((2, 3))))
        return x * torch.sigmoid(self.excite(hidden))[:, :, None, None]


class SkipDown(nn.Module):
    """Halved sides by four 1 × 1 convolutions, each of one pixel in four, side by side."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        quarter = num_outputs // 4
        widths = (quarter, quarter, quarter, num_outputs - 3 * quarter)
        self.convs = nn.ModuleList(WeightNormConv(num_inputs, w, 1, stride=2) for w in widths)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(x)
        parts = [
            conv(x[:, :, row:, column:])
            for conv, (row, column) in zip(self.convs, OFFSETS, strict=True)
        ]
        return torch.cat(parts, 1)


class SkipUp(nn.Module):
    """Doubled sides: bilinear, corner pixels on corner pixels, then a 1 × 1 convolution."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.conv = WeightNormConv(num_inputs, num_outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(
            functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
        )


def batch_norm(width: int) -> nn.BatchNorm2d:
    """Batch norm whose running statistics take 5 % of each batch."""
    return nn.BatchNorm2d(width, eps=1e-5, momentum=0.05)


def joined(x: Tensor, h: Tensor, skip: nn.Module | None, gate: nn.Module | None) -> Tensor:
    """A cell's input, by its skip, and what it adds to it."""
    h = h if gate is None else gate(h)
    result: Tensor = (x if skip is None else skip(x)) + RESIDUAL * h
    return result


def through(cells: Iterable[Any], h: Tensor) -> Tensor:
    """Maps after all the cells."""
    for cell in cells:
        h = cell(h)
    return h
