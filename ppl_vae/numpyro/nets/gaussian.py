r"""The head of every Gaussian here: loc and variance from features (Sønderby et al. 2016, eq. 5).

.. math:: \mu = W_\mu h + b_\mu, \qquad \sigma^2 = \mathrm{softplus}(W_\sigma h + b_\sigma)
"""

from __future__ import annotations

__all__ = ["GaussianHead"]

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ppl_vae.numpyro.nets.mlp import linear

MIN_VARIANCE = 1e-6  # keeps the precision finite in float32


class GaussianHead(nnx.Module):
    """Features (n, num_inputs) to loc and variance, each (n, *event_shape)."""

    def __init__(self, num_inputs: int, event_shape: Sequence[int], *, rngs: nnx.Rngs) -> None:
        self.event_shape = tuple(event_shape)
        self.linear = linear(num_inputs, 2 * math.prod(self.event_shape), rngs=rngs)

    def __call__(self, h: Array) -> tuple[Array, Array]:
        loc, raw = jnp.split(self.linear(h), 2, axis=-1)
        variance = jax.nn.softplus(raw) + MIN_VARIANCE
        shape = (-1, *self.event_shape)
        return loc.reshape(shape), variance.reshape(shape)
