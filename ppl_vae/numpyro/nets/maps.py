"""Nets over feature maps (n, channels, height, width): blocks of convolutions, Gaussian heads.

Maps come and go with channels first, as in torch; convolutions run with channels last.
"""

from __future__ import annotations

__all__ = ["GaussianMapHead", "MapBlock", "upsample"]

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ppl_vae.numpyro.nets.conv import conv, upsampled
from ppl_vae.numpyro.nets.gaussian import MIN_VARIANCE
from ppl_vae.numpyro.nets.mlp import ACTIVATIONS, batch_norm_layer


class MapBlock(nnx.Module):
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
        *,
        rngs: nnx.Rngs,
    ) -> None:
        channels = [num_inputs] + [width] * layers
        self.convs = nnx.List(
            [
                conv(a, b, stride=1 if i else stride, bias=not batch_norm, rngs=rngs)
                for i, (a, b) in enumerate(pairwise(channels))
            ]
        )
        self.norms = nnx.List(
            [batch_norm_layer(width, rngs=rngs) for _ in range(layers * batch_norm)]
        )
        self.activation = activation

    def __call__(self, h: Array) -> Array:
        h = h.transpose(0, 2, 3, 1)
        for i, layer in enumerate(self.convs):
            h = layer(h)
            if len(self.norms):
                h = self.norms[i](h)
            h = ACTIVATIONS[self.activation](h)
        return h.transpose(0, 3, 1, 2)


class GaussianMapHead(nnx.Module):
    """Maps (n, num_inputs, h, w) to loc and variance, each (n, channels, h, w)."""

    def __init__(self, num_inputs: int, channels: int, *, rngs: nnx.Rngs) -> None:
        self.conv = conv(num_inputs, 2 * channels, rngs=rngs)

    def __call__(self, h: Array) -> tuple[Array, Array]:
        h = self.conv(h.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        loc, raw = jnp.split(h, 2, axis=1)
        return loc, jax.nn.softplus(raw) + MIN_VARIANCE


def upsample(h: Array, size: tuple[int, int]) -> Array:
    """Nearest upsampling to (n, c, *size)."""
    return upsampled(h.transpose(0, 2, 3, 1), size).transpose(0, 3, 1, 2)
