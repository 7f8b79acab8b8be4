"""Ways to take the same training steps: as written, compiled, recorded; by hand; and in NumPyro.

    python -m benchmarks.speed --family nvae                  # on the CPU: as written, by hand
    python -m benchmarks.speed --family nvae --compile        # and compiled (minutes of compiling)
    python -m benchmarks.speed                                # on a GPU: all families, recorded too
    python -m benchmarks.speed --quick                        # does it run

Time a step by turns, images a second, memory at its peak, and the share of the machine's arithmetic
that the nets' matrix products make use of. docs/benchmarks.md says more. Exit status 1: the ways
disagree about the first step or about a later one (which is replayed where steps are recorded), or
a target is missed.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.command import ended, number
from benchmarks.machine import describe
from benchmarks.problem import (
    FAMILIES,
    TOYS,
    Problem,
    difference,
    grey_images,
)
from benchmarks.timing import interleaved, ratio

RESULTS = Path(__file__).parent / "results"
SIDES = {"pyro": "benchmarks.speed_torch", "numpyro": "benchmarks.speed_jax"}
REFERENCE = "by hand"
TARGETS = {("pyro", "recorded"): 1.05, ("numpyro", "as written"): 1.03}  # on a GPU
APART = 1e-3  # of the first step's terms; float32, and compilers that join operations
LATER = 1e-2  # of a step of the second turn: Adam has let the weights drift apart
TURNS = {"cpu": (12, 3), "cuda": (20, 20)}  # turns, steps a turn


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where the ways agree and the targets are held."""
    options = _options(arguments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch wants memory as well
    known = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    report = {**known, "families": known.get("families", {})}
    for ppl in options.ppl:
        import_module(SIDES[ppl]).check(options.device)
    held = True
    for family in options.family:
        problem = (TOYS if options.quick else FAMILIES)[family]
        for ppl in options.ppl:
            with (
                tempfile.TemporaryDirectory() as cache,  # nothing is compiled already
                mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache),
            ):
                found = {"machine": describe(), **_measure(ppl, problem, options)}
            report["families"].setdefault(family, {})[ppl] = found
            held = held and found["held"]
            print(_table(family, ppl, found), flush=True)
            if options.out is not None:  # after each, so that a session cut short keeps something
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if held else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    ppls = [ppl for ppl, library in (("pyro", "torch"), ("numpyro", "jax")) if find_spec(library)]
    parser.add_argument("--ppl", choices=ppls, action="append", help="one side alone")
    parser.add_argument("--family", choices=list(FAMILIES), action="append", help="its nets alone")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="CUDA where there is one")
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--repeats", type=number, help="timed turns of every way (12; CUDA 20)")
    parser.add_argument("--steps", type=number, help="optimiser steps a turn (3; CUDA 20)")
    parser.add_argument("--quick", action="store_true", help="2 turns of 2 steps of toys")
    parser.add_argument("--out", type=Path, help="JSON (results/speed-DEVICE.json unless --quick)")
    options = parser.parse_args(arguments)
    options.ppl = options.ppl or ppls
    options.family = options.family or list(FAMILIES)
    options.device = options.device or ("cuda" if _has_cuda() else "cpu")
    repeats, steps = (2, 2) if options.quick else TURNS[options.device]
    options.repeats, options.steps = options.repeats or repeats, options.steps or steps
    if options.out is None and not options.quick:
        options.out = RESULTS / f"speed-{options.device}.json"
    return options


def _measure(ppl: str, problem: Problem, options: argparse.Namespace) -> dict[str, Any]:
    images = grey_images(options.steps * problem.batch, problem.x_shape)
    with ExitStack() as stack:
        side = import_module(SIDES[ppl]).begin(problem, images, options, stack)
        seconds = interleaved(side["turns"], options.repeats)
    ways = {}
    for way, times in seconds.items():
        found = ratio(times, seconds[REFERENCE])
        apart, later = (
            _largest(difference(side[turn][way], side[turn][REFERENCE]))
            for turn in ("first", "second")
        )
        target = TARGETS.get((ppl, way)) if options.device == "cuda" else None
        step = float(np.median(times)) / options.steps
        ways[way] = {
            "milliseconds": 1e3 * step,
            "images_per_second": problem.batch / step,
            "ratio": found.value,
            "interval": [found.low, found.high],
            "target": target,
            "held": target is None or options.quick or found.low <= target,
            "losses_apart": apart,
            "losses_apart_later": later,
            "peak_bytes": side["memory"].get(way),
            "begin_seconds": side["seconds"][way],
            "utilisation": side["operations"] / step / side["rate"],
        }
    return {
        "ways": ways,
        "batch": problem.batch,
        "repeats": options.repeats,
        "steps_a_repeat": options.steps,
        "operations_a_step": side["operations"],
        "product_operations_a_second": side["rate"],
        "held": all(
            row["held"] and row["losses_apart"] <= APART and row["losses_apart_later"] <= LATER
            for row in ways.values()
        ),
    }


def _largest(apart: dict[str, float]) -> float:
    """Of a turn's first step; NaN where either is, which holds nothing."""
    return float(np.max([apart["first_step"], apart["grad_norm"]]))


def _has_cuda() -> bool:
    if not find_spec("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def _table(family: str, ppl: str, found: dict[str, Any]) -> str:
    head = f"{family}, {ppl}, batches of {found['batch']}"
    lines = [
        f"{head:32} {'ms':>8} {'images/s':>9} {'ratio':>7}   95 % interval   {'MB':>7} {'used':>6}"
        f" {'begun in s':>10} {'apart':>8}"
    ]
    for way, row in found["ways"].items():
        memory = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.1f}"
        low, high = row["interval"]
        lines.append(
            f"{way:32} {row['milliseconds']:8.2f} {row['images_per_second']:9.0f} "
            f"{row['ratio']:7.3f}   {low:.3f} … {high:.3f}   {memory:>7} {row['utilisation']:6.1%}"
            f" {row['begin_seconds']:10.1f} {row['losses_apart']:8.1e}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(ended(main))
