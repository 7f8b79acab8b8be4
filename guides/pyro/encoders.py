"""Deterministic nets from an image to features, one set a latent site."""

from __future__ import annotations

__all__ = ["ResidualTower", "Tower"]

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.architecture import Architecture
from ppl_vae.pyro.nets import MLP, encoder
from ppl_vae.pyro.nets.residual import ResidualCell, through
from ppl_vae.pyro.nets.weight_norm import WeightNormConv
from ppl_vae.scales import Scales


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


class ResidualTower(nn.Module):
    """NVAE's encoder (Vahdat & Kautz 2020, figure 2): residual cells from the image up.

    Args:
        scales: where the groups of latents stand.
        channels: at the image's own scale; twice as many at each coarser one.
        block_cells: cells of each halving before the finest scale, the last one halving.
        group_cells: cells before each group.
        squeeze_excite: gates over the channels in every cell.
    """

    def __init__(
        self,
        scales: Scales,
        channels: int,
        block_cells: int,
        group_cells: int,
        squeeze_excite: bool = True,
    ) -> None:
        super().__init__()
        self.scales = scales
        self.stem = WeightNormConv(scales.x_shape[0], channels, 3)
        self.pre = nn.ModuleList(
            ResidualCell(channels * 2**block, last, squeeze_excite)
            for block in range(scales.blocks)
            for last in [False] * (block_cells - 1) + [True]
        )
        groups: list[nn.ModuleList] = []
        below = len(scales.groups) - 1
        for scale in reversed(scales.of_groups):
            width = scales.width(channels, scale)
            down = [(width // 2, True)] if scale != below else []
            cells = [
                ResidualCell(w, halve, squeeze_excite)
                for w, halve in [*down, *[(width, False)] * group_cells]
            ]
            groups.append(nn.ModuleList(cells))
            below = scale
        self.groups = nn.ModuleList(groups)
        self.top = WeightNormConv(width, width, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of images in [0, 1], one a group, from the top group down to that of z1."""
        (above, under), (left, right) = self.scales.margins
        x = functional.pad(x, (left, right, above, under))
        h = through(self.pre, self.stem(2 * x - 1))
        found: list[Tensor] = []
        cells: Any
        for cells in self.groups:
            h = through(cells, h)
            found.append(h)
        found[-1] = functional.elu(self.top(functional.elu(h)))
        return found[::-1]
