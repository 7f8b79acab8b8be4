"""The benchmarks' figures, from what stands in benchmarks/results."""

from __future__ import annotations

__all__ = ["crossings", "growth", "overhead", "peers"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import EngFormatter

from evaluation._canvas import BLUE, GREY, ORANGE, drawing, save

COLOURS = {"pyro": BLUE, "numpyro": ORANGE}
NAMES = {"pyro": "Pyro", "numpyro": "NumPyro"}
UNITS = {"seconds": "seconds", "operations": "operations", "bytes": "bytes at the peak"}


def overhead(reports: Mapping[str, Mapping[str, Any]], path: str | Path) -> Path:
    """Step time and peak memory over those by hand, a row a family and way; targets as ticks.

    Args:
        reports: {family: what `benchmarks.overhead` wrote}.
        path: of the picture.
    """
    rows = [
        (f"{family}: {time['name']}", time, ppl, side["memory"])
        for family, report in reports.items()
        for ppl, side in report["sides"].items()
        for time in side["times"]
    ]
    with drawing(7.6, 1.1 + 0.3 * len(rows)) as figure:
        times, memory = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
        for place, (_, time, ppl, peaks) in enumerate(rows):
            times.plot(time["interval"], [place, place], color=GREY, linewidth=2)
            times.plot(time["ratio"], place, "o", color=COLOURS[ppl])
            if time["target"] is not None:
                times.plot(time["target"], place, "|", color="black", markersize=11)
            if "stock" not in time["name"]:  # measured for the zoo's own step
                apart = peaks["relative_difference"]
                memory.plot(1 + apart, place, "o", color=COLOURS[ppl])
        for ax in (times, memory):
            ax.axvline(1, color=GREY, linewidth=0.8)
        times.set_yticks(range(len(rows)), [name for name, *_ in rows])
        times.set_ylim(len(rows) - 0.5, -0.5)
        times.set_xlabel("step time / by hand")
        memory.set_xlabel("peak memory / by hand")
        return save(figure, path)


def peers(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Each peer's time over the zoo's, with its interval; right of the line the zoo is faster."""
    with drawing(6.4, 0.8 + 0.32 * len(rows)) as figure:
        ax = figure.subplots()
        for place, row in enumerate(rows):
            low, high = row["interval"]
            ax.plot([low, high], [place, place], color=GREY, linewidth=2)
            ax.plot(row["ratio"], place, "o", color=BLUE)
        ax.axvline(1, color=GREY, linewidth=0.8)
        ax.set_yticks(range(len(rows)), [f"{row['peer']}\n{row['measured']}" for row in rows])
        ax.tick_params(axis="y", labelsize=7)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlabel("peer's time / ppl-vae's time, 95 % interval")
        return save(figure, path)


def crossings(recipes: Mapping[str, Mapping[str, Any]], path: str | Path) -> Path:
    """Seconds since the start against epochs, a panel a recipe, both axes logarithmic."""
    columns = min(3, len(recipes))
    rows = -(-len(recipes) // columns)
    with drawing(max(4.2, 2.7 * columns), 0.3 + 2.3 * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (name, told) in zip(axes, recipes.items(), strict=False):
            crossed = told["crossover_epochs"]
            middle = crossed if crossed else 1.0
            epochs = np.geomspace(middle / 30, middle * 30, 100)
            training = told["training"]
            for ppl, colour in COLOURS.items():
                seconds = training["first"][ppl] + epochs * (
                    training["seconds"][ppl] * told["steps_an_epoch"]
                )
                ax.loglog(epochs, seconds, color=colour, label=NAMES[ppl])
            if crossed:
                ax.axvline(crossed, color=GREY, linewidth=0.8, linestyle=":")
            ax.set_title(name)
            ax.set_xlabel("epochs")
        axes[0].set_ylabel("seconds of one core")
        axes[0].legend()
        for ax in axes[len(recipes) :]:
            ax.set_visible(False)
        return save(figure, path)


def growth(axes: Mapping[str, Mapping[str, Any]], path: str | Path) -> Path:
    """Seconds, operations and bytes against each size, both logarithmic; slopes in the legends."""
    with drawing(2.5 * len(axes) + 0.4, 6.0) as figure:
        panels = figure.subplots(3, len(axes), squeeze=False)
        for column, (axis, told) in enumerate(axes.items()):
            for row, (count, unit) in enumerate(UNITS.items()):
                ax = panels[row, column]
                for ppl, colour in COLOURS.items():
                    points = told[ppl]["points"]
                    sizes = [point[told["changes"]] for point in points]
                    slope = told[ppl]["slopes"][count][0]
                    label = f"{NAMES[ppl]}: {slope:.2f}"
                    ax.loglog(sizes, [p[count] for p in points], "o-", color=colour, ms=3,
                              label=label)  # fmt: skip
                ax.set_xticks(sizes, [str(size) for size in sizes])
                ends = [p[count] for ppl in COLOURS for p in told[ppl]["points"]]
                ax.set_yticks([min(ends), max(ends)])
                ax.yaxis.set_major_formatter(EngFormatter(places=1, sep=" "))
                ax.minorticks_off()
                ax.legend(fontsize=6)
                if not column:
                    ax.set_ylabel(unit)
            panels[0, column].set_title(axis)
        return save(figure, path)
