r"""Are ranks uniform? An exact test, and Holm's correction over many of them.

Ranks of one test quantity over S simulations, among D draws each, are uniform on 0 … D where the
draws come from the posterior. Then the number of ranks below j is binomial, for every j,

.. math:: c_j \sim \mathrm{Bin}(S, t_j), \qquad t_j = j / (D + 1), \quad j = 1 \dots D

and the path c_1 ≤ … ≤ c_D is what an ECDF plot draws. Its test statistic is the smallest two-sided
binomial probability along the path; simultaneous bands of an ECDF plot are the set of paths that it
accepts (Säilynoja, Bürkner & Vehtari 2022, Graphical test for discrete uniformity and its
applications in goodness-of-fit evaluation and multiple sample comparison, arXiv 2103.10522). The
p-value is exact for every S and D, discrete ranks as they are: the probability that a path stays
inside is a forward recursion over j, whose steps are Poisson given their sum S.
"""

from __future__ import annotations

__all__ = ["holm", "simultaneous_band", "uniformity_p_values"]

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats

from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

NEGLIGIBLE = 1e-9  # below it the union bound stands for the p-value
ROUNDING = 1e-9  # relative: binomial tails that are equal but for rounding are ties


def uniformity_p_values(ranks: Any, num_draws: int) -> Array:
    """Exact p-value of each quantity's ranks being uniform on 0 … num_draws.

    Args:
        ranks: (simulations, quantities) integers.
        num_draws: D.

    Returns:
        (quantities,); below 1e-9 an upper bound.

    >>> uniformity_p_values(np.array([[0], [1], [1], [1]]), num_draws=1)  # a binomial test
    array([0.625])
    """
    ranks = np.asarray(ranks)
    if ranks.ndim != 2 or not ranks.size or ranks.dtype.kind not in "iu":
        raise UsageError(
            "ranks: expected integers (simulations, quantities), "
            f"came {ranks.dtype} of shape {ranks.shape}"
        )
    if num_draws < 1 or ranks.min() < 0 or ranks.max() > num_draws:
        raise UsageError(
            f"ranks: expected 0 to num_draws = {num_draws}, came {ranks.min()} to {ranks.max()}: "
            "give the number of draws that the ranks were taken among"
        )
    tails = _tails(len(ranks), num_draws)
    columns = np.arange(num_draws)
    lowest = np.empty(ranks.shape[1])
    for i, column in enumerate(ranks.T):
        counts = np.bincount(column, minlength=num_draws + 1).cumsum()[:-1]
        lowest[i] = tails[columns, counts].min()
    seen, index = np.unique(lowest, return_inverse=True)
    return np.array([_p_value(tail, len(ranks), num_draws) for tail in seen])[index]


def simultaneous_band(
    num_simulations: int, num_draws: int, level: float
) -> tuple[Array, Array, Array]:
    """(t, lower, upper), each (num_draws,): the band that the test draws around the diagonal.

    An ECDF of ranks leaves it at some t_j = j / (num_draws + 1) where its p-value is at most
    `level`, and nowhere else.
    """
    low, high = -30.0, 0.0  # log10 of the binomial tail
    for _ in range(50):
        middle = (low + high) / 2
        small = _p_value(10**middle, num_simulations, num_draws) <= level
        low, high = (middle, high) if small else (low, middle)
    lower, upper = _accepted(10**low, num_simulations, num_draws)
    t = (np.arange(num_draws) + 1) / (num_draws + 1)
    return t, lower / num_simulations, upper / num_simulations


def holm(p_values: Any) -> Array:
    """Holm's adjusted p-values of one family: reject those up to α, whatever depends on what.

    Holm 1979, A simple sequentially rejective multiple test procedure.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = steps.clip(max=1.0)
    return adjusted


@lru_cache(maxsize=4)
def _tails(num_simulations: int, num_draws: int) -> Array:
    """(num_draws, num_simulations + 1): the smaller binomial tail at each t_j and count."""
    count = np.arange(num_simulations + 1)
    binomial = stats.binom(num_simulations, (np.arange(num_draws)[:, None] + 1) / (num_draws + 1))
    return np.minimum(binomial.cdf(count), binomial.sf(count - 1))


def _p_value(tail: float, num_simulations: int, num_draws: int) -> float:
    """Probability that the smaller tail gets as small as `tail` somewhere along the path."""
    union = 2 * num_draws * tail
    if union < NEGLIGIBLE:
        return float(union)
    lower, upper = _accepted(tail, num_simulations, num_draws)
    step = num_simulations / (num_draws + 1)
    poisson = stats.poisson(step).pmf(np.arange(num_simulations + 1))
    path, start = np.ones(1), 0
    for low, high in zip(lower, upper, strict=True):
        low = max(low, start)
        if high < low:  # no count here has larger tails
            return 1.0
        path = np.convolve(path, poisson[: high - start + 1])[low - start : high - start + 1]
        start = low
    left = num_simulations - start - np.arange(len(path))
    stays = float(path @ poisson[left]) / float(stats.poisson(num_simulations).pmf(num_simulations))
    return float(np.clip(1.0 - stays, 0.0, min(union, 1.0)))


def _accepted(tail: float, num_simulations: int, num_draws: int) -> tuple[Array, Array]:
    """Lowest and highest count with tails larger than `tail` at each t_j; lower > upper if none."""
    inside = _tails(num_simulations, num_draws) > tail * (1 + ROUNDING)
    lower = np.where(inside.any(axis=1), inside.argmax(axis=1), 1)
    upper = np.where(inside.any(axis=1), num_simulations - inside[:, ::-1].argmax(axis=1), 0)
    return lower, upper
