"""NVAE's autoregressive cell: a map to a map, each value from those before it alone."""

from __future__ import annotations

__all__ = ["ShiftNet"]

import math
from typing import Any

import jax
from flax import nnx
from jax import Array

from ppl_vae.masks import Mask
from ppl_vae.numpyro.nets.mlp import linear
from ppl_vae.numpyro.nets.residual import channels_first, channels_last
from ppl_vae.numpyro.nets.weight_norm import WeightNormConv


class ShiftNet(nnx.Module):
    """μ(z), (n, channels, height, width) as z: strictly autoregressive (see `ppl_vae.masks`).

    Masked 3 × 3 to `expansion` times the channels, ELU, masked depthwise 5 × 5, ELU twice, masked
    1 × 1 back (the authors' cell). The last convolution begins at a tenth of its length.

    Args:
        width: channels of z.
        reverse: from the last pixel back, not raster order.
        expansion: of the channels inside.
        num_context: numbers (n, num_context) that every value may depend on besides: they shift
            the first convolution's outcome.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        width: int,
        reverse: bool = False,
        expansion: int = 6,
        num_context: int = 0,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        inner = expansion * width
        first = Mask(width, inner, 3, strict=True, reverse=reverse)
        second = Mask(inner, inner, 5, reverse=reverse, depthwise=True)
        third = Mask(inner, width, 1, reverse=reverse)
        self.convs = nnx.List(
            [
                WeightNormConv(width, inner, 3, bias=False, mask=first, rngs=rngs),
                WeightNormConv(inner, inner, 5, bias=False, groups=inner, mask=second, rngs=rngs),
                WeightNormConv(inner, width, 1, mask=third, rngs=rngs),
            ]
        )
        self.context = linear(num_context, inner, rngs=rngs) if num_context else None
        last = self.convs[-1].log_weight_norm
        last[...] = last[...] + math.log(0.1)

    def __call__(self, z: Array, context: Any = None) -> Array:
        h = self.convs[0](channels_last(z))
        if self.context is not None:
            h = h + self.context(context)[..., None, None, :]
        h = jax.nn.elu(h)
        h = jax.nn.elu(jax.nn.elu(self.convs[1](h)))
        return channels_first(self.convs[2](h))
