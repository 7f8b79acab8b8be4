r"""Masks of autoregressive convolutions (van den Oord et al. 2016; Kingma et al. 2016).

In raster order a pixel sees the rows above it and the pixels to its left; of itself, a channel sees
the channels before it. Reversed, the same in space from the last pixel back.
"""

from __future__ import annotations

__all__ = ["Mask"]

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mask:
    """Which weights of a convolution may be used.

    Args:
        num_inputs, num_outputs: channels, in min(num_inputs, num_outputs) equal blocks in order.
        size: side of the kernel, odd.
        strict: at the kernel's centre a block sees those before it, and not itself.
        reverse: rows below and pixels to the right instead.
        depthwise: each channel has itself for its one input.

    >>> Mask(2, 4, 1).array()[:, :, 0, 0]
    array([[1., 0.],
           [1., 0.],
           [1., 1.],
           [1., 1.]])
    >>> Mask(1, 1, 3, strict=True).array()[0, 0]
    array([[1., 1., 1.],
           [1., 0., 0.],
           [0., 0., 0.]])
    """

    num_inputs: int
    num_outputs: int
    size: int
    strict: bool = False
    reverse: bool = False
    depthwise: bool = False

    def array(self) -> np.ndarray:
        """1 or 0, (num_outputs, num_inputs, size, size); depthwise (num_outputs, 1, size, size)."""
        mask = np.zeros(
            (self.num_outputs, 1 if self.depthwise else self.num_inputs, self.size, self.size)
        )
        middle = self.size // 2
        mask[:, :, :middle] = 1
        mask[:, :, middle, :middle] = 1
        blocks = min(self.num_inputs, self.num_outputs)
        outputs = np.arange(self.num_outputs) * blocks // self.num_outputs
        inputs = np.arange(self.num_inputs) * blocks // self.num_inputs
        if self.depthwise:
            mask[:, :, middle, middle] = not self.strict
        else:
            mask[:, :, middle, middle] = inputs + self.strict <= outputs[:, None]
        return mask[:, :, ::-1, ::-1].copy() if self.reverse else mask
