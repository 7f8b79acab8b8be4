r"""A small causal transformer over a map in raster order (Vaswani et al. 2017, Attention Is All You
Need), normalised before each part (Xiong et al. 2020, On Layer Normalization in the Transformer).

.. math:: h_t = W x_{t-1} + p_t + V s_t, \qquad
          h \leftarrow h + \mathrm{attention}(\mathrm{norm}(h)), \quad
          h \leftarrow h + \mathrm{mlp}(\mathrm{norm}(h))

A position attends to itself and those before it, and reads the pixel before its own, so its
parameters depend on the pixels before it alone; and on all of them, however far.
"""

from __future__ import annotations

__all__ = ["TransformerNet"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.errors import UsageError
from ppl_vae.pyro.nets.mlp import linear

Cache = tuple[Tensor, Tensor]  # keys and values of the positions so far, (n, heads, t, d)


class TransformerBlock(nn.Module):
    """Causal attention and a perceptron of four times the width, each added to what came in."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.qkv, self.mix = linear(channels, 3 * channels), linear(channels, channels)
        self.up, self.down = linear(channels, 4 * channels), linear(4 * channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        """(n, t, channels): all positions at once."""
        q, k, v = self._split(h)
        return self._rest(h, functional.scaled_dot_product_attention(q, k, v, is_causal=True))

    def step(self, h: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """(n, 1, channels): the next position, and what is kept of it."""
        q, k, v = self._split(h)
        k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        return self._rest(h, functional.scaled_dot_product_attention(q, k, v)), (k, v)

    def _split(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.qkv(self.norms[0](h)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return q, k, v

    def _rest(self, h: Tensor, seen: Tensor) -> Tensor:
        h = h + self.mix(seen.transpose(1, 2).flatten(2))
        found: Tensor = h + self.down(functional.gelu(self.up(self.norms[1](h))))
        return found


class TransformerNet(nn.Module):
    """Images (n, c, h, w) to the parameters of every pixel given those before it.

    Args:
        x_shape: (channels, height, width).
        num_outputs: parameters of a pixel.
        channels: of a position, a multiple of `heads`.
        layers: how many blocks.
        num_features: channels of the map of features, 0 for none.
        heads: of the attention.

    Called, and asked to `generate`, as `PixelCNNNet` is; a draw keeps keys and values.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        num_outputs: int,
        channels: int = 32,
        layers: int = 5,
        num_features: int = 0,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise UsageError(f"layers: expected at least 1, came {layers}")
        if channels < 1 or channels % heads:
            raise UsageError(f"channels: expected a multiple of {heads} heads, came {channels}")
        self.x_shape, self.heads = tuple(x_shape), heads
        self.embed = linear(self.x_shape[0], channels)
        self.position = nn.Parameter(0.02 * torch.randn(x_shape[1] * x_shape[2], channels))
        self.features = linear(num_features, channels) if num_features else None
        self.blocks = nn.ModuleList(TransformerBlock(channels, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.out = linear(channels, num_outputs)

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        before = functional.pad(_sequence(x)[:, :-1], (0, 0, 1, 0))  # nothing before the first
        h = self.embed(before) + self._places(features)
        for block in self.blocks:
            h = block(h)
        found: Tensor = self.out(self.norm(h)).transpose(1, 2)
        return found.unflatten(2, self.x_shape[1:])

    @torch.no_grad()
    def generate(
        self, pick: Callable[[Tensor], Tensor], n: int, features: Tensor | None = None
    ) -> Tensor:
        """Images (n, c, h, w), pixel by pixel.

        Args:
            pick: parameters (n, num_outputs, 1, 1) to a draw (n, c, 1, 1).
        """
        places = self._places(features)
        x = places.new_zeros(n, 1, self.x_shape[0])
        blocks: list[Any] = list(self.blocks)
        none = places.new_zeros(n, self.heads, 0, places.shape[-1] // self.heads)
        caches: list[Cache] = [(none, none) for _ in blocks]
        drawn: list[Tensor] = []
        for t in range(len(self.position)):
            h = self.embed(x) + places[:, t : t + 1]
            for i, block in enumerate(blocks):
                h, caches[i] = block.step(h, caches[i])
            pixel = pick(self.out(self.norm(h)).transpose(1, 2)[..., None])
            x = _sequence(pixel).to(places.dtype)
            drawn.append(pixel)
        return torch.cat(drawn, -1).reshape(n, *self.x_shape)

    def _places(self, features: Tensor | None) -> Tensor:
        """(1 or n, positions, channels): what is added at each position."""
        if self.features is None or features is None:
            return self.position[None]
        found: Tensor = self.position + self.features(_sequence(features))
        return found


def _sequence(x: Tensor) -> Tensor:
    """Maps (n, c, h, w) as (n, positions, c)."""
    return x.flatten(2).transpose(1, 2)
