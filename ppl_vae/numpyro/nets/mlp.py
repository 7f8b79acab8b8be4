"""Multilayer perceptrons: linear, batch norm, activation, as often as there are widths."""

from __future__ import annotations

__all__ = ["ACTIVATIONS", "MLP", "MLPDecoder", "batch_norm_layer", "gelu", "linear"]

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from ppl_vae.numpyro.nets.batch_norm import BatchNorm
from ppl_vae.numpyro.nets.initial import glorot_uniform, zeros


def gelu(x: Array) -> Array:
    """x Φ(x) (Hendrycks & Gimpel 2016), as torch has it: by erf.

    `jax.nn.gelu` goes by erfc, which is more exact where x Φ(x) is all but 0 and takes XLA longer.
    """
    return 0.5 * x * (1 + lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "leaky_relu": jax.nn.leaky_relu,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "elu": jax.nn.elu,
    "gelu": gelu,
    "silu": jax.nn.silu,
}


def linear(num_inputs: int, num_outputs: int, bias: bool = True, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Linear layer with uniform weights (Glorot & Bengio 2010) and zero bias, in both PPLs."""
    return nnx.Linear(
        num_inputs,
        num_outputs,
        use_bias=bias,
        kernel_init=glorot_uniform(),
        bias_init=zeros,
        rngs=rngs,
    )


def batch_norm_layer(width: int, *, rngs: nnx.Rngs) -> BatchNorm:
    """Batch norm with torch's defaults: momentum 0.1 of the new, epsilon 1e-5."""
    return BatchNorm(width, momentum=0.9, rngs=rngs)


class MLP(nnx.Module):
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
        *,
        rngs: nnx.Rngs,
    ) -> None:
        sizes = [num_inputs, *widths]
        self.linears = nnx.List(
            [linear(a, b, bias=not batch_norm, rngs=rngs) for a, b in pairwise(sizes)]
        )
        self.norms = nnx.List(
            [batch_norm_layer(width, rngs=rngs) for width in widths if batch_norm]
        )
        self.activation = activation
        self.out_features = sizes[-1]

    def __call__(self, x: Array) -> Array:
        h = x.reshape(x.shape[0], -1)
        activation = ACTIVATIONS[self.activation]
        for i, layer in enumerate(self.linears):
            h = layer(h)
            if len(self.norms):
                h = self.norms[i](h)
            h = activation(h)
        return h


class MLPDecoder(nnx.Module):
    """(n, num_inputs) to (n, num_outputs, h, w) through an MLP and one linear layer."""

    def __init__(
        self,
        num_inputs: int,
        x_shape: Sequence[int],
        widths: Sequence[int],
        num_outputs: int,
        activation: str = "leaky_relu",
        batch_norm: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.out_shape = (num_outputs, *x_shape[1:])
        self.mlp = MLP(num_inputs, widths, activation, batch_norm, rngs=rngs)
        self.out = linear(self.mlp.out_features, math.prod(self.out_shape), rngs=rngs)

    def __call__(self, z: Array) -> Array:
        return self.out(self.mlp(z)).reshape(-1, *self.out_shape)
