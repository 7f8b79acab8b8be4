r"""The importance-weighted bound at several K, from one stream of samples, and where it leads.

.. math:: L_K = \frac{1}{B} \sum_{b=1}^{B} \log \frac{1}{K} \sum_{k \in b} w_k,
    \qquad B = \lfloor S / K \rfloor

over disjoint blocks b of an image's S samples: each rung uses all of the stream, and its
expectation is that of L_K (Burda et al. 2015, arXiv 1509.00519). Where the weights have a
variance, log p(x) - L_K falls as 1 / K (Nowozin 2018, Debiasing evidence approximations, ICLR;
Domke & Sheldon 2018, Importance weighting and variational inference, arXiv 1808.09034, theorem 3),
more slowly where they have none. So the rungs are extended by

.. math:: L_K = L_\infty - c K^{-a}, \qquad 0.1 < a \le 1,

which is a guess about what was not measured and is kept apart from what was.
"""

from __future__ import annotations

__all__ = ["RUNGS", "ladder_figure", "likelihood_ladder", "rungs"]

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from evaluation._canvas import BLUE, GREY, ORANGE, drawing, save
from evaluation.likelihood import blocks_of, importance_weighted_nll
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

RUNGS = (1, 10, 100, 1000, 5000)
EXPONENTS = np.linspace(0.1, 1.0, 91)  # a of the power law; at the lowest no limit is in sight
GROUPS = 20  # of images, left out in turn for the extrapolation's error

_ATTRS = {
    "bound": ("nats per image", "log p(x) by L_K, a lower bound, higher is better"),
    "bound_mean": ("nats per image", "mean over images of L_K, higher is better"),
    "bound_se": ("nats per image", "standard error of bound_mean over images"),
    "bound_blocks": ("1", "disjoint blocks of K samples averaged for each image"),
    "extrapolated": ("nats per image", "L_K for K to infinity by a power law: not a measurement"),
    "extrapolated_se": ("nats per image", "jackknife standard error of extrapolated over images"),
    "extrapolated_gain": ("nats per image", "extrapolated less bound_mean at the largest K"),
    "extrapolated_gain_se": ("nats per image", "jackknife standard error of extrapolated_gain"),
    "extrapolated_exponent": ("1", "a of the power law L - c K^-a"),
}


def rungs(num_samples: int) -> tuple[int, ...]:
    """The K of a ladder from `num_samples` samples: 1, 10, 100, 1000, 5000 below it, then itself.

    >>> rungs(300)
    (1, 10, 100, 300)
    """
    return (*(k for k in RUNGS if k < num_samples), num_samples)


