r"""The head of every Gaussian here: loc and variance from features (Sønderby et al. 2016, eq. 5).

.. math:: \mu = W_\mu h + b_\mu, \qquad \sigma^2 = \mathrm{softplus}(W_\sigma h + b_\sigma)
"""

from __future__ import annotations

__all__ = ["GaussianHead"]

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.pyro.nets.mlp import linear
from ppl_vae.pyro.nets.precision import in_full

MIN_VARIANCE = 1e-6  # keeps the precision finite in float32


class GaussianHead(nn.Module):
    """Features (n, num_inputs) to loc and variance, each (n, *event_shape)."""

    def __init__(self, num_inputs: int, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.linear = linear(num_inputs, 2 * math.prod(self.event_shape))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = in_full(self.linear(h)).chunk(2, -1)
        variance = functional.softplus(raw) + MIN_VARIANCE
        shape = (-1, *self.event_shape)
        return loc.reshape(shape), variance.reshape(shape)
