"""What every disentanglement metric stands on: codes and factors of images, checked and coded."""

from __future__ import annotations

__all__ = ["Array", "Coded", "categorical_flags", "coded", "groups", "members"]

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Coded:
    """Images as numbers.

    Attributes:
        codes: (images, units) float64, each unit of mean 0 and deviation 1 over images (0 where it
            is constant), so that no metric sees its scale; units in an order, and with signs,
            that come from their own moments, so that permuting or flipping them changes nothing,
            not even how a fit breaks ties.
        classes: (images, factors), each factor's values as 0, 1, …, sorted.
        counts: values that each factor takes.
        position: (units,) where each of the given units stands in `codes`.
    """

    codes: Array
    classes: Array
    counts: tuple[int, ...]
    position: Array

    @property
    def num_images(self) -> int:
        return len(self.codes)

    @property
    def num_factors(self) -> int:
        return len(self.counts)


def coded(codes: Any, factors: Any, *, units: int = 1) -> Coded:
    """Check both arrays and bring them into the form that the metrics share.

    Args:
        codes: (images, units), such as posterior means.
        factors: (images, factors), the true values or their positions on a grid.
        units: least number of units.

    Raises:
        UsageError: shapes that do not fit, values that are not finite, a factor that never varies.
    """
    z, v = np.asarray(codes, dtype=np.float64), np.asarray(factors)
    if z.ndim != 2 or v.ndim != 2 or len(z) != len(v):
        raise UsageError(
            "codes, factors: expected (images, units) and (images, factors) of the same images, "
            f"came {z.shape} and {v.shape}"
        )
    if len(z) < 2 or z.shape[1] < units or v.shape[1] < 2:
        raise UsageError(
            f"codes, factors: expected at least 2 images, {units} unit{'s' * (units > 1)} and 2 "
            f"factors, came {len(z)}, {z.shape[1]} and {v.shape[1]}"
        )
    if not np.isfinite(z).all() or not np.isfinite(v).all():
        raise UsageError("codes, factors: expected finite numbers, came NaN or infinity")
    uniques = [np.unique(column, return_inverse=True) for column in v.T]
    counts = tuple(len(values) for values, _ in uniques)
    if min(counts) < 2:
        raise UsageError(
            f"factors: factor {counts.index(1)} has one value in all images: leave it out"
        )
    z = _standardised(z)
    z = z * np.where((z**3).sum(axis=0) < 0, -1.0, 1.0)
    order = np.lexsort(((z**6).sum(axis=0), (z**4).sum(axis=0)))
    classes = np.stack([inverse for _, inverse in uniques], axis=1)
    return Coded(z[:, order], classes, counts, np.argsort(order))


def categorical_flags(categorical: Collection[int], num_factors: int) -> list[bool]:
    """Which factors have no order; UsageError for a position that is none."""
    for position in categorical:
        if not 0 <= position < num_factors:
            raise UsageError(
                f"categorical: expected positions of the {num_factors} factors, came {position}"
            )
    return [position in set(categorical) for position in range(num_factors)]


def groups(classes: Array) -> tuple[Array, Array, Array]:
    """(order, start, count): images sorted by class, and where each class lies among them."""
    count = np.bincount(classes)
    return np.argsort(classes, kind="stable"), np.cumsum(count) - count, count


def members(
    rng: np.random.Generator, grouped: tuple[Array, Array, Array], classes: Array, num: int
) -> Array:
    """(len(classes), num) images drawn with replacement from those of each class."""
    order, start, count = grouped
    uniform = rng.random((len(classes), num))
    inner = (uniform * count[classes][:, None]).astype(np.int64)
    found: Array = order[start[classes][:, None] + inner]
    return found


def _standardised(z: Array) -> Array:
    z = z - z.mean(axis=0)
    scale = z.std(axis=0)
    dead = scale <= 1e-12 * np.abs(z).max(initial=0.0)
    return np.where(dead, 0.0, z / np.where(dead, 1.0, scale))