def likelihood_ladder(
    log_weights: Any | Iterable[Any],
    *,
    ladder: Sequence[int] | None = None,
    num_dims: float | None = None,
) -> xr.Dataset:
    r"""`importance_weighted_nll` of one stream, and L_K of the same samples at every rung.

    Args:
        log_weights, num_dims: as of `importance_weighted_nll`. Memory is that of the largest block
            and some numbers an image.
        ladder: rising K, each at most the number of samples; None takes `rungs`.

    Returns:
        Of `importance_weighted_nll` all; along `K` (the K) `bound_mean`, `bound_se`
        (ddof = 1, NaN for one image), `bound_blocks`, and `bound` (K, image). Kept
        apart are `extrapolated`, its gain over the largest K, both with jackknife standard errors,
        and the exponent: NaN with fewer than three rungs above 1, or where the rungs do
            not rise or no limit is in sight (a at 0.1).

    Raises:
        UsageError: a rung below 1, or above the number of samples.

    >>> log_w = np.log([[1.0], [3.0], [1.0], [3.0]])
    >>> found = likelihood_ladder(log_w, ladder=(1, 2))
    >>> found.bound_mean.values.round(4), found.bound_blocks.values
    (array([0.5493, 0.6931]), array([4, 2]))
    """
    climbed: list[Array] = []
    chosen: list[int] = []

    def watched() -> Iterator[Array]:
        for block in blocks_of(log_weights):
            chosen[:] = _checked(ladder, len(block))
            yield block  # what is wrong with it is said before it is climbed
            climbed.append(np.stack([_bounds(block, k) for k in chosen]))

    result = importance_weighted_nll(watched(), num_dims=num_dims)
    bound = np.concatenate(climbed, axis=1)
    images = bound.shape[1]
    values: dict[str, Any] = {
        "bound": (("K", "image"), bound),
        "bound_mean": ("K", bound.mean(1)),
        "bound_se": ("K", [_standard_error(b) for b in bound]),
        "bound_blocks": ("K", [int(result["num_samples"]) // k for k in chosen]),
    }
    values |= _extrapolated(np.array(chosen), bound, images)
    result = result.assign(values).assign_coords(K=chosen)
    result["K"].attrs.update(units="1", long_name="importance samples K of a bound")
    for name, (units, long_name) in _ATTRS.items():
        result[name].attrs.update(units=units, long_name=long_name)
    return result


def ladder_figure(ladder: xr.Dataset, path: str | Path, *, title: str = "") -> Path:
    """L_K against K with its standard errors, and the extrapolation as a line of its own."""
    k = ladder["K"].values
    mean, se = ladder["bound_mean"].values, np.nan_to_num(ladder["bound_se"].values)
    with drawing(6.4, 3.7) as figure:
        ax = figure.subplots()
        ax.errorbar(k, mean, se, color=BLUE, marker="o", capsize=3, label="measured, ± 1 s.e.")
        limit, gain_se = float(ladder["extrapolated"]), float(ladder["extrapolated_gain_se"])
        if math.isfinite(limit):
            ax.axhline(limit, color=ORANGE, linestyle="--", label=f"extrapolated, {limit:.2f}")
            if math.isfinite(gain_se):
                ax.axhspan(limit - gain_se, limit + gain_se, color=ORANGE, alpha=0.15, linewidth=0)
        for at, value in zip(k, mean, strict=True):
            ax.annotate(
                f"{value:.2f}",
                (at, value),
                (7, -11),
                textcoords="offset points",
                color=GREY,
                fontsize=8.5,
            )
        ax.set_xscale("log")
        ax.margins(x=0.1, y=0.15)
        ax.set_xticks(k, [str(n) for n in k], minor=False)
        ax.set_xticks([], minor=True)
        ax.set_xlabel("K, importance samples an image")
        ax.set_ylabel("L_K, nats per image")
        ax.set_title(title or "Importance-weighted bound")
        ax.legend(loc="lower right")
        return save(figure, path)


def _checked(ladder: Sequence[int] | None, num_samples: int) -> list[int]:
    chosen = list(rungs(num_samples) if ladder is None else ladder)
    if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 1:
        raise UsageError(f"ladder: expected rising K from 1 on, came {tuple(chosen)}")
    if chosen[-1] > num_samples:
        raise UsageError(
            f"ladder: expected K of at most {num_samples}, the samples an image, came "
            f"{chosen[-1]}: draw more samples, or leave that rung out"
        )
    return chosen


def _bounds(block: Array, k: int) -> Array:
    """(images,): L_K of each image of a block (samples, images), float64, an image at a time."""
    count = len(block) // k
    found = np.empty(block.shape[1])
    for i in range(block.shape[1]):
        log_w = block[: count * k, i].astype(np.float64).reshape(count, k)
        highest = log_w.max(axis=1)
        highest[np.isneginf(highest)] = 0.0
        with np.errstate(divide="ignore"):  # the logarithm of K zeros is -inf
            means = np.exp(log_w - highest[:, None]).mean(axis=1)
            found[i] = (highest + np.log(means)).mean()
    return found


def _extrapolated(k: Array, bound: Array, images: int) -> dict[str, float]:
    """The power law through the rungs above 1, its errors by leaving groups of images out."""
    limit, exponent = _power_law(k, bound.mean(1))
    found = {
        "extrapolated": limit,
        "extrapolated_gain": limit - float(bound[-1].mean()),
        "extrapolated_exponent": exponent,
    }
    groups = np.arange(images) % min(GROUPS, images)
    left: list[tuple[float, float]] = []
    if images > 1:
        for group in range(groups.max() + 1):
            kept = bound[:, groups != group].mean(1)
            one = _power_law(k, kept)[0]
            left.append((one, one - kept[-1]))
    for i, name in enumerate(("extrapolated_se", "extrapolated_gain_se")):
        values = np.array([pair[i] for pair in left])
        known = len(values) > 1 and bool(np.isfinite(values).all())
        found[name] = float(np.sqrt((len(values) - 1) * values.var())) if known else math.nan
    return found


def _power_law(k: Array, mean: Array) -> tuple[float, float]:
    """(limit, exponent) by least squares over the rungs above 1: linear once a is chosen."""
    k, mean = k[k > 1].astype(float), mean[k > 1]
    if len(k) < 3 or not (np.isfinite(mean).all() and (np.diff(mean) > 0).all()):
        return math.nan, math.nan
    best = (math.inf, math.nan, math.nan)
    for a in EXPONENTS:
        design = np.column_stack([np.ones_like(k), -(k**-a)])
        solution, *_ = np.linalg.lstsq(design, mean, rcond=None)
        error = float(np.square(design @ solution - mean).sum())
        if solution[1] > 0 and error < best[0]:
            best = (error, float(solution[0]), float(a))
    if best[2] == EXPONENTS[0]:
        return math.nan, math.nan
    return best[1], best[2]


def _standard_error(values: Array) -> float:
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1)) / math.sqrt(len(values))
