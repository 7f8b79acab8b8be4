r"""Images and latent maps whose pixels depend on those before them.

.. math:: p(x) = \prod_{i, j} p(x_{ij} | x_{\text{before } ij}, s)
"""

from __future__ import annotations

__all__ = ["Autoregressive"]

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints


class Autoregressive(dist.Distribution):
    """A causal net's distribution over maps (c, h, w), in raster order.

    All densities come from one pass; a draw goes pixel by pixel (`net.generate`). It serves as a
    likelihood and as the prior of a latent map alike. It has no mean in closed form.

    Args:
        net: `net(x, features)` gives parameters (rows, p, h, w), those of a pixel from the pixels
            before it; `net.generate(pick, rows, features, key)` draws; `net.x_shape` is (c, h, w).
        conditional: parameters (rows, p, h, w) to the distribution of all pixels given those
            before them: event shape (c, h, w), for maps of any size.
        batch_shape: such as (n,).
        features: *batch_shape, f, h, w: what all pixels may depend on.
        support: of a map, where it is not all of the real ones.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    reparametrized_params: ClassVar[list[str]] = []
    pytree_data_fields = ("net", "features")
    pytree_aux_fields = ("conditional", "support")

    def __init__(
        self,
        net: Any,
        conditional: Callable[[Array], Any],
        batch_shape: Sequence[int],
        features: Array | None = None,
        support: Any = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.net, self.conditional, self.features = net, conditional, features
        if support is not None:
            self.support = support
        super().__init__(tuple(batch_shape), tuple(net.x_shape), validate_args=False)

    def expand(self, batch_shape: Sequence[int]) -> Autoregressive:
        features = self.features
        if features is not None:
            features = jnp.broadcast_to(features, (*batch_shape, *features.shape[-3:]))
        return Autoregressive(self.net, self.conditional, batch_shape, features, self.support)

    def conditionals(self, value: Array) -> Any:
        """The distribution of each pixel given those of `value` before it, rows flattened."""
        rows = value.reshape(-1, *self.event_shape)
        return self.conditional(self.net(rows, self._features(value.shape[:-3])))

    def log_prob(self, value: Array) -> Array:
        """Log density of whole maps, nats: the batch shape of `value`."""
        shape = jnp.broadcast_shapes(value.shape[:-3], self.batch_shape)
        value = jnp.broadcast_to(value, (*shape, *self.event_shape))
        rows = value.reshape(-1, *self.event_shape)
        found: Array = self.conditionals(value).log_prob(rows).reshape(shape)
        return found

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        batch = (*sample_shape, *self.batch_shape)

        def pick(rng_key: Any, parameters: Array) -> Array:
            drawn: Array = self.conditional(parameters).sample(rng_key)
            return drawn

        drawn = self.net.generate(pick, math.prod(batch), self._features(batch), key)
        return drawn.reshape(*batch, *self.event_shape)

    def _features(self, batch: Sequence[int]) -> Array | None:
        if self.features is None:
            return None
        event = self.features.shape[-3:]
        return jnp.broadcast_to(self.features, (*batch, *event)).reshape(-1, *event)
