"""How far single units of a code hold single factors of the data: six published metrics at once.

Each takes `codes` (images, units), such as posterior means, and the true `factors` (images,
factors); each is unchanged when units are permuted or rescaled. They need many images of each value
of each factor: thousands. For a data set too large to encode, `sampled` encodes factors drawn from
its grid.
"""

from __future__ import annotations

__all__ = ["METRICS", "disentanglement_scores", "sampled"]

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import xarray as xr

from evaluation._factors import Array, coded
from evaluation.factor_information import (
    factor_entropy,
    modularity,
    mutual_information,
    mutual_information_gap,
)
from evaluation.factor_regression import dci, sap_score
from evaluation.fixed_factor import factor_vae_score, higgins_score
from ppl_vae.errors import UsageError, nearest

METRICS: dict[str, str] = {
    "higgins": "Higgins et al. 2017",
    "factor_vae": "Kim & Mnih 2018",
    "mig": "Chen et al. 2018",
    "modularity": "Ridgeway & Mozer 2018",
    "sap": "Kumar et al. 2018",
    "dci_disentanglement": "Eastwood & Williams 2018",
    "dci_completeness": "Eastwood & Williams 2018",
    "dci_informativeness": "Eastwood & Williams 2018",
}
"""{metric: who published it}."""


def disentanglement_scores(
    codes: Any,
    factors: Any,
    *,
    names: Sequence[str] | None = None,
    categorical: Collection[int] = (),
    units: Sequence[str] | None = None,
    metrics: Collection[str] = tuple(METRICS),
    num_shuffles: int = 3,
    seed: int = 0,
) -> xr.Dataset:
    """Every metric of one code, its chance level beside it.

    A chance level is the same metric of the same codes, handed to the images in another order.

    Args:
        codes: (images, units), posterior means.
        factors: (images, factors), true values or their positions on a grid.
        names: of the factors.
        categorical: positions of the factors whose values have no order, such as shapes.
        units: names of the units.
        metrics: of `METRICS`.
        num_shuffles: orders that the chance level is averaged over; 0 leaves it NaN.
        seed: of all draws.

    Returns:
        `score`, `chance`, `chance_sd`: (metric,), 1 at best, higher is better;
        `mutual_information`: (unit, factor), nats; `entropy`: (factor,), nats; `importance`:
        (unit, factor), DCI's, where asked for.

    Raises:
        UsageError: shapes that do not fit, fewer than two units or factors, values that are not
            finite, a factor that never varies, an unknown metric.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise UsageError(f"metrics: unknown {metric!r}: {nearest(metric, METRICS)}")
    images = coded(codes, factors, units=2)
    z, v = np.asarray(codes, dtype=np.float64), images.classes
    scores, importance = _scores(z, v, metrics, categorical, seed)
    rng = np.random.default_rng(seed)
    shuffled = [
        list(_scores(z[rng.permutation(len(z))], v, metrics, categorical, seed + i)[0].values())
        for i in range(num_shuffles)
    ]
    chance = np.array(shuffled).reshape(num_shuffles, len(scores))
    names = names or [f"factor {k + 1}" for k in range(v.shape[1])]
    units = units or [f"unit {i + 1}" for i in range(z.shape[1])]
    return _dataset(scores, chance, importance, z, v, names, units)


def sampled(
    encode: Callable[[Array], Any], grid: Sequence[int], num_images: int = 10_000, seed: int = 0
) -> tuple[Array, Array]:
    """Codes and factors of images drawn from a whole grid of factors.

    Args:
        encode: from (images, factors) positions on the grid to (images, units) codes.
        grid: values that each factor takes.
        num_images: each factor of each drawn independently and uniformly.
        seed: of the draws.

    Returns:
        (codes (images, units), factors (images, factors), positions on the grid).

    Raises:
        UsageError: no image, no factor, or one without values.
    """
    if num_images < 1 or not len(grid) or min(grid) < 1:
        raise UsageError(
            f"num_images, grid: expected at least 1 everywhere, came {num_images} and {grid}"
        )
    rng = np.random.default_rng(seed)
    factors = rng.integers(np.zeros(len(grid), np.int64), grid, size=(num_images, len(grid)))
    return np.asarray(encode(factors)), factors


def _scores(
    codes: Array, factors: Array, metrics: Collection[str], categorical: Collection[int], seed: int
) -> tuple[dict[str, float], Array | None]:
    """{metric: score} in the order of `METRICS`, and DCI's importance."""
    found: dict[str, float] = {}
    importance = None
    if "higgins" in metrics:
        found["higgins"] = higgins_score(codes, factors, seed=seed)
    if "factor_vae" in metrics:
        found["factor_vae"] = factor_vae_score(codes, factors, seed=seed)
    if "mig" in metrics:
        found["mig"] = mutual_information_gap(codes, factors)
    if "modularity" in metrics:
        found["modularity"] = modularity(codes, factors)
    if "sap" in metrics:
        found["sap"] = sap_score(codes, factors, categorical=categorical)
    if any(metric.startswith("dci") for metric in metrics):
        *parts, importance = dci(codes, factors, categorical=categorical, seed=seed)
        every = zip(("disentanglement", "completeness", "informativeness"), parts, strict=True)
        found |= {f"dci_{name}": part for name, part in every if f"dci_{name}" in metrics}
    return found, importance


def _dataset(
    scores: dict[str, float],
    chance: Array,
    importance: Array | None,
    z: Array,
    v: Array,
    names: Sequence[str],
    units: Sequence[str],
) -> xr.Dataset:
    missing = np.full(len(scores), np.nan)
    shuffles = len(chance)
    found: dict[str, Any] = {
        "score": (
            "metric", list(scores.values()),
            {"units": "1", "long_name": "disentanglement, 1 at best"},
        ),
        "chance": (
            "metric", chance.mean(axis=0) if shuffles else missing,
            {"units": "1", "long_name": f"the same for shuffled images, mean of {shuffles}"},
        ),
        "chance_sd": (
            "metric", chance.std(axis=0, ddof=1) if shuffles > 1 else missing,
            {"units": "1", "long_name": "standard deviation over shuffles"},
        ),
        "mutual_information": (
            ("unit", "factor"), mutual_information(z, v),
            {"units": "nat", "long_name": "mutual information of unit and factor"},
        ),
        "entropy": (
            "factor", factor_entropy(v), {"units": "nat", "long_name": "entropy of the factor"}
        ),
    }  # fmt: skip
    if importance is not None:
        about = {"units": "1", "long_name": "share of the unit in the factor's prediction (DCI)"}
        found["importance"] = (("unit", "factor"), importance, about)
    coords = {"metric": list(scores), "unit": list(units), "factor": list(names)}
    return xr.Dataset(found, coords, attrs={"num_images": len(z)})
