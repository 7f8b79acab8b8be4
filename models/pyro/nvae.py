r"""The Nouveau VAE's generative model (Vahdat & Kautz 2020, arXiv 2007.03898).

.. math:: p(x, z) = p(x | z)\, N(z_L; 0, 1.01^2) \prod_{l<L} p(z_l | z_{>l})

A learned state at the coarsest scale goes down a tower of residual cells; at each group it gives
the prior of a map of latents, and takes the draw in.
"""

from __future__ import annotations

__all__ = ["NVAE", "Group"]

from collections.abc import Iterable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.checks import check_batch
from ppl_vae.memory import LARGEST
from ppl_vae.pyro.bind import bind
from ppl_vae.pyro.clamped import ClampedNormal
from ppl_vae.pyro.likelihoods import Likelihood
from ppl_vae.pyro.nets.precision import in_full
from ppl_vae.pyro.nets.residual import InvertedCell, through
from ppl_vae.pyro.nets.weight_norm import WeightNormConv
from ppl_vae.scales import Scales, check_sizes, groups_per_scale


class Group(nn.Module):
    """p(z_l | z_{>l}): cells over the state, a head for the prior, a merge of the draw."""

    def __init__(
        self, cells: Iterable[nn.Module], width: int, latent_channels: int, is_top: bool
    ) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.head = None if is_top else WeightNormConv(width, 2 * latent_channels, 1)
        self.combine = WeightNormConv(width + latent_channels, width, 1)
        self.latent_channels = latent_channels

    def prior(self, h: Tensor) -> dist.Distribution:
        """Of z (n, latent, h, w) given the state (n, channels, h, w); the top one is fixed."""
        if self.head is None:
            zero = h.new_zeros(()).expand(len(h), self.latent_channels, *h.shape[2:])
            return ClampedNormal(zero, zero).to_event(3)
        raw_loc, raw_scale = in_full(self.head(functional.elu(h))).chunk(2, 1)
        return ClampedNormal(raw_loc, raw_scale).to_event(3)

    def merge(self, h: Tensor, z: Tensor) -> Tensor:
        """The state (n, channels, h, w) with the draw (n, latent, h, w) taken in."""
        state: Tensor = self.combine(torch.cat([h, z], 1))
        return state


