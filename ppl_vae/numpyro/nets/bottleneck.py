r"""The block of which a very deep VAE is made (Child 2021, arXiv 2011.10650, figure 3).

.. math:: f = W_4\, \phi\, W_3\, \phi\, W_2\, \phi\, W_1\, \phi, \qquad \phi = \mathrm{GELU}

W1 and W4 look at one pixel, W2 and W3 at 3 × 3 of them, in a narrower space between. There is no
normalisation; a small last layer keeps a deep stack of them steady at the start.
"""

from __future__ import annotations

__all__ = ["Bottleneck", "pixel_conv"]

import jax
from flax import nnx
from jax import Array

from ppl_vae.numpyro.nets.convolution import conv_general_dilated
from ppl_vae.numpyro.nets.initial import uniform, zeros
from ppl_vae.numpyro.nets.mlp import gelu


class Bottleneck(nnx.Module):
    """Maps (n, side, side, num_inputs) to (n, side, side, num_outputs): channels last.

    Args:
        num_inputs, inner, num_outputs: channels before, within and after.
        side: of the maps; up to 2 the inner layers look at single pixels too.
        residual: the input is added to the output.
        gain: factor on the initial weights of the last layer.
        recompute: what is between input and output is not kept for the gradient's way back, but
            computed again (Chen et al. 2016, arXiv 1604.06174): less memory, more time.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        num_inputs: int,
        inner: int,
        num_outputs: int,
        side: int,
        residual: bool = False,
        gain: float = 1.0,
        recompute: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        size = 3 if side > 2 else 1
        self.convs = nnx.List(
            [
                conv(num_inputs, inner, 1, rngs=rngs),
                conv(inner, inner, size, rngs=rngs),
                conv(inner, inner, size, rngs=rngs),
                conv(inner, num_outputs, 1, gain, rngs=rngs),
            ]
        )
        self.residual, self.recompute = residual, recompute

    def __call__(self, x: Array) -> Array:
        if not self.recompute:
            return self._forward(x)
        # Only the net, never a sample statement: what is drawn is drawn once.
        graph, params = nnx.split(self)
        found: Array = jax.checkpoint(lambda p, x: nnx.merge(graph, p)._forward(x))(params, x)
        return found

    def _forward(self, x: Array) -> Array:
        h = x
        for layer in self.convs:
            h = layer(gelu(h))
        return x + h if self.residual else h


def conv(
    num_inputs: int, num_outputs: int, size: int, gain: float = 1.0, *, rngs: nnx.Rngs
) -> nnx.Conv:
    """Weights U(±gain / √fan_in), as torch has them for gain 1, and zero bias."""
    return nnx.Conv(
        num_inputs,
        num_outputs,
        (size, size),
        padding=size // 2,
        kernel_init=uniform(num_inputs * size**2, gain),
        bias_init=zeros,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def pixel_conv(num_inputs: int, num_outputs: int, gain: float = 1.0, *, rngs: nnx.Rngs) -> nnx.Conv:
    """A linear map of each pixel's channels."""
    return conv(num_inputs, num_outputs, 1, gain, rngs=rngs)
