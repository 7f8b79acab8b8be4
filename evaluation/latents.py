r"""What the latent sites hold: active units.

A unit u is active where its posterior mean moves with the image (Burda, Grosse & Salakhutdinov
2015, Importance Weighted Autoencoders, arXiv 1509.00519, section 5.2):

.. math:: A_u = \mathrm{Cov}_x(E_{u \sim q(u \mid x)}[u]) > 10^{-2}
"""

from __future__ import annotations

__all__ = ["ACTIVE_THRESHOLD", "active_units"]

from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]
Moments: TypeAlias = Mapping[str, Any]  # site: loc (images, units...), or the pair (loc, scale)

ACTIVE_THRESHOLD = 0.01


def active_units(
    loc: Moments | Iterable[Moments],
    *,
    again: Moments | Iterable[Moments] | None = None,
    threshold: float = ACTIVE_THRESHOLD,
) -> xr.Dataset:
    r"""Units of each site whose posterior mean varies over images by more than `threshold`.

    Args:
        loc: {site: (images, units...)}, means of the posterior, or {site: (loc, scale)} as
            `posterior_moments` gives them; or an iterable of such blocks of images, worked off in
            one pass (memory: one block and three numbers a unit). Every number of a convolutional
            site is a unit.
        again: the same images in the same blocks from a second pass with another seed. In a
            hierarchy the mean of a site hangs on the *draws* of the sites before it, so the
            variance of one pass counts their noise as activity. The covariance of two passes is
            Var_x(E[u | x]) without that noise; one pass gives an upper bound, exact for the site
            that is drawn first.
        threshold: in the square of the latent's unit; 0.01 is the paper's.

    Returns:
        `active_units`, `num_units`: (site,) counts; `variance`: (site, unit), float64, NaN where a
        site has fewer units than the largest.

    >>> spread, still = np.array([[-1.0], [1.0]]), np.zeros((2, 1))
    >>> active_units({"z1": np.hstack([spread, still]), "z2": still}).active_units.values
    array([1, 0])
    """
    sums: dict[str, _Covariance] = {}
    images = 0
    seconds: Iterator[Moments | None] = repeat(None) if again is None else _blocks(again, "again")
    for first in _blocks(loc, "loc"):
        second = next(seconds, {})
        if sums and set(first) != set(sums):
            raise UsageError(
                f"loc: a block has sites {', '.join(first)} where those before have "
                f"{', '.join(sums)}: "
                "give every block the same sites"
            )
        for site in first:
            a = _means(first, site, images, "loc")
            b = a if second is None else _means(second, site, images, "again")
            if a.shape != b.shape:
                raise UsageError(
                    f"again: site {site} is {b.shape} where loc has {a.shape}: give the same images"
                )
            sums.setdefault(site, _Covariance()).add(a, b)
        counts = {site: covariance.count for site, covariance in sums.items()}
        images = min(counts.values())
        if images != max(counts.values()):
            raise UsageError(
                "loc: expected as many images of every site, came "
                f"{', '.join(f'{site} {count}' for site, count in counts.items())}"
            )
    if again is not None and next(seconds, None):
        raise UsageError("again: more blocks than loc has: give the same images in both")
    return _dataset(sums, threshold, passes=1 if again is None else 2)


class _Covariance:
    """Covariance over images of two arrays (images, units), block by block.

    Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean_a: Array = np.zeros(1)
        self.mean_b: Array = np.zeros(1)
        self.comoment: Array = np.zeros(1)

    def add(self, a: Array, b: Array) -> None:
        if self.count and a.shape[1] != len(self.comoment):
            raise UsageError(
                f"loc: a block has {a.shape[1]} units where those before have {len(self.comoment)}"
            )
        count, mean_a, mean_b = len(a), a.mean(axis=0), b.mean(axis=0)
        total = self.count + count
        shift_a, shift_b = mean_a - self.mean_a, mean_b - self.mean_b
        self.comoment = (
            self.comoment
            + ((a - mean_a) * (b - mean_b)).sum(axis=0)
            + shift_a * shift_b * (self.count * count / total)
        )
        self.mean_a = self.mean_a + shift_a * (count / total)
        self.mean_b = self.mean_b + shift_b * (count / total)
        self.count = total

    def value(self) -> Array:
        return self.comoment / (self.count - 1)


def _blocks(moments: Any, argument: str) -> Iterator[Moments]:
    blocks = [moments] if isinstance(moments, Mapping) else moments
    if not isinstance(blocks, Iterable):
        raise UsageError(
            f"{argument}: expected {{site: (images, units)}} or an iterable of those, "
            f"came {type(moments).__name__}"
        )
    for block in blocks:
        if not isinstance(block, Mapping) or not block:
            raise UsageError(
                f"{argument}: expected {{site: (images, units)}}, "
                f"came {type(block).__name__} or no site"
            )
        yield block


def _means(block: Moments, site: str, first_image: int, argument: str) -> Array:
    if site not in block:
        raise UsageError(
            f"{argument}: site {site} is missing, came {', '.join(block) or 'nothing'}"
        )
    value = block[site]
    value = value[0] if isinstance(value, tuple) else value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    array = np.asarray(value, dtype=np.float64)
    if array.ndim < 1 or len(array) == 0:
        raise UsageError(
            f"{argument}: site {site}: expected (images, units), came shape {array.shape}"
        )
    array = array.reshape(len(array), -1)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise UsageError(
            f"{argument}: site {site}: the posterior mean of image "
            f"{first_image + int(np.argmin(finite))} is not "
            f"finite ({int((~finite).sum())} such images here): evaluate weights from before "
            "training went wrong"
        )
    return array


def _dataset(sums: dict[str, _Covariance], threshold: float, passes: int) -> xr.Dataset:
    if not sums or next(iter(sums.values())).count < 2:
        raise UsageError("loc: a variance over images needs two images or more: give more images")
    values = {site: covariance.value() for site, covariance in sums.items()}
    sizes = [len(value) for value in values.values()]
    variance = np.full((len(values), max(sizes)), np.nan)
    for row, value in zip(variance, values.values(), strict=True):
        row[: len(value)] = value
    counts = [int((value > threshold).sum()) for value in values.values()]
    return xr.Dataset(
        {
            "active_units": (
                "site",
                counts,
                {"units": "1", "long_name": f"units whose mean's variance is over {threshold:g}"},
            ),
            "num_units": ("site", sizes, {"units": "1", "long_name": "units"}),
            "variance": (
                ("site", "unit"),
                variance,
                {
                    "units": "latent unit squared",
                    "long_name": "variance over images of the posterior mean",
                },
            ),
        },
        coords={"site": list(values)},
        attrs={
            "threshold": threshold,
            "passes": passes,
            "num_images": next(iter(sums.values())).count,
            "reference": "Burda et al. 2015, arXiv 1509.00519, section 5.2",
        },
    )
