r"""Batch norm (Ioffe & Szegedy 2015, arXiv 1502.03167) that centres once.

.. math:: y = \gamma\, (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta

Flax subtracts the mean for the variance and again for the result, and the slopes of both come
back: a reduction more for each layer, some per cent of a step of small nets.
"""

from __future__ import annotations

__all__ = ["BatchNorm"]

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax


class BatchNorm(nnx.BatchNorm):
    """Flax's, but in training what is left of the mean is worked out once, for both its uses.

    Args:
        width: channels, the last axis.
        momentum: share that the running statistics keep of themselves at each batch.
        rngs: of Flax.
    """

    def __init__(self, width: int, momentum: float, *, rngs: nnx.Rngs) -> None:
        super().__init__(width, momentum=momentum, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def __call__(
        self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None
    ) -> Array:
        running = self.use_running_average if use_running_average is None else use_running_average
        plain = mask is None and self.axis_name is None
        if running or not plain or self.scale is None or self.bias is None:
            return super().__call__(x, running, mask=mask)
        scale, bias = self.scale[...], self.bias[...]
        x = x.astype(jnp.result_type(x, scale))  # float32 at least
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes)
        centred = x - mean
        variance = jnp.square(centred).mean(axes)
        for held, seen in ((self.mean, mean), (self.var, variance)):
            kept = self.momentum * held[...] + (1 - self.momentum) * seen
            held[...] = lax.stop_gradient(kept)
        return centred * (lax.rsqrt(variance + self.epsilon) * scale) + bias
