"""Masked multilayer perceptrons: each output from the inputs before it (Germain et al. 2015)."""

from __future__ import annotations

__all__ = ["MADE"]

from collections.abc import Sequence
from itertools import pairwise

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ppl_vae import made
from ppl_vae.numpyro.nets.initial import glorot_uniform, zeros
from ppl_vae.numpyro.nets.mlp import ACTIVATIONS


class MaskedLinear(nnx.Module):
    """Linear layer of units with degrees (see `ppl_vae.made`); weights as of `mlp.linear`."""

    def __init__(self, below: Sequence[int], above: Sequence[int], *, rngs: nnx.Rngs) -> None:
        init = glorot_uniform()
        self.weight = nnx.Param(init(rngs.params(), (len(above), len(below))))
        self.bias = nnx.Param(zeros(None, (len(above),)))
        self.degrees = nnx.static((tuple(below), tuple(above)))

    def effective_weight(self) -> Array:
        """What the mask leaves of the weight, (above, below)."""
        weight: Array = self.weight[...]
        return weight * jnp.asarray(made.mask(*self.degrees), weight.dtype)

    def __call__(self, h: Array) -> Array:
        return h @ self.effective_weight().T + self.bias[...]


class MADE(nnx.Module):
    """(…, size) and context (…, num_context) to (…, num_outputs, size), strictly autoregressive.

    Args:
        size, num_context: see above.
        hidden: widths of the hidden layers.
        num_outputs: outputs of each input.
        activation: see `ppl_vae.architecture`.
        reverse: the last input comes first.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        size: int,
        num_context: int,
        hidden: Sequence[int] = (64, 64),
        num_outputs: int = 2,
        activation: str = "elu",
        reverse: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        layers = made.degrees(size, num_context, hidden, num_outputs, reverse)
        self.linears = nnx.List([MaskedLinear(a, b, rngs=rngs) for a, b in pairwise(layers)])
        self.activation = activation
        self.shape = nnx.static((num_outputs, size))

    def __call__(self, z: Array, context: Array) -> Array:
        context = jnp.broadcast_to(context, (*z.shape[:-1], context.shape[-1]))
        h = self.linears[0](jnp.concatenate([z, context], -1))
        for layer in list(self.linears)[1:]:
            h = layer(ACTIVATIONS[self.activation](h))
        return h.reshape(*h.shape[:-1], *self.shape)
