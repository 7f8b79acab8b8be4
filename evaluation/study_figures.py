"""Figures of studies: what goes along with a number, and overfitting by layer."""

from __future__ import annotations

__all__ = ["along", "kl_gaps"]

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.ticker import MaxNLocator

from evaluation._axes import epoch, epochs, marker, require, values_of
from evaluation._canvas import BLUE, GREY, drawing, save, site_colours
from ppl_vae.errors import UsageError


def along(
    title: str, points: Mapping[str, Sequence[tuple[float, float]]], path: str | Path
) -> Path:
    """A panel a quantity: every run a point, a line through the means over seeds.

    Args:
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


def kl_gaps(histories: Mapping[str, xr.Dataset], path: str | Path) -> Path:
    """KL of each site over training, a column a run on common axes, and what validation adds.

    Above: training images solid, validation images dotted, nats, logarithmic. Below: validation
    less training, nats: what is above zero is overfitting.
    """
    if not histories:
        raise UsageError("histories: expected {name: history}, one or more, came none")
    sites: list[str] = []
    for history in histories.values():
        require(history, "valid_kl", "site")
        sites += [str(s) for s in history["site"].values if str(s) not in sites]
    colours = dict(zip(sites, site_colours(len(sites)), strict=True))
    with drawing(1.6 + 3.1 * len(histories), 4.6) as figure:
        axes = figure.subplots(2, len(histories), squeeze=False, sharey="row", sharex="col")
        for (above, below), (name, history) in zip(axes.T, histories.items(), strict=True):
            x = epoch(history)
            pairs = zip(values_of(history, "kl").T, values_of(history, "valid_kl").T, strict=True)
            for site, (train, valid) in zip(history["site"].values, pairs, strict=True):
                style = {"color": colours[str(site)], "marker": marker(x)}
                above.plot(x, np.where(train > 0, train, np.nan), label=str(site), **style)
                above.plot(x, np.where(valid > 0, valid, np.nan), linestyle=":", **style)
                below.plot(x, valid - train, **style)
            below.axhline(0.0, color=GREY, lw=0.8)
            above.set_title(name)
            epochs(below, history)
        axes[0, 0].set_yscale("log")
        axes[0, 0].set_ylim(bottom=1e-3)
        axes[1, 0].set_yscale("symlog", linthresh=0.1)
        axes[0, 0].set_ylabel("KL, nats an image")
        axes[1, 0].set_ylabel("validation - training")
        axes[0, -1].legend(fontsize=8)
        return save(figure, path)
