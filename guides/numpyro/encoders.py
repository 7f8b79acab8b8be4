"""Deterministic nets from an image to features, one set a latent site."""

from __future__ import annotations

__all__ = ["ResidualTower", "Tower"]

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ppl_vae.architecture import Architecture
from ppl_vae.numpyro.nets import MLP, encoder
from ppl_vae.numpyro.nets.residual import ResidualCell, channels_first, channels_last, through
from ppl_vae.numpyro.nets.weight_norm import WeightNormConv
from ppl_vae.scales import Scales


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


class ResidualTower(nnx.Module):
    """NVAE's encoder (Vahdat & Kautz 2020, figure 2): residual cells from the image up.

    Args:
        scales: where the groups of latents stand.
        channels: at the image's own scale; twice as many at each coarser one.
        block_cells: cells of each halving before the finest scale, the last one halving.
        group_cells: cells before each group.
        squeeze_excite: gates over the channels in every cell.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        scales: Scales,
        channels: int,
        block_cells: int,
        group_cells: int,
        squeeze_excite: bool = True,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.scales = scales
        self.stem = WeightNormConv(scales.x_shape[0], channels, 3, rngs=rngs)
        self.pre = nnx.List(
            [
                ResidualCell(channels * 2**block, last, squeeze_excite, rngs=rngs)
                for block in range(scales.blocks)
                for last in [False] * (block_cells - 1) + [True]
            ]
        )
        groups: list[nnx.List] = []
        below = len(scales.groups) - 1
        for scale in reversed(scales.of_groups):
            width = scales.width(channels, scale)
            down = [(width // 2, True)] if scale != below else []
            cells = [
                ResidualCell(w, halve, squeeze_excite, rngs=rngs)
                for w, halve in [*down, *[(width, False)] * group_cells]
            ]
            groups.append(nnx.List(cells))
            below = scale
        self.groups = nnx.List(groups)
        self.top = WeightNormConv(width, width, 1, rngs=rngs)

    def __call__(self, x: Array) -> list[Array]:
        """Maps of images in [0, 1], one a group, from the top group down to that of z1."""
        x = jnp.pad(x, ((0, 0), (0, 0), *self.scales.margins))
        h = through(self.pre, self.stem(channels_last(2 * x - 1)))
        found: list[Array] = []
        for cells in self.groups:
            h = through(cells, h)
            found.append(h)
        found[-1] = jax.nn.elu(self.top(jax.nn.elu(h)))
        return [channels_first(h) for h in found[::-1]]
