"""Initial weights, drawn without a program for each shape: XLA takes long to compile generators.

JAX's generator numbers its draws, so that the first of more are the same: drawn is one of a few
lengths, and the host cuts, shapes and scales it. Inside `jit` and `eval_shape` JAX does.
"""

from __future__ import annotations

__all__ = ["glorot_uniform", "uniform", "zeros"]

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

DRAWN = 4096  # numbers that are drawn at least


def uniform(fan_in: int, gain: float = 1.0) -> Any:
    """Initialiser: uniform within ±gain/√fan-in, with gain 1 as torch's layers have it."""
    bound = gain / math.sqrt(fan_in)

    def init(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        return jnp.asarray(_drawn(key, shape, dtype, -bound, bound))

    return init


def glorot_uniform() -> Any:
    """Initialiser: uniform within ±√(6 / (fan-in + fan-out)) (Glorot & Bengio 2010).

    The last two axes are inputs and outputs, those before a kernel's sides, as in JAX's own
    initialiser of that name, whose numbers these are, bit for bit.
    """

    def init(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        fans = math.prod(shape[:-2]) * (shape[-2] + shape[-1])
        variance = np.asarray(2 / fans, dtype)
        return jnp.asarray(_drawn(key, shape, dtype, -1, 1) * np.sqrt(3 * variance))

    return init


def zeros(key: Any, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
    """Initialiser: nothing."""
    return jnp.asarray(np.zeros(shape, dtype))


def _drawn(key: Any, shape: Any, dtype: Any, low: float, high: float) -> Any:
    """U(low, high)."""
    if isinstance(key, jax.core.Tracer):
        return random.uniform(key, shape, dtype, low, high)
    size, some = math.prod(shape), DRAWN
    while some < size:
        some *= 4
    return np.asarray(random.uniform(key, (some,), dtype, low, high))[:size].reshape(shape)
