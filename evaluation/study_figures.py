"""Figures of studies whose members differ by a number."""

from __future__ import annotations

__all__ = ["along"]

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from evaluation._canvas import BLUE, GREY, drawing, save
from ppl_vae.errors import UsageError


def along(
    title: str, points: Mapping[str, Sequence[tuple[float, float]]], path: str | Path
) -> Path:
    """A panel a quantity: every run a point, a line through the means over seeds.

    Arguments:
        title: of the horizontal axis.
        points: {quantity: (place, value) of every run}.
    """
    if not points:
        raise UsageError("points: expected {quantity: (place, value), …}, one or more, came none")
    columns = min(3, len(points))
    rows = -(-len(points) // columns)
    with drawing(max(4.2, 2.9 * columns), 0.2 + 2.4 * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (name, pairs) in zip(axes, points.items(), strict=False):
            x, y = np.array(pairs, dtype=float).T
            places = np.unique(x)
            ax.plot(places, [y[x == place].mean() for place in places], color=BLUE)
            ax.scatter(x, y, s=14, color=GREY, zorder=3)
            ax.xaxis.set_major_locator(MaxNLocator(integer=bool((places % 1 == 0).all())))
            ax.set_title(name)
            ax.set_xlabel(title)
        for ax in axes[len(points) :]:
            ax.set_visible(False)
        return save(figure, path)
