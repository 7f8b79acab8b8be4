"""Very Deep VAE by hand in plain torch, as one would write it without a PPL, in a single pass.

The mathematics of `VeryDeepVAE` with `VeryDeepGuide` (Bernoulli images) and the analytic ELBO.
Attributes have the zoo's names, so that its weights load as they are.
"""

from __future__ import annotations

__all__ = ["VeryDeepByHand"]

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.problem import Problem
from ppl_vae.stages import Pyramid, read_stages, read_widths


def conv(a: int, b: int, size: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, size, padding=size // 2)


class Block(nn.Module):
    """Four convolutions, each behind a GELU."""

    def __init__(self, a: int, inner: int, b: int, side: int) -> None:
        super().__init__()
        size = 3 if side > 2 else 1
        self.convs = nn.ModuleList(
            [conv(a, inner), conv(inner, inner, size), conv(inner, inner, size), conv(inner, b)]
        )

    def forward(self, h: Tensor) -> Tensor:
        for layer in self.convs:
            h = layer(F.gelu(h))
        return h


class Group(nn.Module):
    """A group of the decoder."""

    def __init__(self, width: int, inner: int, latents: int, side: int) -> None:
        super().__init__()
        self.prior_net = Block(width, inner, 2 * latents + width, side)
        self.project = conv(latents, width)
        self.residual = Block(width, inner, width, side)


class Tower(nn.Module):
    """The encoder; the last map at each resolution."""

    def __init__(self, pyramid: Pyramid, path: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.path = path
        self.widths = {side: pyramid.channels(side) for side, *_ in pyramid.places}
        self.stem = conv(1, pyramid.width, 3)
        self.blocks = nn.ModuleList(
            Block(pyramid.channels(side), pyramid.inner(side), pyramid.channels(side), side)
            for side, _ in path
        )

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        h = self.stem(x)
        found = {h.shape[2]: h}
        for block, (side, down) in zip(self.blocks, self.path, strict=True):
            h = h + block(h)
            if down > 1:
                h = F.avg_pool2d(h, down)
            more = self.widths[side // down] - h.shape[1]
            if more:
                h = F.pad(h, (0, 0, 0, 0, 0, more))
            found[side // down] = h
        return found


class VeryDeepByHand(nn.Module):
    """Sizes alone come from the zoo's `Pyramid`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        sizes = problem.model_args
        self.latents = latents = sizes["latent_channels"]
        decoder = read_stages(sizes["decoder"], "decoder")
        bottleneck = sizes.get("bottleneck", 0.25)
        widths, width = read_widths(sizes["widths"]), sizes["width"]
        pyramid = Pyramid(problem.x_shape, decoder, width, widths, latents, bottleneck)
        self.places, self.side = pyramid.places, pyramid.side
        encoder = read_stages(problem.guide_args["encoder"], "encoder")
        self.tower = Tower(pyramid, pyramid.climb(encoder))
        shapes = [(pyramid.channels(side), pyramid.inner(side), side) for side, *_ in self.places]
        self.groups = nn.ModuleList(Group(w, inner, latents, side) for w, inner, side in shapes)
        self.heads = nn.ModuleList(
            Block(2 * w, inner, 2 * latents, side) for w, inner, side in shapes
        )
        self.sides = pyramid.biases
        self.starts = nn.ParameterList(
            torch.zeros(1, pyramid.channels(side), side, side) for side in self.sides
        )
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.out = conv(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Batch means of log p(x | z) and of each site's divergence, z1 first; nats."""
        height, width = x.shape[2:]
        above, left = (self.side - height) // 2, (self.side - width) // 2
        pad = (left, self.side - width - left, above, self.side - height - above)
        maps = self.tower((255 * F.pad(x, pad) - 127.5) / 127.5)
        states = {
            side: start.expand(len(x), *start.shape[1:])
            for side, start in zip(self.sides, self.starts, strict=True)
        }
        divergences = []
        group: Any
        for group, head, (side, up, _) in zip(self.groups, self.heads, self.places, strict=True):
            h = states[side]
            if up is not None:
                h = h + F.interpolate(states[up][:, : h.shape[1]], scale_factor=side // up)
            latents = self.latents
            found = group.prior_net(h).tensor_split((latents, 2 * latents), 1)
            prior_loc, prior_log, increment = found
            loc, log = head(torch.cat([h, maps[side]], 1)).chunk(2, 1)
            scale, prior_scale = log.exp(), prior_log.exp()
            z = loc + scale * torch.randn_like(loc)
            ratio = (scale / prior_scale) ** 2
            kl = ratio + ((loc - prior_loc) / prior_scale) ** 2 - 1 - ratio.log()
            divergences.append(0.5 * kl.sum((1, 2, 3)).mean())
            h = h + increment + group.project(z)
            states[side] = h + group.residual(h)
        logits = self.out(states[self.side] * self.gain + self.bias)
        logits = logits[:, :, above : above + height, left : left + width]
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        return -nll, divergences[::-1]
