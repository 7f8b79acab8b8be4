"""Figures of training and of comparisons, as small PNG files.

Those made of images are in `evaluation.pictures`, and offered here too. `history` is what `fit`
returns as `.history` (dims step, site, bound; docs/evaluation.md). A history of one epoch,
of one site or without validation draws what it has. Each function returns the path it wrote.
"""

from __future__ import annotations

__all__ = [
    "compare_curves",
    "compare_likelihoods",
    "image_grid",
    "kl_by_site",
    "learning_curves",
    "nearest_images",
    "posterior_range",
    "reconstructions",
    "samples_over_time",
    "samples_with_neighbours",
]

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from evaluation._axes import epoch, epochs, fit_late, last, log_if_wide, marker, require, values_of
from evaluation._canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, drawing, save, site_colours
from evaluation.comparison import HERE, Number, Section, compare
from evaluation.pictures import (
    image_grid,
    nearest_images,
    reconstructions,
    samples_over_time,
    samples_with_neighbours,
)
from evaluation.published import Published, with_published
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

_FEW_SITES = 6  # above it, sites share one panel


def learning_curves(history: xr.Dataset, path: str | Path) -> Path:
    """ELBO, its two parts and the gradient's size over training, and validation if there is any."""
    require(history, "elbo")
    panels: list[tuple[str, str, Any]] = [("ELBO", "nats per image", "elbo")]
    if "log_likelihood" in history:
        panels.append(("Reconstruction, log p(x | z)", "nats per image", "log_likelihood"))
    if "kl" in history:
        panels.append(("KL, all sites", "nats per image", "kl"))
    if "grad_norm" in history:
        panels.append(("Gradient", "norm, before clipping", "grad_norm"))
    rows = (len(panels) + 1) // 2
    with drawing(8.4, 0.4 + 2.6 * rows) as figure:
        axes = np.atleast_1d(figure.subplots(rows, min(2, len(panels)), squeeze=False).ravel())
        for ax, (title, unit, name) in zip(axes, panels, strict=False):
            ax.set_title(title)
            ax.set_ylabel(unit)
            if name == "grad_norm":
                _gradient(ax, history)
            else:
                _train_and_valid(ax, history, name)
            epochs(ax, history)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        figure.suptitle(_heading(history, "Learning curves"), x=0.012, ha="left")
        return save(figure, path)


def kl_by_site(history: xr.Dataset, path: str | Path) -> Path:
    """KL of each site over training: stacked, so that the height is the sum, and logarithmic.

    Where there are validation images their curves are dotted: what gapes is overfitting.
    """
    require(history, "kl", "site")
    x, kl = epoch(history), np.maximum(values_of(history, "kl"), 0.0)
    sites = [str(site) for site in history["site"].values]
    colours = site_colours(len(sites))
    with drawing(8.4, 3.7) as figure:
        stacked, lines = figure.subplots(1, 2)
        if len(x) > 1:
            stacked.stackplot(x, *kl.T, colors=colours, edgecolor="white", linewidth=0.4)
        else:
            bottoms = np.concatenate([[0.0], np.cumsum(kl[0])[:-1]])
            stacked.bar([x[0]] * len(sites), kl[0], 0.5, bottoms, color=colours)
        for value, colour in zip(kl.T, colours, strict=True):
            lines.plot(x, np.where(value > 0, value, np.nan), color=colour, marker=marker(x))
        validated = "valid_kl" in history
        if validated:
            for value, colour in zip(values_of(history, "valid_kl").T, colours, strict=True):
                lines.plot(x, np.where(value > 0, value, np.nan), color=colour, linestyle=":")
        lines.set_yscale("log")
        lines.set_ylim(bottom=max(1e-3, 0.5 * float(kl[kl > 0].min(initial=1.0))))
        stacked.set_ylim(0.0, None)
        for ax, title in (
            (stacked, "Stacked: the height is the total"),
            (lines, "Each site" + (", validation dotted" if validated else ", logarithmic")),
        ):
            ax.set_title(title)
            ax.set_ylabel("KL, nats per image")
            epochs(ax, history)
        _site_legend(
            figure, sites, colours, [f"{v:.2f}" if v >= 0.01 else "< 0.01" for v in kl[-1]]
        )
        figure.suptitle(_heading(history, "KL by layer"), x=0.012, ha="left")
        return save(figure, path)


