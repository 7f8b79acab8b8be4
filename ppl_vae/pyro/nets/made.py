"""Masked multilayer perceptrons: each output from the inputs before it (Germain et al. 2015)."""

from __future__ import annotations

__all__ = ["MADE"]

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae import made
from ppl_vae.pyro.nets.mlp import ACTIVATIONS


class MaskedLinear(nn.Linear):
    """Linear layer of units with degrees (see `ppl_vae.made`); weights as of `mlp.linear`."""

    mask: Tensor

    def __init__(self, below: Sequence[int], above: Sequence[int]) -> None:
        super().__init__(len(below), len(above))
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)
        mask = torch.as_tensor(made.mask(below, above), dtype=self.weight.dtype)
        self.register_buffer("mask", mask, persistent=False)

    def effective_weight(self) -> Tensor:
        """What the mask leaves of the weight, (above, below)."""
        return self.weight * self.mask

    def forward(self, h: Tensor) -> Tensor:
        return functional.linear(h, self.effective_weight(), self.bias)


class MADE(nn.Module):
    """(…, size) and context (…, num_context) to (…, num_outputs, size), strictly autoregressive.

    Args:
        size, num_context: see above.
        hidden: widths of the hidden layers.
        num_outputs: outputs of each input.
        activation: see `ppl_vae.architecture`.
        reverse: the last input comes first.
    """

    def __init__(
        self,
        size: int,
        num_context: int,
        hidden: Sequence[int] = (64, 64),
        num_outputs: int = 2,
        activation: str = "elu",
        reverse: bool = False,
    ) -> None:
        super().__init__()
        layers = made.degrees(size, num_context, hidden, num_outputs, reverse)
        self.linears = nn.ModuleList(MaskedLinear(a, b) for a, b in pairwise(layers))
        self.activation = activation
        self.shape = (num_outputs, size)

    def forward(self, z: Tensor, context: Tensor) -> Tensor:
        context = context.expand(*z.shape[:-1], context.shape[-1])
        h = self.linears[0](torch.cat([z, context], -1))
        for layer in list(self.linears)[1:]:
            h = layer(ACTIVATIONS[self.activation](h))
        return h.unflatten(-1, self.shape)
