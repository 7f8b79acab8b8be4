"""Deterministic nets from an image to features, one set a latent site."""

from __future__ import annotations

__all__ = ["Tower"]

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ppl_vae.architecture import Architecture
from ppl_vae.pyro.nets import MLP, encoder


class Tower(nn.Module):
    """Bottom-up features d_1 = f_1(x), d_l = f_l(d_{l-1}) (Sønderby et al. 2016, eq. 4).

    Args:
        x_shape: (channels, height, width).
        num_sites: L.
        architecture: widths, activation, batch norm; the first net may be convolutional.
    """

    def __init__(self, x_shape: Sequence[int], num_sites: int, architecture: Architecture) -> None:
        super().__init__()
        widths = architecture.widths(num_sites)
        nets: list[Any] = [encoder(x_shape, widths[0], architecture)]
        for width in widths[1:]:
            num_inputs = nets[-1].out_features
            nets.append(MLP(num_inputs, width, architecture.activation, architecture.batch_norm))
        self.nets = nn.ModuleList(nets)
        self.out_features: tuple[int, ...] = tuple(net.out_features for net in nets)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[d_1, …, d_L], each (n, out_features[l])."""
        features: list[Tensor] = []
        for net in self.nets:
            x = net(x)
            features.append(x)
        return features
