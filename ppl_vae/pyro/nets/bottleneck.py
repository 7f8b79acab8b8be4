r"""The block of which a very deep VAE is made (Child 2021, arXiv 2011.10650, figure 3).

.. math:: f = W_4\, \phi\, W_3\, \phi\, W_2\, \phi\, W_1\, \phi, \qquad \phi = \mathrm{GELU}

W1 and W4 look at one pixel, W2 and W3 at 3 × 3 of them, in a narrower space between. There is no
normalisation; a small last layer keeps a deep stack of them steady at the start.
"""

from __future__ import annotations

__all__ = ["Bottleneck", "pixel_conv"]

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Bottleneck(nn.Module):
    """Maps (n, num_inputs, side, side) to (n, num_outputs, side, side).

    Args:
        num_inputs, inner, num_outputs: channels before, within and after.
        side: of the maps; up to 2 the inner layers look at single pixels too.
        residual: the input is added to the output.
        gain: factor on the initial weights of the last layer.
        recompute: what is between input and output is not kept for the gradient's way back, but
            computed again (Chen et al. 2016, arXiv 1604.06174): less memory, more time.
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
    ) -> None:
        super().__init__()
        size = 3 if side > 2 else 1
        self.convs = nn.ModuleList(
            [
                conv(num_inputs, inner, 1),
                conv(inner, inner, size),
                conv(inner, inner, size),
                conv(inner, num_outputs, 1, gain),
            ]
        )
        self.residual, self.recompute = residual, recompute

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            # Only the net, never a sample statement: what is drawn is drawn once.
            found: Tensor = checkpoint(
                self._forward, x, use_reentrant=False, preserve_rng_state=False
            )
            return found
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        h = x
        for layer in self.convs:
            h = layer(functional.gelu(h))
        return x + h if self.residual else h


def conv(num_inputs: int, num_outputs: int, size: int, gain: float = 1.0) -> nn.Conv2d:
    """Weights U(±gain / √fan_in), as torch has them for gain 1, and zero bias."""
    layer = nn.Conv2d(num_inputs, num_outputs, size, padding=size // 2)
    with torch.no_grad():
        layer.weight.mul_(gain)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def pixel_conv(num_inputs: int, num_outputs: int, gain: float = 1.0) -> nn.Conv2d:
    """A linear map of each pixel's channels."""
    return conv(num_inputs, num_outputs, 1, gain)
