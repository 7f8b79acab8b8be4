r"""Inverse autoregressive flow of volume one: each value shifted by what comes before it.

.. math:: y = z - \mu(z), \qquad \log |\det \partial y / \partial z| = 0

(Kingma et al. 2016 with a scale of one: NVAE's cells.) A draw is one pass of μ; the density of a
draw takes z from the transform's cache, that of any other y solves for z, which takes as many
passes as y has values at most.
"""

from __future__ import annotations

__all__ = ["AutoregressiveShift"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, constraints


class AutoregressiveShift(Transform):
    """y = z - μ(z) of maps (…, channels, height, width).

    Args:
        net: μ, strictly autoregressive in any order (`ppl_vae.pyro.nets.masked.ShiftNet`).
        context: (n, C), what μ looks at besides, where its net takes any.
    """

    domain = constraints.independent(constraints.real, 3)
    codomain = constraints.independent(constraints.real, 3)
    bijective = True

    def __init__(
        self, net: Callable[..., Tensor], context: Tensor | None = None, cache_size: int = 1
    ) -> None:
        super().__init__(cache_size=cache_size)
        self.net, self.context = net, context

    def with_cache(self, cache_size: int = 1) -> AutoregressiveShift:
        if cache_size == self._cache_size:
            return self
        return AutoregressiveShift(self.net, self.context, cache_size)

    def __eq__(self, other: Any) -> bool:
        alike = isinstance(other, AutoregressiveShift) and other.net is self.net
        return alike and other.context is self.context

    def _call(self, z: Tensor) -> Tensor:
        return z - self._shift(z)

    def _inverse(self, y: Tensor) -> Tensor:
        # The k-th value in the order is right after k rounds, and stays so.
        z = y
        for _ in range(y.shape[-3:].numel()):
            before, z = z, y + self._shift(z)
            if torch.equal(before, z):
                break
        return z

    def log_abs_det_jacobian(self, z: Tensor, y: Tensor) -> Tensor:
        return z.new_zeros(z.shape[:-3])

    def _shift(self, z: Tensor) -> Tensor:
        flat = z.reshape(-1, *z.shape[-3:])
        if self.context is None:
            return self.net(flat).reshape(z.shape)
        context = self.context.expand(*z.shape[:-3], self.context.shape[-1])
        return self.net(flat, context.reshape(len(flat), -1)).reshape(z.shape)
