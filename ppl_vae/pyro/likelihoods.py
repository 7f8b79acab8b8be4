"""From a decoder's output to the distribution of an image.

| name | parameters of a pixel of c channels | range of x |
|---|---|---|
| bernoulli | c (logits) | 0 or 1 |
| discretized_logistic | 2c (loc, log scale) | levels of [0, 1], 0, 1/255, …, 1 |
| discretized_logistic_mixture | M (1 + 2c + c(c-1)/2), see `_mixture` | the same |
| categorical | 256 c (logits of the levels) | the same |
| normal | 2c (loc, log scale) | real; images in [0, 1] |
"""

from __future__ import annotations

__all__ = ["LIKELIHOODS", "Likelihood"]

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_vae.errors import UsageError, nearest
from ppl_vae.pyro.distributions import CategoricalLevels, DiscretizedLogistic
from ppl_vae.pyro.mixture import DiscretizedLogisticMixture
from ppl_vae.pyro.nets.precision import in_full

# A pixel that never varies would let its scale shrink for ever, and its density grow without bound.
MIN_LOG_SCALE = -6.0
MIN_MIXTURE_LOG_SCALE = -7.0  # of 2x - 1; published weights have it


def _bernoulli(h: Tensor, **_: Any) -> dist.Distribution:
    return dist.Bernoulli(logits=h)


def _discretized_logistic(h: Tensor, *, num_levels: int, **_: Any) -> dist.Distribution:
    loc, log_scale = h.chunk(2, 1)
    return DiscretizedLogistic(loc + 0.5, log_scale.clamp(min=MIN_LOG_SCALE).exp(), num_levels)


def _normal(h: Tensor, **_: Any) -> dist.Distribution:
    loc, log_scale = h.chunk(2, 1)
    return dist.Normal(loc + 0.5, log_scale.clamp(min=MIN_LOG_SCALE).exp())


def _categorical(h: Tensor, *, num_levels: int, **_: Any) -> dist.Distribution:
    """A colour's logits stand together: those of its first level first."""
    return CategoricalLevels(h.unflatten(1, (-1, num_levels)).movedim(2, -1))


def _mixture(h: Tensor, *, components: int, num_levels: int, edges: str) -> dist.Distribution:
    """M logits; then for each colour M locs, M log scales and its share of the coefficients.

    Coefficients (before tanh) are dealt to the colours in turn, M for each pair (second, first),
    (third, first), (third, second): three colours have one pair each, as in published weights.
    """
    h = h.unflatten(1, (-1, components))
    channels = next(c for c in range(1, h.shape[1] + 1) if _tables(c) >= h.shape[1])
    if _tables(channels) != h.shape[1]:
        raise UsageError(
            f"likelihood: expected {components} times {_tables(channels)} features for images of "
            f"{channels} channels, came {components} times {h.shape[1]}: see `num_outputs`"
        )
    pairs = math.comb(channels, 2)
    shares = [2 + len(range(c, pairs, channels)) for c in range(channels)]
    locs = [1 + sum(shares[:c]) for c in range(channels)]
    scales = [start + 1 for start in locs]
    leans = [locs[pair % channels] + 2 + pair // channels for pair in range(pairs)]
    return DiscretizedLogisticMixture(
        h[:, 0],
        _chosen(h, locs),
        _chosen(h, scales).clamp(min=MIN_MIXTURE_LOG_SCALE),
        torch.tanh(_chosen(h, leans)) if pairs else None,
        num_levels,
        edges,
    )


def _chosen(h: Tensor, tables: list[int]) -> Tensor:
    """Some of the tables (n, tables, components, …); a list as an index would go by the host."""
    return torch.stack([h[:, table] for table in tables], dim=1)


def _tables(channels: int) -> int:
    return 1 + 2 * channels + math.comb(channels, 2)


LIKELIHOODS: dict[str, Callable[..., dist.Distribution]] = {
    "bernoulli": _bernoulli,
    "categorical": _categorical,
    "discretized_logistic": _discretized_logistic,
    "discretized_logistic_mixture": _mixture,
    "normal": _normal,
}


class Likelihood:
    """p(x | h) for features h of shape (n, `num_outputs(c)`, height, width), channels in blocks.

    Args:
        name: one of `LIKELIHOODS`.
        components: M of the mixture.
        num_levels: of the discretised ones, 256 for 8 bits.
        edges: of the mixture, see `DiscretizedLogisticMixture`.
    """

    def __init__(
        self, name: str, *, components: int = 10, num_levels: int = 256, edges: str = "proper"
    ) -> None:
        if name not in LIKELIHOODS:
            raise UsageError(f"likelihood: unknown {name!r}: {nearest(name, LIKELIHOODS)}")
        for option, value, least in (("components", components, 1), ("num_levels", num_levels, 2)):
            if value < least:
                raise UsageError(f"{option}: expected at least {least}, came {value}")
        self.name = name
        self.options = {"components": components, "num_levels": num_levels, "edges": edges}

    def num_outputs(self, channels: int) -> int:
        """Features that an image of so many channels needs at each pixel."""
        if self.name == "discretized_logistic_mixture":
            return self.options["components"] * _tables(channels)  # type: ignore[operator]
        if self.name == "categorical":
            return self.options["num_levels"] * channels  # type: ignore[operator]
        return channels if self.name == "bernoulli" else 2 * channels

    def __call__(self, h: Tensor) -> dist.Distribution:
        fn = LIKELIHOODS[self.name](in_full(h), **self.options)
        return fn.to_event(3 - fn.event_dim)
