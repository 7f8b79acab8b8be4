r"""log p(x) between bounds, from the log weights of annealed chains.

.. math:: \log \frac{1}{C} \sum_c w_c \;\le\; \log p(x) \;\le\; -\log \frac{1}{C} \sum_c w'_c

each on average: the weights w of forward chains have mean p(x), those w' of chains that run back
from an exact posterior draw have mean 1 / p(x) (Neal 2001; Grosse, Ghahramani & Adams 2015,
Sandwiching the marginal likelihood using bidirectional Monte Carlo, arXiv 1511.02543). An exact
posterior draw is known for simulated images alone; what the gap is there says how far the lower
bound of real images may be off, as far as real images are like simulated ones (Wu et al. 2017,
arXiv 1611.04273, section 3.1).
"""

from __future__ import annotations

__all__ = ["annealed_bounds", "bracket_figure", "joined_starts"]

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.ticker import MaxNLocator

from evaluation._canvas import BLUE, GREY, ORANGE, drawing, save
from evaluation._reading import in_order
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

_IMAGE = {
    "lower": ("nats per image", "lower bound of log p(x) by forward chains, higher is better"),
    "lower_chain_se": (
        "nats per image",
        "standard error of lower over chains (delta method)",
    ),
    "ess": ("1", "effective sample size of the forward chains, at most their number"),
    "upper": ("nats per image", "upper bound of log p(x) by reverse chains, lower is better"),
    "upper_chain_se": (
        "nats per image",
        "standard error of upper over chains (delta method)",
    ),
    "gap": ("nats per image", "upper less lower, lower is better"),
}


def annealed_bounds(forward: Any, reverse: Any = None) -> xr.Dataset:
    """Bounds of each image's log p(x), and their means.

    Args:
        forward: (chain, image), nats: log weights of chains to p(x, z).
        reverse: (chain, image), nats: of chains back from an exact posterior draw; or None.
            DataArrays are read by these dims.

    Returns:
        (image,): `lower`, `lower_chain_se`, `ess`; with `reverse` also `upper`,
        `upper_chain_se`, `gap`. Of lower, upper and gap scalars `…_mean` and `…_se` (over images,
        ddof = 1; NaN for one image). `num_chains`, `num_images`.

    Raises:
        UsageError: weights that are no (chain, image) array of numbers.

    >>> found = annealed_bounds(np.log([[1.0], [3.0]]), np.log([[0.5], [0.5]]))
    >>> np.exp([found.lower_mean, found.upper_mean]).round(4)
    array([2., 2.])
    """
    forward = _weights(forward, "forward")
    values: dict[str, Array] = {
        "lower": _log_mean(forward),
        "lower_chain_se": _relative_error(forward),
        "ess": _ess(forward),
    }
    if reverse is not None:
        reverse = _weights(reverse, "reverse")
        if reverse.shape[1] != forward.shape[1]:
            raise UsageError(
                f"reverse: expected {forward.shape[1]} images as forward has, "
                f"came {reverse.shape[1]}"
            )
        values["upper"] = -_log_mean(reverse)
        values["upper_chain_se"] = _relative_error(reverse)
        values["gap"] = values["upper"] - values["lower"]
    result = xr.Dataset(
        {name: ("image", value) for name, value in values.items()},
        coords={"image": np.arange(forward.shape[1])},
        attrs={"reference": "Neal 2001; Grosse et al. 2015, arXiv 1511.02543"},
    )
    for name, value in values.items():
        result[name].attrs.update(zip(("units", "long_name"), _IMAGE[name], strict=True))
        if name in ("lower", "upper", "gap"):
            _add(result, f"{name}_mean", float(value.mean()), f"mean over images of {name}")
            error = _standard_error(value)
            _add(result, f"{name}_se", error, f"standard error of {name}_mean over images")
    for name, count in zip(("chains", "images"), forward.shape, strict=True):
        result[f"num_{name}"] = count
        result[f"num_{name}"].attrs.update(units="1", long_name=name)
    return result


def joined_starts(bounds: Sequence[xr.Dataset], starts: Sequence[str]) -> xr.Dataset:
    """`annealed_bounds` of several paths along a new axis `start`."""
    axis = xr.DataArray(list(starts), dims="start", attrs={"long_name": "what the path begins at"})
    return xr.concat(
        bounds, axis.rename("start"), data_vars="all", coords="minimal", compat="override",
        join="exact",
    )  # fmt: skip


def bracket_figure(bounds: xr.Dataset, path: str | Path, *, title: str = "") -> Path:
    """Each image's bounds, those with the widest bracket first, as far as 60 of them."""
    order = np.argsort(-bounds["gap"].values)[:60]
    lower, upper = bounds["lower"].values[order], bounds["upper"].values[order]
    centre = 0.5 * (lower + upper)
    with drawing(7.2, 3.4) as figure:
        ax = figure.subplots()
        at = np.arange(len(order))
        ax.vlines(at, lower - centre, upper - centre, color=GREY, linewidth=1.2)
        ax.plot(at, lower - centre, "^", color=BLUE, markersize=4.5, label="lower")
        ax.plot(at, upper - centre, "v", color=ORANGE, markersize=4.5, label="upper")
        ax.set_xlabel("simulated images, the widest bracket first; crossed ones are noise")
        ax.set_ylabel("nats from the bracket's middle")
        ax.set_title(title or "log p(x) between its bounds")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
        return save(figure, path)


def _weights(log_weights: Any, argument: str) -> Array:
    array = np.asarray(in_order(log_weights, ("chain", "image"), argument), dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise UsageError(
            f"{argument}: expected log weights (chain, image), one or more, came {array.shape}"
        )
    wrong = np.flatnonzero(np.isnan(array).any(0) | (array.max(0) == np.inf))
    if len(wrong):
        raise UsageError(
            f"{argument}: NaN or +inf among the weights of image {wrong[0]}: log p or log q "
            "overflowed there; look at that image, or take earlier weights"
        )
    return array


def _log_mean(log_w: Array) -> Array:
    highest = log_w.max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.exp(log_w - highest).mean(0)
    return np.where(np.isneginf(highest), -np.inf, highest + np.log(mean))


def _relative_error(log_w: Array) -> Array:
    """Standard error of the log mean: sd(w) / (mean(w) sqrt(C))."""
    if len(log_w) < 2:
        return np.full(log_w.shape[1], math.nan)
    weights = np.exp(log_w - log_w.max(0))
    return np.asarray(weights.std(0, ddof=1) / weights.mean(0) / math.sqrt(len(log_w)))


def _ess(log_w: Array) -> Array:
    weights = np.exp(log_w - log_w.max(0))
    return np.asarray(np.square(weights.sum(0)) / np.square(weights).sum(0))


def _standard_error(values: Array) -> float:
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _add(result: xr.Dataset, name: str, value: float, long_name: str) -> None:
    result[name] = value
    result[name].attrs.update(units="nats per image", long_name=long_name)
