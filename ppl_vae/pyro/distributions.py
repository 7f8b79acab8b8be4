"""Distributions that Pyro does not have, and what the zoo asks of those that it has."""

from __future__ import annotations

__all__ = [
    "CategoricalLevels",
    "DiscretizedLogistic",
    "standard_normal",
    "tempered",
    "unwrapped",
]

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.nn import functional


class DiscretizedLogistic(TorchDistribution):
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
    has_rsample = False

    def __init__(
        self, loc: Tensor, scale: Tensor, num_levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.num_levels = num_levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        new.loc = self.loc.expand(batch_shape)
        new.scale = self.scale.expand(batch_shape)
        new.num_levels = self.num_levels
        super(DiscretizedLogistic, new).__init__(new.loc.shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of each level, nats; the shape of `value`."""
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.num_levels - 1)
        upper = (value + half - self.loc) / self.scale
        lower = (value - half - self.loc) / self.scale
        # σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)): exact, and finite however narrow the scale.
        below = functional.logsigmoid(upper)
        above = functional.logsigmoid(-lower)
        inside = below + above + torch.log(-torch.expm1(-2.0 * half / self.scale))
        edges = torch.where(value < half, below, above)
        return torch.where((value < half) | (value > 1.0 - half), edges, inside)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        x = self.loc + self.scale * torch.logit(uniform, eps=1e-6)
        steps = self.num_levels - 1
        return torch.round(x.clamp(0.0, 1.0) * steps) / steps

    @property
    def mean(self) -> Tensor:
        """Exact mean: the sum over levels of P(x above the bin's lower edge)."""
        steps = self.num_levels - 1
        total = torch.zeros_like(self.loc)
        for level in range(1, self.num_levels):
            total = total + torch.sigmoid((self.loc - (level - 0.5) / steps) / self.scale)
        return total / steps


class CategoricalLevels(TorchDistribution):
    r"""One probability for each of an image's levels (van den Oord et al. 2016, PixelRNN, 3.3).

    .. math:: P(x = k b) = \mathrm{softmax}(a)_k, \qquad b = 1 / (K - 1)

    Args:
        logits: a, (*batch, K), of the levels 0, b, …, 1.
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    support = constraints.unit_interval
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(CategoricalLevels, _instance)
        new.logits = self.logits.expand(*batch_shape, self.logits.shape[-1])
        super(CategoricalLevels, new).__init__(new.logits.shape[:-1], validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the nearest level, nats; the shape of `value`."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        log_probs = functional.log_softmax(self.logits, -1).expand(*value.shape, -1)
        level = torch.round(value.clamp(0.0, 1.0) * self._steps).long()
        return log_probs.gather(-1, level[..., None])[..., 0]

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        drawn = torch.distributions.Categorical(logits=self.logits)
        level = drawn.sample(torch.Size(sample_shape))
        return level.to(self.logits.dtype) / self._steps

    @property
    def mean(self) -> Tensor:
        probs = functional.softmax(self.logits, -1)
        levels = torch.arange(self._steps + 1, device=probs.device, dtype=probs.dtype)
        return probs @ (levels / self._steps)

    @property
    def _steps(self) -> int:
        return self.logits.shape[-1] - 1


def standard_normal(n: int, event_shape: Sequence[int], like: Tensor) -> dist.Distribution:
    """N(0, 1) of batch shape (n,) and the given event shape, with `like`'s device and dtype."""
    zero = like.new_zeros(()).expand(n, *event_shape)
    one = like.new_ones(()).expand(n, *event_shape)
    return dist.Normal(zero, one).to_event(len(event_shape))


def unwrapped(fn: Any) -> Any:
    """The distribution inside any number of `Independent`s, so that `.loc` works."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn


def tempered(fn: Any, temperature: float) -> Any:
    """`fn` with its scale multiplied by `temperature`; TypeError where there is none."""
    if isinstance(fn, torch.distributions.Independent):
        return tempered(fn.base_dist, temperature).to_event(fn.reinterpreted_batch_ndims)
    if not isinstance(fn, torch.distributions.Normal):
        raise TypeError(
            f"temperature: expected a Normal, came {type(fn).__name__}: "
            "sample at temperature 1, or write the tempered prior into the program"
        )
    return dist.Normal(fn.loc, fn.scale * temperature)
