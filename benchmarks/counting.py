"""Operations of matrix products and convolutions as torch counts them, slopes included.

torch 2.13's own count takes the slopes of a grouped convolution's weights for those of a whole one:
as many times too many as there are groups. Either slope of a convolution has as many products as
the convolution.
"""

from __future__ import annotations

__all__ = ["counting"]

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


def counting() -> FlopCounterMode:
    """A context whose `get_total_flops` says, afterwards, what was done in it.

    >>> x, w = torch.ones(1, 4, 5, 5), torch.ones(4, 1, 3, 3, requires_grad=True)
    >>> with counting() as counted:
    ...     torch.conv2d(x, w, groups=4).sum().backward()
    >>> counted.get_total_flops() == 2 * (4 * 9) * (3 * 3) * 2  # there and back, 4 channels
    True
    """
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _slopes}
    )


def _slopes(
    slope: Any,
    x: Any,
    w: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Any,
    **_: Any,
) -> int:
    """Of the image's and of the weights' slopes, as far as they are asked for; shapes come in."""
    return int((wanted[0] + wanted[1]) * conv_flop_count(x, w, slope, transposed))
