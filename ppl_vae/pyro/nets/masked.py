"""NVAE's autoregressive cell: a map to a map, each value from those before it alone."""

from __future__ import annotations

__all__ = ["ShiftNet"]

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.masks import Mask
from ppl_vae.pyro.nets.mlp import linear
from ppl_vae.pyro.nets.weight_norm import WeightNormConv


class ShiftNet(nn.Module):
    """μ(z), (n, channels, height, width) as z: strictly autoregressive (see `ppl_vae.masks`).

    Masked 3 × 3 to `expansion` times the channels, ELU, masked depthwise 5 × 5, ELU twice, masked
    1 × 1 back (the authors' cell). The last convolution begins at a tenth of its length.

    Args:
        width: channels of z.
        reverse: from the last pixel back, not raster order.
        expansion: of the channels inside.
        num_context: numbers (n, num_context) that every value may depend on besides: they shift
            the first convolution's outcome.
    """

    def __init__(
        self, width: int, reverse: bool = False, expansion: int = 6, num_context: int = 0
    ) -> None:
        super().__init__()
        inner = expansion * width
        first = Mask(width, inner, 3, strict=True, reverse=reverse)
        second = Mask(inner, inner, 5, reverse=reverse, depthwise=True)
        third = Mask(inner, width, 1, reverse=reverse)
        self.convs = nn.ModuleList(
            [
                WeightNormConv(width, inner, 3, bias=False, mask=first),
                WeightNormConv(inner, inner, 5, bias=False, groups=inner, mask=second),
                WeightNormConv(inner, width, 1, mask=third),
            ]
        )
        self.context = linear(num_context, inner) if num_context else None
        last: Any = self.convs[-1]
        with torch.no_grad():
            last.log_weight_norm += math.log(0.1)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.convs[0](z)
        if self.context is not None:
            h = h + self.context(context)[..., None, None]
        h = functional.elu(h)
        h = functional.elu(functional.elu(self.convs[1](h)))
        shift: Tensor = self.convs[2](h)
        return shift
