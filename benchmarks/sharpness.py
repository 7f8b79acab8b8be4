"""How sharp trained nets are, with and without spectral regularisation, from a study's runs.

    ppl-vae study nvae --out runs/nvae
    python -m benchmarks.sharpness runs/nvae

Sharpness is the largest singular value of each convolution's weight as a matrix (outputs, the
rest), exact by decomposition (`ppl_vae.<ppl>.regularizers.singular_values`), of the weights that
the study evaluated. Beside it stands the largest divergence that any epoch had in training. Writes
benchmarks/results/sharpness.json and docs/figures/nvae-sharpness.png.
"""

from __future__ import annotations

__all__ = ["draw", "main", "measure"]

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import ended
from evaluation._canvas import BLUE, GREY, ORANGE, drawing, save
from ppl_vae import recipes
from ppl_vae.errors import UsageError
from ppl_vae.runs import Run, load

OUT = Path(__file__).parent / "results" / "sharpness.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "nvae-sharpness.png"
MEMBERS = ("residual", "residual-unregularised")


def measure(folder: Path) -> dict[str, Any]:
    """{"before", "after": {layer: largest singular value}} of a run, and its largest divergence.

    Raises:
        UsageError: no finished run there.
    """
    run = Run.open(folder)
    values = importlib.import_module(f"ppl_vae.{run.ppl}.regularizers").singular_values
    fresh = recipes.build(run.recipe, run.ppl, run.about["x_shape"])
    kl = run.history["kl"]
    return {
        "before": values(*fresh, "conv"),
        "after": values(*load(run), "conv"),
        "largest_kl": float(kl.sum("site").max()),
        "largest_kl_of_a_site": float(kl.max()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharpness", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("study", type=Path, help="the folder of a study's runs")
    parser.add_argument("--members", nargs=2, default=MEMBERS, metavar=("WITH", "WITHOUT"))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args(arguments)
    folders = sorted({file.parent for file in options.study.rglob("run.json")})
    told: dict[str, dict[str, Any]] = {}
    for folder in folders:
        member = folder.relative_to(options.study).parts[0]
        told.setdefault(member, {})[folder.name] = measure(folder)
    for name in options.members:
        if name not in told:
            raise UsageError(
                f"--members: no run of {name!r} in {options.study}: it has {', '.join(told)}"
            )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(told, indent=1) + "\n")
    for name, runs in told.items():
        print(f"{name:24}{_line(list(runs.values()))}")
    print(draw({name: told[name] for name in options.members}, options.figure))


def draw(told: dict[str, dict[str, Any]], path: Path) -> Path:
    """Each layer's value, sorted by its mean without regularisation, mean and range over seeds.

    Args:
        told: {with: runs, without: runs}, as `main` measures them.
        path: of the PNG.
    """
    (regular, with_runs), (free, without_runs) = told.items()
    layers = np.argsort(_values(without_runs, "after").mean(0))
    places = np.arange(len(layers))
    with drawing(6.8, 3.6) as figure:
        ax = figure.subplots()
        rows = (
            (free, _values(without_runs, "after"), ORANGE),
            (regular, _values(with_runs, "after"), BLUE),
            ("before training", _values(with_runs, "before"), GREY),
        )
        for name, values, colour in rows:
            low, mean, high = values.min(0), values.mean(0), values.max(0)
            ax.fill_between(places, low[layers], high[layers], color=colour, alpha=0.2, lw=0)
            ax.plot(places, mean[layers], color=colour, label=name)
        ax.set_yscale("log")
        ax.set_title("Largest singular value of each convolution")
        ax.set_xlabel("convolutions, by their value without regularisation")
        ax.legend()
        return save(figure, path)


def _values(runs: dict[str, Any], when: str) -> np.ndarray:
    """(runs, layers), layers in one order."""
    layers = sorted(next(iter(runs.values()))[when])
    return np.array([[run[when][layer] for layer in layers] for run in runs.values()])


def _line(runs: Sequence[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds of the sum and the largest, and the divergences."""
    after = np.array([list(run["after"].values()) for run in runs])
    cells = []
    for title, values in (("sum", after.sum(1)), ("largest", after.max(1))):
        spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
        cells.append(f"{title} {values.mean():.2f}{spread}")
    highest = max(run["largest_kl"] for run in runs)
    return f"{', '.join(cells)}, largest KL of an epoch {highest:.2f} nats"


if __name__ == "__main__":
    sys.exit(ended(main))
