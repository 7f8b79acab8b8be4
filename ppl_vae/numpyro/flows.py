r"""Inverse autoregressive flow of volume one: each value shifted by what comes before it.

.. math:: y = z - \mu(z), \qquad \log |\det \partial y / \partial z| = 0

(Kingma et al. 2016 with a scale of one: NVAE's cells.) A draw is one pass of μ; the density of a
draw takes z from the draw's intermediates, that of any other y solves for z, which takes as many
passes as y has values at most.
"""

from __future__ import annotations

__all__ = ["AutoregressiveShift"]

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform


class AutoregressiveShift(Transform):
    """y = z - μ(z) of maps (…, channels, height, width).

    Args:
        net: μ, strictly autoregressive in any order (`ppl_vae.numpyro.nets.masked.ShiftNet`).
        context: (n, C), what μ looks at besides, where its net takes any.
    """

    domain = constraints.independent(constraints.real, 3)
    codomain = constraints.independent(constraints.real, 3)

    def __init__(self, net: Callable[..., Array], context: Array | None = None) -> None:
        self.net, self.context = net, context

    def __eq__(self, other: Any) -> bool:
        alike = isinstance(other, AutoregressiveShift) and other.net is self.net
        return alike and other.context is self.context

    def __call__(self, z: Array) -> Array:
        return z - self._shift(z)

    def _inverse(self, y: Array) -> Array:
        # The k-th value in the order is right after k rounds, and stays so.
        def unsettled(at: tuple[Array, Array, Array]) -> Array:
            before, z, count = at
            return (count < math.prod(y.shape[-3:])) & jnp.any(before != z)

        def better(at: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            _, z, count = at
            return z, y + self._shift(z), count + 1

        start = (y, y + self._shift(y), jnp.asarray(1))
        solved: Array = jax.lax.while_loop(unsettled, better, start)[1]
        return solved

    def log_abs_det_jacobian(self, z: Array, y: Array, intermediates: Any = None) -> Array:
        return jnp.zeros(z.shape[:-3], z.dtype)

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.net, self.context), (("net", "context"), {})

    def _shift(self, z: Array) -> Array:
        flat = z.reshape(-1, *z.shape[-3:])
        if self.context is None:
            return self.net(flat).reshape(z.shape)
        context = jnp.broadcast_to(self.context, (*z.shape[:-3], self.context.shape[-1]))
        return self.net(flat, context.reshape(len(flat), -1)).reshape(z.shape)
