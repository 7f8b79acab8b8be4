"""From a decoder's output to the distribution of an image.

| name | parameters a pixel | range of x |
|---|---|---|
| bernoulli | 1 (logits) | 0 or 1 |
| discretized_logistic | 2 (loc, log scale) | levels of [0, 1], 0, 1/255, …, 1 |
| normal | 2 (loc, log scale) | real; images in [0, 1] |
"""

from __future__ import annotations

__all__ = ["LIKELIHOODS", "Likelihood"]

from collections.abc import Callable

import pyro.distributions as dist
from torch import Tensor

from ppl_vae.errors import UsageError, nearest
from ppl_vae.pyro.distributions import DiscretizedLogistic

# A pixel that never varies would let its scale shrink for ever, and its density grow without bound.
MIN_LOG_SCALE = -6.0


def _bernoulli(h: Tensor) -> dist.Distribution:
    return dist.Bernoulli(logits=h)


def _discretized_logistic(h: Tensor) -> dist.Distribution:
    loc, log_scale = h.chunk(2, 1)
    return DiscretizedLogistic(loc + 0.5, log_scale.clamp(min=MIN_LOG_SCALE).exp())


def _normal(h: Tensor) -> dist.Distribution:
    loc, log_scale = h.chunk(2, 1)
    return dist.Normal(loc + 0.5, log_scale.clamp(min=MIN_LOG_SCALE).exp())


LIKELIHOODS: dict[str, tuple[int, Callable[[Tensor], dist.Distribution]]] = {
    "bernoulli": (1, _bernoulli),
    "discretized_logistic": (2, _discretized_logistic),
    "normal": (2, _normal),
}


class Likelihood:
    """p(x | h) for features h of shape (n, num_parameters·c, height, width), channels in blocks."""

    def __init__(self, name: str) -> None:
        if name not in LIKELIHOODS:
            raise UsageError(f"likelihood: unknown {name!r}: {nearest(name, LIKELIHOODS)}")
        self.name = name
        self.num_parameters, self._distribution = LIKELIHOODS[name]

    def __call__(self, h: Tensor) -> dist.Distribution:
        return self._distribution(h).to_event(3)
