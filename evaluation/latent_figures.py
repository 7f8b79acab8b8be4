"""Figures of what the latents hold: codes by label, units, rows of images, runs side by side."""

from __future__ import annotations

__all__ = [
    "activity",
    "codes_by_label",
    "image_rows",
    "side_by_side",
    "unit_divergences",
]

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from evaluation._axes import epoch, epochs, log_if_wide, marker, require, values_of
from evaluation._canvas import BLUE, GREY, ORANGE, drawing, save, site_colours
from evaluation.pictures import _draw, _Row, _tiles
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

_SHOWN = {
    "posterior_loc": "posterior means",
    "posterior_scale": "posterior deviations",
    "kl": "KL, nats per image",
    "active_units": "active units",
}


def codes_by_label(
    codes: Mapping[str, Array],
    labels: Any,
    path: str | Path,
    *,
    title: str = "Latent codes",
    notes: Mapping[str, str] | None = None,
) -> Path:
    """Scatter of two-dimensional codes, a panel for each name, coloured by label.

    Args:
        codes: {name: (images, 2)}.
        labels: (images,), or None: then in one colour.
        notes: {name: what stands beside the panel's name}.
    """
    if not codes:
        raise UsageError("codes: expected {name: (images, 2)}, one or more, came none")
    columns = min(3, len(codes))
    rows = math.ceil(len(codes) / columns)
    classes = None if labels is None else np.unique(labels)
    few = classes is not None and len(classes) <= 20
    height = 2.9 if columns > 1 else 4.2
    with drawing(max(5.6, 0.9 + 3.0 * columns), 0.5 + height * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (name, points) in zip(axes, codes.items(), strict=False):
            array = np.asarray(points)
            if few and classes is not None:
                _groups(ax, array, np.asarray(labels), classes)
            else:
                shade: dict[str, Any] = {"color": BLUE}
                if labels is not None:
                    shade = {"c": np.asarray(labels), "cmap": "viridis"}
                ax.scatter(array[:, 0], array[:, 1], s=9, lw=0, rasterized=True, **shade)
            ax.set_title(name)
            ax.set_title((notes or {}).get(name, ""), loc="right", fontsize=8, color=GREY)
            ax.set_xticks([])
            ax.set_yticks([])
        for ax in axes[len(codes) :]:
            ax.set_visible(False)
        if few:
            handles, names = axes[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside right center", markerscale=3, title="label")
        figure.suptitle(title, x=0.012, ha="left")
        return save(figure, path)


def unit_divergences(kl: Mapping[str, Array], path: str | Path, *, threshold: float = 0.01) -> Path:
    """Each unit's divergence, largest first, a line a site; below `threshold` it has collapsed."""
    colours = site_colours(len(kl))
    with drawing(8.4, 3.4) as figure:
        ax = figure.subplots()
        for (site, values), colour in zip(kl.items(), colours, strict=True):
            ordered = np.sort(np.maximum(np.ravel(values), 1e-6))[::-1]
            number = np.arange(1, len(ordered) + 1)
            collapsed = int((ordered < threshold).sum())
            label = f"{site}  {collapsed} of {len(ordered)} below"
            ax.plot(number, ordered, marker="o", ms=3.5, color=colour, label=label)
        ax.axhline(threshold, color=GREY, ls="--", lw=1)
        ax.set_yscale("log")
        ax.set_xlabel("unit, largest first")
        ax.set_ylabel("KL, nats per image")
        ax.legend(
            loc="upper left", bbox_to_anchor=(1.0, 1.02), title=f"threshold {threshold:g} nats"
        )
        ax.set_title("Divergence by unit")
        return save(figure, path)


def activity(history: xr.Dataset, path: str | Path) -> Path:
    """Active units of each site through training, by both measures or the one that is known."""
    require(history, "active_units", "site")
    names = {"active_units": "variance of means"}
    if "active_units_kl" in history:
        names["active_units_kl"] = "divergence"
    sites = [str(site) for site in history["site"].values]
    x, colours = epoch(history), site_colours(len(sites))
    with drawing(4.2 * len(names), 3.4) as figure:
        axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for ax, (name, label) in zip(axes, names.items(), strict=True):
            for values, site, colour in zip(
                values_of(history, name).T, sites, colours, strict=True
            ):
                ax.plot(x, values, color=colour, marker=marker(x), label=site)
            ax.set_title(f"By {label}")
            ax.set_ylim(bottom=0)
            epochs(ax, history)
        axes[0].set_ylabel("active units")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
        return save(figure, path)


def image_rows(
    rows: Mapping[str, Array], path: str | Path, *, limit: int = 12, title: str = ""
) -> Path:
    """Rows of images (n, c, h, w), each under its label, at most `limit` a row."""
    if not rows:
        raise UsageError("rows: expected {label: images}, one or more, came none")
    drawn = [_Row(_tiles(images, label, limit), label) for label, images in rows.items()]
    return _draw(drawn, path, title or "Images")


def side_by_side(histories: Mapping[str, xr.Dataset], path: str | Path) -> Path:
    """Several runs' training in columns with common axes.

    Rows: the lowest and highest posterior mean and deviation over sites, the divergence, the
    active units; what a history lacks stays empty.
    """
    if not histories:
        raise UsageError("histories: expected {name: history}, one or more, came none")
    shown = [n for n in _SHOWN if any(n in history for history in histories.values())]
    width = max(5.6, 1.2 + 1.9 * len(histories))
    with drawing(width, 0.5 + 1.7 * len(shown)) as figure:
        axes = figure.subplots(
            len(shown), len(histories), squeeze=False, sharey="row", sharex="col"
        )
        for row, name in zip(axes, shown, strict=True):
            for ax, history in zip(row, histories.values(), strict=True):
                if name in history:
                    _history_panel(ax, history, name)
            row[0].set_ylabel(_SHOWN[name], fontsize=9)
            if name == "active_units":
                row[0].set_ylim(bottom=0)
            if name in ("posterior_scale", "kl"):
                every = [h[name].values.ravel() for h in histories.values() if name in h]
                log_if_wide(row[0], np.concatenate(every))
        for ax, label in zip(axes[0], histories, strict=True):
            ax.set_title(label, fontsize=9.5)
        for ax, history in zip(axes[-1], histories.values(), strict=True):
            epochs(ax, history)
        return save(figure, path)


def _history_panel(ax: Axes, history: xr.Dataset, name: str) -> None:
    x = epoch(history)
    if "bound" in history[name].dims:
        bounds = history[name].transpose("step", "bound", "site")
        low = bounds.sel(bound="lowest").min("site").values
        high = bounds.sel(bound="highest").max("site").values
        ax.fill_between(x, low, high, color=BLUE, alpha=0.22, lw=0)
        ax.plot(x, low, color=BLUE, lw=1.2, marker=marker(x))
        ax.plot(x, high, color=BLUE, lw=1.2, marker=marker(x))
    else:
        total = values_of(history, name).sum(axis=1)
        ax.plot(x, total, color=ORANGE, lw=1.5, marker=marker(x))


def _groups(ax: Axes, points: Array, labels: Array, classes: Array) -> None:
    """One colour a class."""
    colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    for colour, one in zip(colours, classes, strict=False):
        part = points[labels == one]
        ax.scatter(part[:, 0], part[:, 1], color=colour, s=9, lw=0, label=str(one), rasterized=True)
