"""A Normal over maps that is worked out as nets have their maps: with channels last."""

from __future__ import annotations

__all__ = ["MapNormal"]

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, random
from numpyro.distributions.kl import kl_divergence


class MapNormal(dist.Normal):
    """The Normal of maps (n, c, height, width), by parameters (n, height, width, c).

    To whoever asks for `loc`, `scale`, a draw or a density it is `numpyro.distributions.Normal`
    with channels first, draws from the same noise. But a draw, and the divergence from another
    one, are computed with channels last, so that between two nets nothing but the noise is
    transposed: a draw's own transposition and the one before the next net cancel.

    Args:
        loc, scale: of one shape, channels last.
    """

    pytree_data_fields = ("loc_last", "scale_last")

    def __init__(self, loc: Array, scale: Array, *, validate_args: bool | None = None) -> None:
        self.loc_last, self.scale_last = loc, scale
        super().__init__(_first(loc), _first(scale), validate_args=validate_args)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        noise = random.normal(key, sample_shape + self.batch_shape)
        return _first(self.loc_last + jnp.moveaxis(noise, -3, -1) * self.scale_last)


@kl_divergence.register(MapNormal, MapNormal)
def _divergence(q: MapNormal, p: MapNormal) -> Array:
    of_last = kl_divergence(
        dist.Normal(q.loc_last, q.scale_last), dist.Normal(p.loc_last, p.scale_last)
    )
    return _first(of_last)


def _first(maps: Array) -> Array:
    """Channels before the sides."""
    return jnp.moveaxis(maps, -1, -3)
