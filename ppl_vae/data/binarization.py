r"""Bernoulli draws that stay the same for ever.

.. math:: x_{ij} \sim \mathrm{Bernoulli}(v_{ij} / 255)

Test images of a dynamically binarised set are drawn once, so that two models, two programs and
two machines are judged by the same pixels. Each block of `BLOCK` images has a counter-based stream
of its own, keyed by the seed and the block's number; only raw 64-bit words are used, whose values
NumPy holds fixed between versions.
"""

from __future__ import annotations

__all__ = ["BLOCK", "draw_once"]

import math

import numpy as np
import numpy.typing as npt

from ppl_vae.seeds import check_seed

BLOCK = 256


def draw_once(values: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """Draw 0 or 1 for each grey value, with probability value / 255.

    Args:
        values: (n, ...) uint8 grey values.
        seed: a whole number, 0 or more.

    Returns:
        (n, ...) uint8 of 0 and 1; row i depends on `seed`, i and row i alone.
    """
    check_seed(seed)
    drawn = np.empty(values.shape, np.uint8)
    for block, start in enumerate(range(0, len(values), BLOCK)):
        rows = np.asarray(values[start : start + BLOCK])
        drawn[start : start + BLOCK] = _uniform(rows.shape, int(seed), block) < rows / 255.0
    return drawn


def _uniform(shape: tuple[int, ...], seed: int, block: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), 53 bits each, in row order."""
    words = np.random.Philox(np.random.SeedSequence([seed, block])).random_raw(math.prod(shape))
    return np.multiply(words >> np.uint64(11), 2.0**-53, dtype=np.float64).reshape(shape)
