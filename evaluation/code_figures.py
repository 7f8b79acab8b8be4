"""Figures of discrete codes: how they are used, at the end and as training goes on."""

from __future__ import annotations

__all__ = ["code_counts", "codes_over_time"]

from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from evaluation._axes import epoch, epochs, marker, require, values_of
from evaluation._canvas import BLUE, GREY, ORANGE, drawing, save

Array: TypeAlias = npt.NDArray[Any]

_SHOWN = 6  # epochs whose histograms are drawn


def code_counts(counts: Array, path: str | Path) -> Path:
    """How often each discrete code is used, most used first; unused ones stand at zero."""
    ordered = np.sort(np.ravel(counts))[::-1]
    with drawing(8.4, 2.8) as figure:
        ax = figure.subplots()
        ax.bar(np.arange(1, len(ordered) + 1), ordered / ordered.sum(), color=BLUE, width=0.9)
        ax.axhline(1 / len(ordered), color=GREY, ls="--", lw=1, label="all alike")
        ax.set_xlabel("code, most used first")
        ax.set_ylabel("share of positions")
        ax.legend(loc="upper right")
        ax.set_title(f"Use of codes: {int((ordered > 0).sum())} of {len(ordered)}")
        return save(figure, path)


def codes_over_time(history: xr.Dataset, path: str | Path) -> Path:
    """Used codes and perplexity over training, and histograms of a few epochs; a row a site."""
    require(history, "code_counts", "code")
    counts = values_of(history, "code_counts")
    rows = [i for i in range(counts.shape[1]) if np.isfinite(counts[:, i]).any()]
    with drawing(8.4, 0.4 + 2.9 * len(rows)) as figure:
        panels = figure.subplots(len(rows), 2, squeeze=False)
        for (curve, histogram), row in zip(panels, rows, strict=True):
            site = str(history["site"].values[row])
            table = counts[:, row][:, np.isfinite(counts[:, row]).any(0)]
            _curves(curve, history, row, table.shape[1])
            curve.set_title(f"{site}: of {table.shape[1]} codes")
            _histograms(histogram, epoch(history), table)
        panels[0, 0].legend(loc="lower right")
        return save(figure, path)


def _curves(ax: Axes, history: xr.Dataset, row: int, num_codes: int) -> None:
    x = epoch(history)
    for name, label, colour in (
        ("used_codes", "used", BLUE),
        ("perplexity", "perplexity", ORANGE),
    ):
        ax.plot(x, values_of(history, name)[:, row], color=colour, marker=marker(x), label=label)
    ax.set_ylim(0, 1.05 * num_codes)
    ax.set_ylabel("codes")
    epochs(ax, history)


def _histograms(ax: Axes, at: Array, table: Array) -> None:
    """Shares of positions, most used code first, of epochs evenly spread."""
    shown = np.unique(np.linspace(0, len(at) - 1, _SHOWN).round().astype(int))
    shades = matplotlib.colormaps["viridis"](np.linspace(0.85, 0.0, len(shown)))
    edges = np.arange(table.shape[1] + 1) + 0.5
    for i, shade in zip(shown, shades, strict=True):
        ordered = np.sort(table[i])[::-1]
        ax.stairs(ordered / max(ordered.sum(), 1), edges, color=shade, label=f"epoch {at[i]}")
    ax.axhline(1 / table.shape[1], color=GREY, ls="--", lw=1)
    ax.set_xlabel("code, most used first")
    ax.set_ylabel("share of positions")
    ax.legend(loc="upper right", fontsize=8)
