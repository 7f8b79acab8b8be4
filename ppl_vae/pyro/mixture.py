r"""Mixture of discretised logistics over the channels of a pixel (Salimans et al. 2017, eq. 3).

.. math::
    P(x) = \sum_m \pi_m \prod_c \left[\sigma\left(\frac{x_c + b - \mu_{cm}}{s_{cm}}\right)
        - \sigma\left(\frac{x_c - b - \mu_{cm}}{s_{cm}}\right)\right], \qquad
    \mu_{cm}(x) = \mu^0_{cm} + \sum_{d<c} k_{cdm}\, x_d

with x on [-1, 1] and b half the width of a level, 1 / (num_levels - 1). One component is drawn for
all channels of a pixel, and each channel's location leans on the channels before it.

| edges | first and last level | levels between |
|---|---|---|
| proper | the levels themselves; probabilities sum to one | exact mass |
| vdvae | below -0.999, above 0.999 | mass, or below 1e-5 the centre's density times the width |
| nvae | below -0.999, above 0.99, so that 254 of 255 has the upper tail as well | as vdvae |

The latter two are those of published weights (Child 2021; Vahdat & Kautz 2020), which sum to about
one only.
"""

from __future__ import annotations

__all__ = ["EDGES", "DiscretizedLogisticMixture"]

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.nn import functional

from ppl_vae.errors import UsageError, nearest

EDGES: dict[str, tuple[float, float]] = {"vdvae": (-0.999, 0.999), "nvae": (-0.999, 0.99)}
LEAST_MASS = 1e-5  # below which "vdvae" and "nvae" take the density


