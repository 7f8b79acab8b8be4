r"""Convolutions whose weights are a direction and a length (NVAE's form of Salimans & Kingma 2016).

.. math:: w = e^{g} \, \frac{v}{\lVert v \rVert + 10^{-5}}

with one length g and one norm for each output channel.
"""

from __future__ import annotations

__all__ = ["WeightNormConv"]

import torch
from torch import Tensor, nn

from ppl_vae.masks import Mask


class WeightNormConv(nn.Conv2d):
    """Square convolution that keeps the sides (at stride 1) of maps (n, c, height, width).

    Weights and bias begin as torch's own, uniform within ±1/√fan-in, and `log_weight_norm`, g,
    at log(‖v‖ + 0.01).

    Args:
        num_inputs, num_outputs: channels.
        size: side of the kernel, odd.
        stride, bias: as of `torch.nn.Conv2d`.
        groups: 1, or as many as there are channels.
        mask: of the weights; the norm is that of what it leaves.
    """

    mask: Tensor | None

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        size: int,
        stride: int = 1,
        bias: bool = True,
        groups: int = 1,
        mask: Mask | None = None,
    ) -> None:
        super().__init__(num_inputs, num_outputs, size, stride, size // 2, groups=groups, bias=bias)
        kept = None if mask is None else torch.as_tensor(mask.array()).to(self.weight)
        self.register_buffer("mask", kept, persistent=False)
        self.log_weight_norm = nn.Parameter(torch.log(_norm(self.direction().detach()) + 0.01))

    def direction(self) -> Tensor:
        """v, (num_outputs, num_inputs / groups, size, size)."""
        return self.weight if self.mask is None else self.weight * self.mask

    def effective_weight(self) -> Tensor:
        """w, what the maps are convolved with."""
        v = self.direction()
        return self.log_weight_norm.exp() * v / (_norm(v) + 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.effective_weight(), self.bias)


def _norm(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True)
