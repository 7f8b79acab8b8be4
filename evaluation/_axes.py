"""What figures over a training history share: its values, and an axis of epochs that fits them."""

from __future__ import annotations

__all__ = ["epoch", "epochs", "fit_late", "last", "log_if_wide", "marker", "require", "values_of"]

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from evaluation._canvas import GREY
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]


def epoch(history: xr.Dataset) -> Array:
    return np.asarray(history["epoch" if "epoch" in history.coords else "step"].values)


def values_of(history: xr.Dataset, name: str) -> Array:
    return np.asarray(history[name].transpose("step", ...).values, dtype=np.float64)


def last(values: Array) -> str:
    seen = values[np.isfinite(values)]
    return f"{seen[-1]:.2f}" if len(seen) else "none"


def marker(x: Array) -> str | None:
    return "o" if len(x) == 1 else "." if len(x) <= 12 else None


def require(history: xr.Dataset, name: str, dim: str = "step") -> None:
    if name not in history or dim not in history[name].dims or not history.sizes["step"]:
        raise UsageError(
            f"history: expected {name} over {dim}, "
            f"came {', '.join(map(str, history.data_vars)) or 'nothing'}: "
            "give the history of a run with one epoch or more"
        )


def epochs(ax: Axes, history: xr.Dataset) -> None:
    """The horizontal axis: whole epochs (or steps), also where there is one only."""
    x = epoch(history)
    ax.set_xlabel("epoch" if "epoch" in history.coords else "optimiser step")
    if len(x) == 1:
        ax.set_xlim(x[0] - 1, x[0] + 1)
        ax.set_xticks([x[0]])
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        ax.set_xlim(x[0], x[-1])


def fit_late(ax: Axes, values: Sequence[Array]) -> None:
    """Limits by all but the first tenth of the epochs, which would flatten the rest.

    Beside the title it says where the curve starts, wherever that is out of sight.
    """
    late = np.concatenate(
        [y[len(y) // 10 if len(y) >= 10 else 0 :] for y in values] or [np.zeros(0)]
    )
    every = np.concatenate([*values, np.zeros(0)])
    late, every = late[np.isfinite(late)], every[np.isfinite(every)]
    if not len(late):
        return
    low, high = float(late.min()), float(late.max())
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    ax.set_ylim(low - room, high + room)
    if every.min() < low - room or every.max() > high + room:
        first = next(float(y[np.isfinite(y)][0]) for y in values if np.isfinite(y).any())
        ax.set_title(
            f"starts at {first:.4g}", loc="right", fontsize=8.5, fontweight="normal", color=GREY
        )


def log_if_wide(ax: Axes, values: Array) -> None:
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive) and positive.max() > 20 * positive.min():
        ax.set_yscale("log")
