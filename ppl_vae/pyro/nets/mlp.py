"""Multilayer perceptrons: linear, batch norm, activation, as often as there are widths."""

from __future__ import annotations

__all__ = ["ACTIVATIONS", "MLP", "MLPDecoder", "linear"]

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": functional.leaky_relu,
    "relu": functional.relu,
    "tanh": torch.tanh,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}


def linear(num_inputs: int, num_outputs: int, bias: bool = True) -> nn.Linear:
    """Linear layer with uniform weights (Glorot & Bengio 2010) and zero bias, in both PPLs."""
    layer = nn.Linear(num_inputs, num_outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """(n, …) to (n, widths[-1]); all but the first axis of the input are flattened.

    A linear layer before batch norm has no bias: its gradient would be round-off, which Adam
    turns into noise.
    """

    def __init__(
        self,
        num_inputs: int,
        widths: Sequence[int],
        activation: str = "leaky_relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [num_inputs, *widths]
        self.linears = nn.ModuleList(linear(a, b, bias=not batch_norm) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths if batch_norm)
        self.activation = activation
        self.out_features = sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        h = x.reshape(x.shape[0], -1)  # a latent may be a scalar
        activation = ACTIVATIONS[self.activation]
        for i, layer in enumerate(self.linears):
            h = layer(h)
            if len(self.norms):
                h = self.norms[i](h)
            h = activation(h)
        return h


class MLPDecoder(nn.Module):
    """(n, num_inputs) to (n, num_outputs, h, w) through an MLP and one linear layer."""

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
        self.out_shape = (num_outputs, *x_shape[1:])
        self.mlp = MLP(num_inputs, widths, activation, batch_norm)
        self.out = linear(self.mlp.out_features, math.prod(self.out_shape))

    def forward(self, z: Tensor) -> Tensor:
        return self.out(self.mlp(z)).unflatten(-1, self.out_shape)