class DiscretizedLogisticMixture(TorchDistribution):
    """Images (channels, height, width) of levels 0, 1/(num_levels-1), …, 1.

    Locations, scales and coefficients are those of 2x - 1, as in published weights; values,
    draws and the mean are on [0, 1].

    Args:
        logits: of the components, (…, M, height, width).
        loc: μ⁰, (…, channels, M, height, width).
        log_scale: log s, as `loc`.
        coefficients: k, (…, channels·(channels-1)/2, M, height, width), for the pairs (second,
            first), (third, first), (third, second), …; None leaves the channels apart.
        num_levels: 256 for 8 bits, 32 for 5.
        edges: "proper", "vdvae" or "nvae".
    """

    arg_constraints: ClassVar = {
        "logits": constraints.independent(constraints.real, 3),
        "loc": constraints.independent(constraints.real, 4),
        "log_scale": constraints.independent(constraints.real, 4),
    }
    support = constraints.independent(constraints.unit_interval, 3)
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        log_scale: Tensor,
        coefficients: Tensor | None = None,
        num_levels: int = 256,
        edges: str = "proper",
        validate_args: bool | None = None,
    ) -> None:
        if edges != "proper" and edges not in EDGES:
            raise UsageError(f"edges: unknown {edges!r}: {nearest(edges, ('proper', *EDGES))}")
        self.logits, self.loc, self.log_scale = logits, loc, log_scale
        self.coefficients, self.num_levels, self.edges = coefficients, num_levels, edges
        super().__init__(loc.shape[:-4], _event_shape(loc), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(DiscretizedLogisticMixture, _instance)
        batch = torch.Size(batch_shape)
        new.logits = self.logits.expand(batch + self.logits.shape[-3:])
        for name in ("loc", "log_scale", "coefficients"):
            part = getattr(self, name)
            setattr(new, name, None if part is None else part.expand(batch + part.shape[-4:]))
        new.num_levels, new.edges = self.num_levels, self.edges
        super(DiscretizedLogisticMixture, new).__init__(
            batch, self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of each image, nats, the batch's shape."""
        if self._validate_args:
            self._validate_sample(value)
        x = 2.0 * value - 1.0
        of_channels = self._log_mass(x.unsqueeze(-3), self._leaning(x))
        of_components = of_channels.sum(-4) + functional.log_softmax(self.logits, -3)
        return of_components.logsumexp(-3).sum((-2, -1))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draws of the proper distribution, whatever the edges: levels of [0, 1]."""
        batch = torch.Size(sample_shape) + self.batch_shape
        logits = self.logits.expand(batch + self.logits.shape[-3:])
        noise = -torch.log(-torch.log(_uniform(logits)))  # Gumbel's: its argmax is a component
        index = (logits + noise).argmax(-3, keepdim=True).unsqueeze(-4)

        def chosen(part: Tensor) -> Tensor:
            part = part.expand(batch + part.shape[-4:])
            return part.take_along_dim(index, -3).squeeze(-3)

        loc, scale = chosen(self.loc), chosen(self.log_scale).exp()
        spread = scale * torch.logit(_uniform(loc))
        lean = None if self.coefficients is None else chosen(self.coefficients)
        channels: list[Tensor] = []
        for c in range(self.event_shape[0]):
            at = _leaning_on(loc[..., c, :, :], channels, lean, -3)
            channels.append(self._level(at + spread[..., c, :, :]) * 2.0 - 1.0)
        return self._level(torch.stack(channels, -3))

    @property
    def mean(self) -> Tensor:
        """Mean of the clipped draw before it is rounded: within half a level of that of draws.

        A channel's location is taken at the mean of those before it, which is exact where a
        component's mass lies within the range.
        """
        means: list[Tensor] = []
        for c in range(self.event_shape[0]):
            at = _leaning_on(self.loc[..., c, :, :, :], means, self.coefficients, -4)
            scale = self.log_scale[..., c, :, :, :].exp()
            low, high = functional.softplus((at + 1) / scale), functional.softplus((at - 1) / scale)
            means.append(scale * (low - high) - 1.0)
        of_components = torch.stack(means, -4)
        shares = functional.softmax(self.logits, -3).unsqueeze(-4)
        return 0.5 + 0.5 * (shares * of_components).sum(-3)

    def _leaning(self, x: Tensor) -> Tensor:
        """Locations given the image itself, (…, channels, M, height, width)."""
        if self.coefficients is None:
            return self.loc
        channels = list(x.unsqueeze(-3).unbind(-4))
        found = [
            _leaning_on(self.loc[..., c, :, :, :], channels[:c], self.coefficients, -4)
            for c in range(len(channels))
        ]
        return torch.stack(torch.broadcast_tensors(*found), -4)

    def _log_mass(self, x: Tensor, loc: Tensor) -> Tensor:
        """Log probability of each level under each component, (…, channels, M, height, width)."""
        half = 1.0 / (self.num_levels - 1)
        sharpness = torch.exp(-self.log_scale)
        off = x - loc
        # σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)): exact, and finite however narrow the scale.
        below = functional.logsigmoid((off + half) * sharpness)
        above = functional.logsigmoid((half - off) * sharpness)
        inside = below + above + torch.log(-torch.expm1(-2.0 * half * sharpness))
        lowest, highest = EDGES.get(self.edges, (half - 1.0, 1.0 - half))
        if self.edges != "proper":
            middle = off * sharpness
            density = functional.logsigmoid(middle) + functional.logsigmoid(-middle)
            density = density - self.log_scale + math.log(2.0 * half)
            inside = torch.where(inside > math.log(LEAST_MASS), inside, density)
        return torch.where(x < lowest, below, torch.where(x > highest, above, inside))

    def _level(self, x: Tensor) -> Tensor:
        """The nearest level on [0, 1] of values on [-1, 1]."""
        steps = self.num_levels - 1
        return torch.round((0.5 + 0.5 * x).clamp(0.0, 1.0) * steps) / steps


def _leaning_on(loc: Tensor, before: list[Tensor], coefficients: Any, axis: int) -> Tensor:
    """A channel's location moved by the channels before it."""
    if coefficients is None:
        return loc
    first = math.comb(len(before), 2)  # pairs of all channels before this one
    for i, x in enumerate(before):
        loc = loc + coefficients.select(axis, first + i) * x
    return loc


def _event_shape(loc: Tensor) -> torch.Size:
    return torch.Size((loc.shape[-4], *loc.shape[-2:]))


def _uniform(like: Tensor) -> Tensor:
    return torch.rand_like(like).clamp(1e-6, 1.0 - 1e-6)
