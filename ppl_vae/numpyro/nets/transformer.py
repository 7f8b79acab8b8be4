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

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax, random

from ppl_vae.errors import UsageError
from ppl_vae.numpyro.nets.mlp import gelu, linear

Cache = tuple[Array, Array]  # keys and values of all positions, (n, positions, heads, d)


class TransformerBlock(nnx.Module):
    """Causal attention and a perceptron of four times the width, each added to what came in."""

    def __init__(self, channels: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.norms = nnx.List([_norm(channels, rngs) for _ in range(2)])
        self.qkv = linear(channels, 3 * channels, rngs=rngs)
        self.mix = linear(channels, channels, rngs=rngs)
        self.up = linear(channels, 4 * channels, rngs=rngs)
        self.down = linear(4 * channels, channels, rngs=rngs)

    def __call__(self, h: Array) -> Array:
        """(n, t, channels): all positions at once."""
        q, k, v = self._split(h)
        return self._rest(h, attend(q, k, v, jnp.tri(h.shape[1], dtype=bool)))

    def step(self, h: Array, cache: Cache, t: Array) -> tuple[Array, Cache]:
        """(n, 1, channels): position t, and what is kept of it."""
        q, k, v = self._split(h)
        keys = lax.dynamic_update_slice_in_dim(cache[0], k, t, 1)
        values = lax.dynamic_update_slice_in_dim(cache[1], v, t, 1)
        seen = (jnp.arange(keys.shape[1]) <= t)[None]
        return self._rest(h, attend(q, keys, values, seen)), (keys, values)

    def _split(self, h: Array) -> tuple[Array, Array, Array]:
        parts = jnp.split(self.qkv(self.norms[0](h)), 3, axis=-1)
        q, k, v = (part.reshape(*part.shape[:-1], self.heads, -1) for part in parts)
        return q, k, v

    def _rest(self, h: Array, seen: Array) -> Array:
        h = h + self.mix(seen.reshape(h.shape))
        inner = gelu(self.up(self.norms[1](h)))
        found: Array = h + self.down(inner)
        return found


class TransformerNet(nnx.Module):
    """Images (n, c, h, w) to the parameters of every pixel given those before it.

    Args:
        x_shape: (channels, height, width).
        num_outputs: parameters of a pixel.
        channels: of a position, a multiple of `heads`.
        layers: how many blocks.
        num_features: channels of the map of features, 0 for none.
        heads: of the attention.
        rngs: for the initial weights.

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
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if layers < 1:
            raise UsageError(f"layers: expected at least 1, came {layers}")
        if channels < 1 or channels % heads:
            raise UsageError(f"channels: expected a multiple of {heads} heads, came {channels}")
        self.x_shape, self.heads = tuple(x_shape), heads
        self.embed = linear(self.x_shape[0], channels, rngs=rngs)
        begun = random.normal(rngs.params(), (x_shape[1] * x_shape[2], channels))
        self.position = nnx.Param(0.02 * begun)
        self.features = (
            linear(num_features, channels, rngs=rngs) if num_features else nnx.data(None)
        )
        self.blocks = nnx.List(
            [TransformerBlock(channels, heads, rngs=rngs) for _ in range(layers)]
        )
        self.norm = _norm(channels, rngs)
        self.out = linear(channels, num_outputs, rngs=rngs)

    def __call__(self, x: Array, features: Array | None = None) -> Array:
        before = jnp.pad(_sequence(x)[:, :-1], ((0, 0), (1, 0), (0, 0)))  # none before the first
        h = self.embed(before) + self._places(features)
        for block in self.blocks:
            h = block(h)
        found = self.out(self.norm(h)).swapaxes(1, 2)
        return found.reshape(*found.shape[:2], *self.x_shape[1:])

    def generate(
        self,
        pick: Callable[[Any, Array], Array],
        n: int,
        features: Array | None,
        rng_key: Any,
    ) -> Array:
        """Images (n, c, h, w), pixel by pixel.

        Args:
            pick: key and parameters (n, num_outputs, 1, 1) to a draw (n, c, 1, 1).
        """
        channels, height, width = self.x_shape
        places = self._places(features)
        count, size = places.shape[1:]
        empty = jnp.zeros((n, count, self.heads, size // self.heads), places.dtype)
        keys = jax.vmap(lambda key: random.split(key, width))(random.split(rng_key, height))

        def one_pixel(carry: Any, at: Any) -> tuple[Any, Array]:
            (x, caches), (t, place, key) = carry, at
            h = self.embed(x) + place[:, None]
            kept = []
            for block, cache in zip(self.blocks, caches, strict=True):
                h, cache = block.step(h, cache, t)
                kept.append(cache)
            pixel = pick(key, self.out(self.norm(h)).swapaxes(1, 2)[..., None])
            return (_sequence(pixel).astype(places.dtype), kept), pixel[..., 0]

        start = (jnp.zeros((n, 1, channels), places.dtype), [(empty, empty) for _ in self.blocks])
        walked = (jnp.arange(count), places.swapaxes(0, 1), keys.reshape(-1))
        _, drawn = lax.scan(one_pixel, start, walked)  # (positions, n, c, 1)
        return jnp.moveaxis(drawn[..., 0], 0, -1).reshape(n, *self.x_shape)

    def _places(self, features: Array | None) -> Array:
        """(1 or n, positions, channels): what is added at each position."""
        if self.features is None or features is None:
            return self.position[...][None]
        found: Array = self.position[...] + self.features(_sequence(features))
        return found


def attend(q: Array, k: Array, v: Array, seen: Array) -> Array:
    """(n, queries, heads, d): values (n, keys, heads, d) by softmax over the keys that are `seen`.

    `jax.nn.dot_product_attention` takes its softmax in float32, whatever comes in.
    """
    logits = jnp.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(q.shape[-1])
    shares = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf), axis=-1)
    return jnp.einsum("nhqk,nkhd->nqhd", shares, v)


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(channels, epsilon=1e-5, use_fast_variance=False, rngs=rngs)  # as torch's


def _sequence(x: Array) -> Array:
    """Maps (n, c, h, w) as (n, positions, c)."""
    return x.reshape(*x.shape[:2], -1).swapaxes(1, 2)
