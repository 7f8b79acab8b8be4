r"""Codebooks: learned by gradient, or by moving averages of what is assigned, or a fixed grid.

Moving averages (van den Oord et al. 2017, appendix A.1), with Laplace-smoothed counts:

.. math:: N_k \leftarrow \gamma N_k + (1 - \gamma)\, n_k, \quad
          m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_{z \to k} z, \quad
          e_k = m_k \Big/ \frac{N_k + \epsilon}{N + K \epsilon} N
"""

from __future__ import annotations

__all__ = ["Codebook", "Grid"]

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from flax import nnx
from jax import Array, lax, random

from ppl_vae.codebooks import EPSILON, ROUNDS, check_codebook, check_levels, grid
from ppl_vae.numpyro.nets.modes import Moded


class Codebook(Moded):
    """K vectors of `dim` numbers: `vectors` (K, dim).

    Args:
        num_codes: K.
        dim: of a vector.
        update: "ema", by moving averages; "gradient", by the loss of whoever assigns.
        decay: γ of the averages.
        start: "kmeans", at the first training batch; "random".
        restart: a code whose averaged count is below this share of the mean is put where the
            batch is served worst; 0 leaves dead codes dead.
        rngs: for the initial vectors.

    The averages are `running_` state, which belongs to the weights as batch norm's does.
    """

    def __init__(
        self,
        num_codes: int,
        dim: int,
        update: str = "ema",
        decay: float = 0.99,
        start: str = "kmeans",
        restart: float = 0.01,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        check_codebook(num_codes, dim, update, decay, start, restart)
        self.decay, self.restart = decay, restart
        self.by_gradient = update == "gradient"
        self.use_running_average = False
        ends = -1 / num_codes, 1 / num_codes
        begun = random.uniform(rngs.params(), (num_codes, dim), jnp.float32, *ends)
        if self.by_gradient:
            self.weight = nnx.Param(begun)
        moved = jnp.zeros_like(begun) if self.by_gradient else begun
        self.running_vectors = nnx.BatchStat(moved)
        self.running_counts = nnx.BatchStat(jnp.ones(num_codes, jnp.float32))
        self.running_started = nnx.BatchStat(jnp.asarray(float(start == "random"), jnp.float32))
        if not self.by_gradient:
            self.running_sums = nnx.BatchStat(jnp.array(begun))

    @property
    def vectors(self) -> Array:
        moved = self.running_vectors[...]
        return self.weight[...] + moved if self.by_gradient else moved

    @property
    def is_learning(self) -> bool:
        """Whether `start` and `learn` are to be called, and penalties to be counted."""
        return not self.use_running_average

    def bound(self, z: Array) -> Array:
        """The encoder's output (n, dim, h, w) as it is compared with the codes."""
        return z

    def start(self, z: Array) -> None:
        """k-means of z (n, dim, h, w), once."""
        rows, old = _rows(z).astype(self.vectors.dtype), lax.stop_gradient(self.vectors)
        begins = self.running_started[...] == 0
        key = _key()
        centres = lax.cond(begins, lambda: kmeans(key, rows, len(old)), lambda: old)
        self._place(centres, jnp.broadcast_to(begins, len(old)))
        if not self.by_gradient:
            self.running_sums[...] = jnp.where(begins, centres, self.running_sums[...])
        counts = self.running_counts[...]
        self.running_counts[...] = jnp.where(begins, jnp.ones_like(counts), counts)
        self.running_started[...] = jnp.ones_like(self.running_started[...])

    def learn(self, z: Array, indices: Array) -> None:
        """Averages of z (n, dim, h, w), assigned to codes `indices` (n, h, w); restarts."""
        vectors = lax.stop_gradient(self.vectors)
        rows, chosen = _rows(z).astype(vectors.dtype), indices.reshape(-1)
        away = ((rows - vectors[chosen]) ** 2).sum(-1)
        share = 1 - self.decay
        counts = jnp.zeros_like(self.running_counts[...]).at[chosen].add(1.0)
        counts = self.running_counts[...] * self.decay + share * counts
        self.running_counts[...] = counts
        if not self.by_gradient:
            sums = jnp.zeros_like(vectors).at[chosen].add(rows)
            sums = self.running_sums[...] * self.decay + share * sums
            self.running_sums[...] = sums
            total = counts.sum()
            smoothed = (counts + EPSILON) / (total + len(counts) * EPSILON) * total
            self.running_vectors[...] = sums / smoothed[:, None]
        if self.restart:
            self._restart(rows, away)

    def _restart(self, rows: Array, away: Array) -> None:
        """Codes too little used onto rows drawn by their squared distance from their codes."""
        counts = self.running_counts[...]
        least = self.restart * counts.mean()
        dead = counts < least
        put = rows[_draw(_key(), away, len(counts))]
        self._place(put, dead)
        self.running_counts[...] = jnp.where(dead, least, counts)
        if not self.by_gradient:
            sums = self.running_sums[...]
            self.running_sums[...] = jnp.where(dead[:, None], put * least, sums)

    def _place(self, put: Array, where: Array) -> None:
        if self.by_gradient:
            put = put - lax.stop_gradient(self.weight[...])
        moved = self.running_vectors[...]
        self.running_vectors[...] = jnp.where(where[:, None], put, moved)


class Grid(nnx.Module):
    r"""A fixed codebook, the product of evenly spaced levels in [-1, 1] (Mentzer et al. 2023, FSQ).

    .. math:: K = \prod_i L_i, \qquad z = \mathrm{round}(\tanh z_e)

    Each number goes to the nearest of its own levels, which is the nearest vector. The paper
    stretches tanh a little, so that all levels have the same share of its range; here the two
    outer ones have half.

    Args:
        levels: L_i of each number, at least 2.
    """

    by_gradient = is_learning = False

    def __init__(self, levels: Sequence[int]) -> None:
        check_levels(levels)
        self.levels = tuple(levels)

    @property
    def vectors(self) -> Array:
        return jnp.asarray(grid(self.levels), jnp.result_type(float))

    def bound(self, z: Array) -> Array:
        return jnp.tanh(z)


def kmeans(key: Any, rows: Array, count: int) -> Array:
    """Centres (count, d): seeded by distance (Arthur & Vassilvitskii 2007), then Lloyd's rounds."""
    keys = random.split(key, count)
    first = rows[_draw(keys[0], jnp.ones_like(rows[:, 0]), 1)[0]]
    centres = jnp.broadcast_to(first, (count, rows.shape[1]))

    def seed(k: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        centres, away = carry
        centre = rows[_draw(keys[k], away, 1)[0]]
        return centres.at[k].set(centre), jnp.minimum(away, ((rows - centre) ** 2).sum(-1))

    def lloyd(_: Any, centres: Array) -> Array:
        nearest = ((centres**2).sum(-1) - 2 * rows @ centres.T).argmin(-1)
        counts = jnp.zeros_like(centres[:, 0]).at[nearest].add(1.0)
        sums = jnp.zeros_like(centres).at[nearest].add(rows)
        means = sums / jnp.maximum(counts, 1.0)[:, None]
        return jnp.where(counts[:, None] > 0, means, centres)

    away = ((rows - first) ** 2).sum(-1)
    centres, _ = lax.fori_loop(1, count, seed, (centres, away))
    return lax.fori_loop(0, ROUNDS, lloyd, centres)


def _draw(key: Any, weights: Array, count: int) -> Array:
    """(count,) positions, each drawn with probability in proportion to `weights`."""
    floor = jnp.finfo(weights.dtype).tiny
    total = jnp.cumsum(jnp.maximum(weights, floor))
    at = random.uniform(key, (count,), total.dtype) * total[-1]
    return jnp.clip(jnp.searchsorted(total, at, side="right"), 0, len(weights) - 1)


def _rows(z: Array) -> Array:
    return jnp.moveaxis(lax.stop_gradient(z), 1, -1).reshape(-1, z.shape[1])


def _key() -> Any:
    """Of the program's random stream, or a fixed one where it has none."""
    key = numpyro.prng_key()
    return jax.random.key(0) if key is None else key