def posterior_range(history: xr.Dataset, path: str | Path) -> Path:
    """Lowest and highest of the posterior means and deviations of each site over training."""
    require(history, "posterior_loc", "site")
    require(history, "posterior_scale", "site")
    sites = [str(site) for site in history["site"].values]
    together = len(sites) > _FEW_SITES
    columns = 1 if together else len(sites)
    colours = site_colours(len(sites))
    with drawing(8.4, 6.0 if together else 4.6) as figure:
        axes = figure.subplots(2, columns, squeeze=False, sharex=True, sharey="row")
        for row, name in enumerate(("posterior_loc", "posterior_scale")):
            for i, site in enumerate(sites):
                ax = axes[row, 0 if together else i]
                _band(ax, history, name, site, colours[i], fill=not together)
                if not together and row == 0:
                    ax.set_title(site, color=colours[i], loc="center")
            if row:
                log_if_wide(axes[1, 0], history["posterior_scale"].values)
        axes[0, 0].set_ylabel("posterior means")
        axes[1, 0].set_ylabel("posterior deviations")
        for ax in axes[1]:
            epochs(ax, history)
        if together:
            _site_legend(figure, sites, colours)
        figure.suptitle(
            _heading(history, "Posterior means and deviations, lowest to highest"),
            x=0.012,
            ha="left",
        )
        return save(figure, path)


def compare_curves(histories: Mapping[str, xr.Dataset], path: str | Path) -> Path:
    """ELBO of several runs over training: the validation images' where every run has them.

    Else the training images'. Runs on different data share no axis: each data set has its panel.
    """
    if not histories:
        raise UsageError("histories: expected {name: history}, one or more, came none")
    name = "valid_elbo" if all("valid_elbo" in h for h in histories.values()) else "elbo"
    panels: dict[str, dict[str, xr.Dataset]] = {}
    for label, history in histories.items():
        require(history, name)
        panels.setdefault(str(history.attrs.get("data", "")), {})[label] = history
    split = "validation" if name == "valid_elbo" else "training"
    with drawing(8.4, 0.6 + 3.4 * len(panels)) as figure:
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for ax, (data, runs) in zip(axes, panels.items(), strict=True):
            _runs(ax, runs, name)
            ax.set_title(" · ".join(filter(None, [data, split])))
        return save(figure, path)


def compare_likelihoods(
    evaluations: Sequence[Mapping[str, Any]],
    path: str | Path,
    published: Sequence[Published] = (),
) -> Path:
    """L_K ± standard error of each run: a panel a protocol, a colour and a shape for each K.

    Seeds of one setting are followed by their mean ± standard deviation. Numbers from papers stand
    hollow, in panels that a run of the same protocol has.
    """
    measured = compare(evaluations)
    sections = with_published(measured, published)[: len(measured)]
    counts = [len(section.rows) for section in sections]
    with drawing(8.4, sum(0.95 + 0.3 * n for n in counts) + 0.2) as figure:
        axes = figure.subplots(
            len(sections),
            1,
            squeeze=False,
            gridspec_kw={"height_ratios": [n + 1.5 for n in counts]},
        )
        for ax, section in zip(axes[:, 0], sections, strict=True):
            _bounds(ax, section)
            ax.set_yticks(range(len(section.rows)), [section.label(row) for row in section.rows])
            ax.set_ylim(len(section.rows) - 0.5, -0.5)
            ax.set_title(section.protocol.text)
            ax.set_xlabel("-log p(x) by L_K, nats per image, ± se (means: ± sd); lower is better")
            ax.grid(axis="y", visible=False)
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return save(figure, path)


def _runs(ax: Axes, histories: Mapping[str, xr.Dataset], name: str) -> None:
    """A curve of `name` for each run, its last value in the legend."""
    values = []
    colours = site_colours(len(histories))
    for (label, history), colour in zip(histories.items(), colours, strict=True):
        x, y = epoch(history), values_of(history, name)
        seen = np.isfinite(y)
        ax.plot(x[seen], y[seen], color=colour, marker=marker(x), label=f"{label}  {last(y)}")
        values.append(y)
    fit_late(ax, values)
    epochs(ax, max(histories.values(), key=lambda h: float(epoch(h)[-1])))
    ax.set_ylabel("ELBO, nats per image")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), title="last value", alignment="left")


