"""NVAE by hand in plain torch, as one would write it without a PPL: a single pass of both towers.

The mathematics of `NVAE` with `NVAEGuide` (residual posteriors, no flows, Bernoulli images) and the
analytic ELBO. Attributes have the zoo's names, so that its weights load as they are.
"""

from __future__ import annotations

__all__ = ["NVAEByHand"]

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.problem import Problem


class Conv(nn.Conv2d):
    """Convolution of a direction and a length."""

    def __init__(self, a: int, b: int, size: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__(a, b, size, stride, size // 2, bias=bias)
        self.log_weight_norm = nn.Parameter(torch.zeros(b, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)
        w = self.log_weight_norm.exp() * self.weight / (norm + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, max(width // 16, 4))
        self.excite = nn.Linear(max(width // 16, 4), width)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.squeeze(x.mean((2, 3))))
        return x * self.excite(h).sigmoid()[:, :, None, None]


class Down(nn.Module):
    """Four convolutions of one pixel in four each."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Conv(a, b // 4, 1, 2) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(x)
        shifts = ((0, 0), (1, 1), (0, 1), (1, 0))
        parts = [c(x[:, :, i:, j:]) for c, (i, j) in zip(self.convs, shifts, strict=True)]
        return torch.cat(parts, 1)


class Up(nn.Module):
    """Bilinear doubling and a convolution."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv = Conv(a, b, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True))


def norms(*widths: int) -> nn.ModuleList:
    return nn.ModuleList(nn.BatchNorm2d(width, momentum=0.05) for width in widths)


class EncoderCell(nn.Module):
    """Twice batch norm, Swish, convolution."""

    def __init__(self, a: int, down: bool) -> None:
        super().__init__()
        b = 2 * a if down else a
        self.norms = norms(a, b)
        self.convs = nn.ModuleList([Conv(a, b, 3, 2 if down else 1), Conv(b, b, 3)])
        self.skip = Down(a, b) if down else nn.Identity()
        self.gate = Gate(b)

    def forward(self, x: Tensor) -> Tensor:
        h = self.convs[0](F.silu(self.norms[0](x)))
        h = self.convs[1](F.silu(self.norms[1](h)))
        return self.skip(x) + 0.1 * self.gate(h)


class DecoderCell(nn.Module):
    """Wide, depthwise, narrow."""

    def __init__(self, a: int, up: bool, expansion: int) -> None:
        super().__init__()
        b, wide = a // 2 if up else a, expansion * a
        self.up = up
        self.norms = norms(a, wide, wide, b)
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(a, wide, 1, bias=False),
                nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False),
                nn.Conv2d(wide, b, 1, bias=False),
            ]
        )
        self.skip = Up(a, b) if up else nn.Identity()
        self.gate = Gate(b)

    def forward(self, x: Tensor) -> Tensor:
        h = F.interpolate(x, scale_factor=2.0) if self.up else x
        h = self.convs[0](self.norms[0](h))
        h = self.convs[1](F.silu(self.norms[1](h)))
        h = self.convs[2](F.silu(self.norms[2](h)))
        return self.skip(x) + 0.1 * self.gate(self.norms[3](h))


class Group(nn.Module):
    """A group of the decoder: its cells, its prior's head, its merge."""

    def __init__(self, cells: list[nn.Module], width: int, latents: int, top: bool) -> None:
        super().__init__()
        self.cells = nn.Sequential(*cells)
        self.head = nn.Identity() if top else Conv(width, 2 * latents, 1)
        self.combine = Conv(width + latents, width, 1)


class Tower(nn.Module):
    """The encoder; maps from the top group down."""

    def __init__(self, channels: int, blocks: int, groups: tuple[int, int]) -> None:
        super().__init__()
        fine, width = groups[0], channels * 2**blocks
        self.stem = Conv(1, channels, 3)
        self.pre = nn.Sequential(*(EncoderCell(channels * 2**i, True) for i in range(blocks)))
        cells = [[EncoderCell(width, False)] for _ in range(fine)]
        cells.append([EncoderCell(width, True), EncoderCell(2 * width, False)])
        self.groups = nn.ModuleList(nn.Sequential(*some) for some in cells)
        self.top = Conv(2 * width, 2 * width, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.pre(self.stem(2 * x - 1))
        found = []
        for cells in self.groups:
            h = cells(h)
            found.append(h)
        found[-1] = F.elu(self.top(F.elu(h)))
        return found[::-1]


class NVAEByHand(nn.Module):
    """Two scales, one group at the coarser one."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        sizes = problem.model_args
        channels, blocks, latents = sizes["channels"], sizes["blocks"], sizes["latent_channels"]
        self.latents, fine = latents, sizes["groups"][0]
        _, height, width_of = problem.x_shape
        whole = 2 ** (blocks + 1)
        self.sides = [-(-side // whole) * whole for side in (height, width_of)]
        self.tower = Tower(channels, blocks, sizes["groups"])
        width = channels * 2**blocks
        self.top = nn.Parameter(torch.zeros(2 * width, *(side // whole for side in self.sides)))
        groups = [Group([], 2 * width, latents, True)]
        for index in range(fine):
            cells: list[nn.Module] = [DecoderCell(2 * width, True, 6)] if index == 0 else []
            groups.append(Group([*cells, DecoderCell(width, False, 6)], width, latents, False))
        self.groups = nn.ModuleList(groups)
        self.combine = nn.ModuleList(Conv(width, width, 1) for _ in range(fine))
        self.heads = nn.ModuleList(Conv(w, 2 * latents, 3) for w in (2 * width, *[width] * fine))
        self.post = nn.Sequential(*(DecoderCell(width // 2**i, True, 3) for i in range(blocks)))
        self.out = Conv(channels, 1, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Batch means of log p(x | z) and of each site's divergence, z1 first; nats."""
        (high, wide), (height, width) = self.sides, x.shape[2:]
        above, left = (high - height) // 2, (wide - width) // 2
        pad = (left, wide - width - left, above, high - height - above)
        maps = self.tower(F.pad(x, pad))
        h = self.top.expand(len(x), *self.top.shape)
        divergences = []
        group: Any
        for i, group in enumerate(self.groups):
            h = group.cells(h)
            if i:
                seen = maps[i] + self.combine[i - 1](h)
                prior_loc, prior_log = group.head(F.elu(h)).chunk(2, 1)
                loc, log = self.heads[i](seen).chunk(2, 1)
                loc, log = prior_loc + loc, prior_log + log
            else:
                loc, log = self.heads[0](maps[0]).chunk(2, 1)
                prior_loc = prior_log = h.new_zeros(())
            (loc, scale), (prior_loc, prior_scale) = normal(loc, log), normal(prior_loc, prior_log)
            z = loc + scale * torch.randn_like(loc)
            ratio = (scale / prior_scale) ** 2
            kl = ratio + ((loc - prior_loc) / prior_scale) ** 2 - 1 - ratio.log()
            divergences.append(0.5 * kl.sum((1, 2, 3)).mean())
            h = group.combine(torch.cat([h, z], 1))
        logits = self.out(F.elu(self.post(h)))[:, :, above : above + height, left : left + width]
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        return -nll, divergences[::-1]


def normal(loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Softly clamped."""
    return 5 * torch.tanh(loc / 5), torch.exp(5 * torch.tanh(log_scale / 5)) + 0.01
