r"""NVAE's Normal, both of its parameters softly clamped (Vahdat & Kautz 2020; the authors' code).

.. math:: N\left(5 \tanh(m / 5),\ \left(e^{5 \tanh(l / 5)} + 0.01\right)^2\right)
"""

from __future__ import annotations

__all__ = ["ClampedNormal"]

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

BOUND = 5.0
MIN_SCALE = 0.01


class ClampedNormal(dist.Normal):
    """Normal of a net's raw outputs, which it keeps: NVAE's posteriors are residuals on those.

    Its divergence from another Normal is the ordinary one.

    Args:
        raw_loc: m, any real number; `loc` stays within ±5.
        raw_scale: l, any real number; `scale` stays between exp(-5) + 0.01 and exp(5) + 0.01.
    """

    pytree_data_fields = ("raw_loc", "raw_scale")

    def __init__(
        self, raw_loc: Array, raw_scale: Array, *, validate_args: bool | None = None
    ) -> None:
        self.raw_loc, self.raw_scale = jnp.broadcast_arrays(raw_loc, raw_scale)
        scale = jnp.exp(soft_clamp(raw_scale)) + MIN_SCALE
        super().__init__(soft_clamp(raw_loc), scale, validate_args=validate_args)


def soft_clamp(x: Array) -> Array:
    """5 tanh(x / 5): x near zero, never beyond ±5."""
    return BOUND * jnp.tanh(x / BOUND)