def _bounds(ax: Axes, section: Section) -> None:
    """Each run's L_K with its error, one line a run, the K's a little apart."""
    columns = section.bounds
    apart = np.linspace(-0.16, 0.16, len(columns)) if len(columns) > 1 else np.zeros(1)
    styles = zip(columns, site_colours(len(columns)), cycle("osD^vP"), apart, strict=False)
    for column, colour, shape, offset in styles:
        for published in (False, True):
            points = {
                i: point
                for i, row in enumerate(section.rows)
                if isinstance(point := row[column], Number)
                and (row.get("source", HERE) != HERE) == published
            }
            if points:
                ax.errorbar(
                    [point.value for point in points.values()],
                    [i + offset for i in points],
                    xerr=[point.error or 0.0 for point in points.values()],
                    fmt=shape,
                    color=colour,
                    mfc="white" if published else colour,
                    capsize=3,
                    label=f"{column}, paper" if published else column,
                )


def _train_and_valid(ax: Axes, history: xr.Dataset, name: str) -> None:
    """Training's curve of `name` (summed over sites), validation's, and the warm-up as a shade."""
    x = epoch(history)
    values = []
    for prefix, colour, label in (("", BLUE, "train"), ("valid_", ORANGE, "validation")):
        if prefix + name not in history:
            continue
        y = values_of(history, prefix + name)
        y = y.sum(axis=1) if y.ndim == 2 else y
        seen = np.isfinite(y)
        if seen.any():
            ax.plot(x[seen], y[seen], color=colour, marker=marker(x), label=f"{label}  {last(y)}")
            values.append(y)
    fit_late(ax, values)
    if "kl_weight" in history and len(x) > 1:
        weight = values_of(history, "kl_weight")
        warming = x[weight < weight.max() - 1e-9]
        if len(warming):
            ax.axvspan(x[0], warming[-1], color=GREY, alpha=0.08, lw=0, label="KL warm-up")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best" if len(x) > 1 else "center left", handlelength=1.4)


def _gradient(ax: Axes, history: xr.Dataset) -> None:
    x, norm = epoch(history), values_of(history, "grad_norm")
    ax.plot(x, norm, color=GREEN, marker=marker(x))
    log_if_wide(ax, norm)
    if "skipped" in history:
        skipped = np.nan_to_num(values_of(history, "skipped"))
        at = skipped > 0
        if at.any():
            ax.plot(
                x[at],
                norm[at],
                "x",
                color=PURPLE,
                mew=2,
                label=f"{int(skipped.sum())} steps skipped",
            )
            ax.legend(loc="best")


def _band(ax: Axes, history: xr.Dataset, name: str, site: str, colour: Any, *, fill: bool) -> None:
    x = epoch(history)
    bounds = history[name].sel(site=site).transpose("step", "bound")
    low, high = (
        np.asarray(bounds.sel(bound=b).values, dtype=np.float64) for b in ("lowest", "highest")
    )
    ax.plot(x, low, color=colour, lw=1.2, marker=marker(x))
    ax.plot(x, high, color=colour, lw=1.2, marker=marker(x))
    if fill:
        ax.fill_between(x, low, high, color=colour, alpha=0.22, lw=0)


def _site_legend(
    figure: Any, sites: list[str], colours: list[Any], values: list[str] | None = None
) -> None:
    """Every site's colour; above 16 sites only the two ends and even steps between them."""
    shown = sorted(
        {round(i) for i in np.linspace(0, len(sites) - 1, min(len(sites), 16))}, reverse=True
    )
    handles = [figure.axes[0].plot([], [], color=colours[i], lw=5)[0] for i in shown]
    labels = [f"{sites[i]}  {values[i]}" if values else sites[i] for i in shown]
    figure.legend(
        handles,
        labels,
        loc="outside right center",
        title="last, nats" if values else None,
        handlelength=0.8,
    )


def _heading(history: xr.Dataset, title: str) -> str:
    data, ppl = history.attrs.get("data"), history.attrs.get("ppl")
    return " · ".join([title, *(str(part) for part in (data, ppl) if part)])
