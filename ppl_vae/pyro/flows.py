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
    """

    domain = constraints.independent(constraints.real, 3)
    codomain = constraints.independent(constraints.real, 3)
    bijective = True

    def __init__(self, net: Callable[[Tensor], Tensor], cache_size: int = 1) -> None:
        super().__init__(cache_size=cache_size)
        self.net = net

    def with_cache(self, cache_size: int = 1) -> AutoregressiveShift:
        return self if cache_size == self._cache_size else AutoregressiveShift(self.net, cache_size)

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, AutoregressiveShift) and other.net is self.net

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
        return self.net(z.reshape(-1, *z.shape[-3:])).reshape(z.shape)
