r"""Convolutions whose weights are a direction and a length (NVAE's form of Salimans & Kingma 2016).

.. math:: w = e^{g} \, \frac{v}{\lVert v \rVert + 10^{-5}}

with one length g and one norm for each output channel.
"""

from __future__ import annotations

__all__ = ["WeightNormConv"]

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ppl_vae.masks import Mask
from ppl_vae.numpyro.nets.convolution import conv
from ppl_vae.numpyro.nets.depthwise import depthwise
from ppl_vae.numpyro.nets.initial import uniform


class WeightNormConv(nnx.Module):
    """Square convolution that keeps the sides (at stride 1) of maps (n, height, width, c).

    Weights, in torch's layout, and bias begin as torch's own, uniform within ±1/√fan-in, and
    `log_weight_norm`, g, at log(‖v‖ + 0.01).

    Args:
        num_inputs, num_outputs: channels.
        size: side of the kernel, odd.
        stride, bias: as of `torch.nn.Conv2d`.
        groups: 1, or as many as there are channels.
        mask: of the weights; the norm is that of what it leaves.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        size: int,
        stride: int = 1,
        bias: bool = True,
        groups: int = 1,
        mask: Mask | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride, self.groups, self.mask = stride, groups, mask
        fan_in = num_inputs // groups * size**2
        shape = (num_outputs, num_inputs // groups, size, size)
        self.weight = nnx.Param(uniform(fan_in)(rngs.params(), shape))
        self.bias = nnx.Param(uniform(fan_in)(rngs.params(), shape[:1])) if bias else None
        self.log_weight_norm = nnx.Param(jnp.log(_norm(self.direction()) + 0.01))

    def direction(self) -> Array:
        """v, (num_outputs, num_inputs / groups, size, size)."""
        v: Array = self.weight[...]
        return v if self.mask is None else v * self.mask.array().astype(v.dtype)

    def effective_weight(self) -> Array:
        """w, what the maps are convolved with."""
        v = self.direction()
        return jnp.exp(self.log_weight_norm[...]) * v / (_norm(v) + 1e-5)

    def __call__(self, x: Array) -> Array:
        w = self.effective_weight()
        h = conv(x, w, self.stride, w.shape[-1] // 2) if self.groups == 1 else depthwise(x, w)
        return h if self.bias is None else h + self.bias[...]


def _norm(v: Array) -> Array:
    return jnp.sqrt(jnp.sum(v**2, (1, 2, 3), keepdims=True))
