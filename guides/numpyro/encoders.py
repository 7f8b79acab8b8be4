"""Deterministic nets from an image to features, one set a latent site."""

from __future__ import annotations

__all__ = ["Tower"]

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax import Array

from ppl_vae.architecture import Architecture
from ppl_vae.numpyro.nets import MLP, encoder


class Tower(nnx.Module):
    """Bottom-up features d_1 = f_1(x), d_l = f_l(d_{l-1}) (Sønderby et al. 2016, eq. 4).

    Args:
        x_shape: (channels, height, width).
        num_sites: L.
        architecture: widths, activation, batch norm; the first net may be convolutional.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        num_sites: int,
        architecture: Architecture,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        widths = architecture.widths(num_sites)
        nets: list[Any] = [encoder(x_shape, widths[0], architecture, rngs=rngs)]
        for width in widths[1:]:
            num_inputs = nets[-1].out_features
            nets.append(
                MLP(num_inputs, width, architecture.activation, architecture.batch_norm, rngs=rngs)
            )
        self.nets = nnx.List(nets)
        self.out_features = tuple(net.out_features for net in nets)

    def __call__(self, x: Array) -> list[Array]:
        """[d_1, …, d_L], each (n, out_features[l])."""
        features: list[Array] = []
        for net in self.nets:
            x = net(x)
            features.append(x)
        return features