class NVAE(nn.Module):
    """Groups of latent maps at several scales, z1 the last of the finest, zL the first of the top.

    A site's context is the decoder's state before its draw, (n, channels, height, width).

    Args:
        x_shape: (channels, height, width); images in [0, 1].
        scales: of latents; the sides double from each to the next.
        groups: at each scale, or at each scale by itself, finest first.
        adaptive_groups: half as many (rounded down) at each coarser scale, ...
        min_groups: ... but no fewer than this.
        latent_channels: of a group's map.
        channels: of the tower at the image's own scale; twice as many at each coarser one.
        blocks: doublings of the sides between the finest latents and the image.
        block_cells: cells at each of these.
        group_cells: cells before each group.
        squeeze_excite: gates over the channels in every cell.
        likelihood: "bernoulli", "discretized_logistic", "discretized_logistic_mixture", or
            "normal": NVAE's own clamped Normal on 2x - 1, as a density of x. Its negative log
            likelihood is lower by ln 2 a pixel and channel than that of 2x - 1, which the
            authors' code reports.
        components: M of the mixture of logistics.
        num_levels: of the images that the program is about, 256 for 8 bits; with fewer, the images
            that it is given are brought to floor(255 x · num_levels / 256) / (num_levels - 1).
        edges: of the mixture, see `DiscretizedLogisticMixture`; "nvae" for the authors' weights.
        padding: zeros at each side of the image before the nets, at least (2 makes MNIST's
            28 × 28 the authors' 32 × 32); the likelihood sees the image alone.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        scales: int = 2,
        groups: int | Sequence[int] = 10,
        adaptive_groups: bool = False,
        min_groups: int = 1,
        latent_channels: int = 20,
        channels: int = 32,
        blocks: int = 2,
        block_cells: int = 3,
        group_cells: int = 2,
        squeeze_excite: bool = True,
        likelihood: str = "bernoulli",
        components: int = 10,
        num_levels: int = 256,
        edges: str = "proper",
        padding: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(
            channels=channels,
            latent_channels=latent_channels,
            block_cells=block_cells,
            group_cells=group_cells,
        )
        self.x_shape = tuple(x_shape)
        counts = groups_per_scale(scales, groups, adaptive_groups, min_groups)
        self.layout = Scales(self.x_shape, counts, blocks, padding)
        self.channels, self.latent_channels = channels, latent_channels
        self.block_cells, self.group_cells = block_cells, group_cells
        self.squeeze_excite = squeeze_excite
        self.likelihood = Likelihood(
            likelihood, components=components, num_levels=num_levels, edges=edges
        )
        self.num_levels = num_levels
        self.top = nn.Parameter(torch.rand(self.layout.width(channels, 0), *self.layout.sides(0)))
        self.groups = nn.ModuleList(self._groups())
        self.post = nn.ModuleList(self._post())
        self.out = WeightNormConv(channels, self.likelihood.num_outputs(x_shape[0]), 3)

    def forward(self, x: Tensor | None = None, *, n: int | None = None) -> Tensor:
        """Images (n, c, h, w): `x`, or n generated ones."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, pyro.plate("data", n):
            h = net.top.expand(n, *net.top.shape)
            group: Any
            for level, group in zip(range(len(net.groups), 0, -1), net.groups, strict=True):
                h = through(group.cells, h)
                z = pyro.sample(f"z{level}", group.prior(h), infer={"context": h})
                h = group.merge(h, z)
            x = None if x is None else net.seen(x)
            return pyro.sample("x", net.image(net.decode(h)), obs=x)

    @property
    def rows(self) -> int:
        """Images that go through the nets at once: `LARGEST` values of the widest layer."""
        height, width = self.layout.sides(len(self.layout.groups) - 1)
        at_image = height * width * 4**self.layout.blocks * 6 * self.channels
        return max(1, LARGEST // at_image)

    def decode(self, h: Tensor) -> Tensor:
        """Likelihood parameters of the image from the last state: (n, parameters, h, w)."""
        h = self.out(functional.elu(through(self.post, h)))
        (above, _), (left, _) = self.layout.margins
        _, height, width = self.x_shape
        return h[:, :, above : above + height, left : left + width]

    def image(self, h: Tensor) -> dist.Distribution:
        """p(x | z) from likelihood parameters."""
        if self.likelihood.name != "normal":
            return self.likelihood(h)
        raw_loc, raw_scale = in_full(h).chunk(2, 1)
        scaled = ClampedNormal(raw_loc, raw_scale)  # of 2x - 1
        return dist.Normal(0.5 + 0.5 * scaled.loc, 0.5 * scaled.scale).to_event(3)

    def seen(self, x: Tensor) -> Tensor:
        """Images at the levels that the program is about."""
        if self.num_levels == 256 or self.likelihood.name == "bernoulli":
            return x
        levels = torch.floor(torch.round(255 * x) * (self.num_levels / 256))
        return levels / (self.num_levels - 1)

    def _groups(self) -> list[Group]:
        found: list[Group] = []
        above = 0
        for index, scale in enumerate(self.layout.of_groups):
            width = self.layout.width(self.channels, scale)
            ups = [(2 * width, True)] if scale != above else []
            same = [(width, False)] * (self.group_cells if index else 0)
            cells = [
                InvertedCell(w, up, squeeze_excite=self.squeeze_excite) for w, up in [*ups, *same]
            ]
            found.append(Group(cells, width, self.latent_channels, index == 0))
            above = scale
        return found

    def _post(self) -> list[InvertedCell]:
        found: list[InvertedCell] = []
        width = self.layout.width(self.channels, len(self.layout.groups) - 1)
        for _ in range(self.layout.blocks):
            for index in range(self.block_cells):
                found.append(InvertedCell(width, index == 0, 3, self.squeeze_excite))
                width = found[-1].out_features
        return found
