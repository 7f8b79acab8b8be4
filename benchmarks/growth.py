"""How cost grows with depth, batch, image side and importance samples: slopes on log-log axes.

    python -m benchmarks.growth                  # every axis: a quarter of an hour of one core
    python -m benchmarks.growth --axis depth     # a part; others in --out stay
    python -m benchmarks.growth --quick          # two small sizes of one axis

A small Very Deep VAE in both PPLs, one size changed at a time. A slope of 1 says that twice the
size costs twice as much. Beside the processor's seconds, which are the machine's, stand operations
and bytes, which are not: torch's count of a step (matrix products and convolutions) and XLA's (all)
of the compiled one, loops' products as often as they run; tensors held at once at the peak, and
what XLA sets aside for the program.
"""

from __future__ import annotations

__all__ = ["decoder", "main", "slope"]

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import ended, number, place
from benchmarks.machine import describe
from benchmarks.problem import grey_images
from benchmarks.timing import interleaved
from ppl_vae.data import Images
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

OUT = Path(__file__).parent / "results" / "growth.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "growth.png"
RESAMPLES = 2000
SIDES = ("pyro", "numpyro")


@dataclass(frozen=True)
class Size:
    """One net and what it is fed.

    Args:
        groups: of latents, one at resolution 1, the others at the image's own.
        batch: images of a training step, or of an evaluation's block.
        side: of an image.
        samples: importance samples of an evaluation; 0 trains.
    """

    groups: int = 4
    batch: int = 16
    side: int = 16
    samples: int = 0


AXES: dict[str, tuple[str, tuple[int, ...], Size]] = {
    "depth": ("groups", (3, 6, 12), Size()),
    "batch": ("batch", (8, 32, 128), Size()),
    "side": ("side", (8, 16, 32), Size()),
    "samples": ("samples", (2, 16, 128), Size(side=8)),
}
"""{axis: (what changes, to what, the rest)}."""

Turn = Callable[[int], object]
Point = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.here:
        print(json.dumps(_measured(options.axis[0], options.repeats, options.quick)))
        return 0
    told: dict[str, Any] = {}
    if options.out is not None and options.out.exists():
        told = json.loads(options.out.read_text()).get("axes", {})
    for axis in options.axis:
        told[axis] = {"machine": describe(), **_apart(axis, options)}
        print(_table(axis, told[axis]), flush=True)
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"axes": told}, indent=2) + "\n")
    if options.figure is not None:
        from benchmarks.pictures import growth

        print(growth(told, options.figure))
    return 0


def decoder(size: Size) -> str:
    """Stages of a decoder.

    >>> decoder(Size(groups=4, side=16))
    '1,16m1,16x2'
    """
    return f"1,{size.side}m1,{size.side}x{size.groups - 2}"


def slope(sizes: Sequence[int], seconds: Sequence[np.ndarray], seed: int = 0) -> list[float]:
    """[slope, low, high] of log median seconds by log size; bootstrap 95 % interval over turns.

    >>> slope([1, 10], [np.full(5, 2.0), np.full(5, 20.0)])
    [1.0, 1.0, 1.0]
    """
    rng = np.random.default_rng(seed)
    x = np.log(sizes)
    x = x - x.mean()

    def fitted(y: np.ndarray) -> Any:
        return (x * np.log(y)).sum(-1) / (x**2).sum()

    times = np.array(seconds)  # (sizes, turns)
    drawn = rng.integers(times.shape[1], size=(RESAMPLES, *times.shape))
    resampled = np.median(np.take_along_axis(times[None], drawn, -1), -1)
    low, high = np.quantile(fitted(resampled), [0.025, 0.975])
    value = fitted(np.median(times, -1))
    return [round(float(v), 6) for v in (value, low, high)]


def _measured(axis: str, repeats: int, quick: bool) -> dict[str, Any]:
    """{ppl: {"points": one a size, "slopes": {"seconds": [value, low, high], …}}}."""
    name, values, base = AXES[axis]
    values = values[:2] if quick else values
    turns: dict[str, Turn] = {}
    points: dict[str, dict[int, Point]] = {ppl: {} for ppl in SIDES}
    for ppl in SIDES:
        made = import_module(f"benchmarks.growth_{ppl}")
        for value in values:
            size = replace(base, **{name: value})
            images = (grey_images(size.batch, (1, size.side, size.side)) > 127).astype(np.uint8)
            data = Images(images, binarization="static")
            turn, counted = (made.evaluation if size.samples else made.training)(
                size, data, decoder(size)
            )
            turns[f"{ppl} {value}"] = turn
            points[ppl][value] = {name: value, **counted}
    times = interleaved(turns, repeats, clock=time.process_time)
    told: dict[str, Any] = {"changes": name, "repeats": repeats, "base": vars(base)}
    for ppl in SIDES:
        rows = [points[ppl][value] for value in values]
        seconds = [times[f"{ppl} {value}"] for value in values]
        for row, turn_times in zip(rows, seconds, strict=True):
            row["seconds"] = float(np.median(turn_times))
        slopes = {"seconds": slope(values, seconds)}
        for count in ("operations", "bytes"):
            slopes[count] = slope(values, [np.array([row[count]]) for row in rows])[:1]
        told[ppl] = {"points": rows, "slopes": slopes}
    return told


def _apart(axis: str, options: argparse.Namespace) -> dict[str, Any]:
    """One axis in a process of its own, on one core."""
    command = [sys.executable, "-m", "benchmarks.growth", "--here", "--axis", axis]
    command += ["--repeats", str(options.repeats), *(["--quick"] if options.quick else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--axis", choices=list(AXES), action="append", help="one alone")
    parser.add_argument("--repeats", type=number, help="timed turns of every size (9)")
    parser.add_argument("--quick", action="store_true", help="two sizes of an axis, 2 turns")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=f"JSON (results/{OUT.name} unless --quick)")
    parser.add_argument("--figure", type=Path, help=f"PNG (figures/{FIGURE.name} unless --quick)")
    options = parser.parse_args(arguments)
    options.axis = options.axis or (["side"] if options.quick else list(AXES))
    options.repeats = options.repeats or (2 if options.quick else 9)
    if not options.quick and not options.here:
        whole = options.repeats >= 7
        options.out = place(options.out, OUT, whole)
        options.figure = options.figure or (FIGURE if whole else None)
    return options


def _table(axis: str, told: Mapping[str, Any]) -> str:
    lines = [f"{axis:8} {'PPL':8} {'slope of time':>24} {'of operations':>14} {'of bytes':>9}"]
    for ppl in SIDES:
        slopes = told[ppl]["slopes"]
        value, low, high = slopes["seconds"]
        span = f"{value:.2f} ({low:.2f} … {high:.2f})"
        lines.append(
            f"{'':8} {ppl:8} {span:>24} {slopes['operations'][0]:14.2f} {slopes['bytes'][0]:9.2f}"
        )
    return "\n".join(lines)


# Settings that both sides train with.
TRAINING = TrainingSettings(learning_rate=1e-3, device="cpu", threads=1)
OBJECTIVE = ObjectiveSettings()


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
