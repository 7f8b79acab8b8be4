"""Distributions that NumPyro does not have, and what the zoo asks of those that it has."""

from __future__ import annotations

__all__ = [
    "CategoricalLevels",
    "DiscretizedLogistic",
    "standard_normal",
    "tempered",
    "unwrapped",
]

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.util import promote_shapes, validate_sample


class DiscretizedLogistic(dist.Distribution):
    r"""Logistic density integrated over the bins of an image's levels (Kingma et al. 2016, eq. 15).

    .. math:: P(x) = \sigma((x + \tfrac{b}{2} - \mu) / s) - \sigma((x - \tfrac{b}{2} - \mu) / s)

    for levels x = 0, b, 2b, …, 1 with b = 1 / (num_levels - 1); the first and last bins reach to
    infinity, so that probabilities sum to one.

    Args:
        loc: μ, in units of the image, [0, 1].
        scale: s > 0, same units.
        num_levels: 256 for 8 bits.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval
    reparametrized_params: ClassVar[list[str]] = []
    pytree_data_fields = ("loc", "scale")
    pytree_aux_fields = ("num_levels",)

    def __init__(
        self,
        loc: Any,
        scale: Any,
        num_levels: int = 256,
        *,
        validate_args: bool | None = None,
    ) -> None:
        batch_shape = jnp.broadcast_shapes(jnp.shape(loc), jnp.shape(scale))
        self.loc, self.scale = promote_shapes(loc, scale, shape=batch_shape)
        self.num_levels = num_levels
        super().__init__(batch_shape, validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        """Log probability of each level, nats; the shape of `value`."""
        half = 0.5 / (self.num_levels - 1)
        upper = (value + half - self.loc) / self.scale
        lower = (value - half - self.loc) / self.scale
        # σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)): exact, and finite however narrow the scale.
        below = jax.nn.log_sigmoid(upper)
        above = jax.nn.log_sigmoid(-lower)
        inside = below + above + jnp.log(-jnp.expm1(-2.0 * half / self.scale))
        edges = jnp.where(value < half, below, above)
        return jnp.where((value < half) | (value > 1.0 - half), edges, inside)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        shape = sample_shape + self.batch_shape
        dtype = jnp.result_type(self.loc)
        uniform = jax.random.uniform(key, shape, dtype, minval=1e-6, maxval=1.0 - 1e-6)
        x = self.loc + self.scale * jax.scipy.special.logit(uniform)
        steps = self.num_levels - 1
        return jnp.round(jnp.clip(x, 0.0, 1.0) * steps) / steps

    @property
    def mean(self) -> Array:
        """Exact mean: the sum over levels of P(x above the bin's lower edge)."""
        steps = self.num_levels - 1
        zero = jnp.zeros(self.batch_shape, jnp.result_type(self.loc))

        def add(level: Array, total: Array) -> Array:
            return total + jax.nn.sigmoid((self.loc - (level - 0.5) / steps) / self.scale)

        return jax.lax.fori_loop(1, self.num_levels, add, zero) / steps


class CategoricalLevels(dist.Distribution):
    r"""One probability for each of an image's levels (van den Oord et al. 2016, PixelRNN, 3.3).

    .. math:: P(x = k b) = \mathrm{softmax}(a)_k, \qquad b = 1 / (K - 1)

    Args:
        logits: a, (*batch, K), of the levels 0, b, …, 1.
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    support = constraints.unit_interval
    reparametrized_params: ClassVar[list[str]] = []
    pytree_data_fields = ("logits",)

    def __init__(self, logits: Array, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(jnp.shape(logits)[:-1], validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        """Log probability of the nearest level, nats; the shape of `value`."""
        value = jnp.broadcast_to(value, jnp.broadcast_shapes(value.shape, self.batch_shape))
        log_probs = jax.nn.log_softmax(self.logits, -1)
        log_probs = jnp.broadcast_to(log_probs, (*value.shape, self._steps + 1))
        level = jnp.round(jnp.clip(value, 0.0, 1.0) * self._steps).astype(int)
        return jnp.take_along_axis(log_probs, level[..., None], -1)[..., 0]

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        shape = sample_shape + self.batch_shape
        level = jax.random.categorical(key, self.logits, shape=shape)
        return level.astype(self.logits.dtype) / self._steps

    @property
    def mean(self) -> Array:
        levels = jnp.arange(self._steps + 1, dtype=self.logits.dtype) / self._steps
        return jax.nn.softmax(self.logits, -1) @ levels

    @property
    def _steps(self) -> int:
        return int(self.logits.shape[-1]) - 1


def standard_normal(n: int, event_shape: Sequence[int], like: Array) -> Any:
    """N(0, 1) of batch shape (n,) and the given event shape, with `like`'s dtype."""
    shape = (n, *event_shape)
    zero, one = jnp.zeros(shape, like.dtype), jnp.ones(shape, like.dtype)
    return dist.Normal(zero, one).to_event(len(event_shape))


def unwrapped(fn: Any) -> Any:
    """The distribution inside `Independent`s and expansions, so that `.loc` works."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def tempered(fn: Any, temperature: float) -> Any:
    """`fn` with its scale multiplied by `temperature`; TypeError where there is none."""
    if isinstance(fn, dist.Independent):
        return tempered(fn.base_dist, temperature).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.ExpandedDistribution):
        return tempered(fn.base_dist, temperature).expand(fn.batch_shape)
    if not isinstance(fn, dist.Normal):
        raise TypeError(
            f"temperature: expected a Normal, came {type(fn).__name__}: "
            "sample at temperature 1, or write the tempered prior into the program"
        )
    return dist.Normal(fn.loc, fn.scale * temperature)
