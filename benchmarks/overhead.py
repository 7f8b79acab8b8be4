"""What the PPLs cost: the project's training steps against the same nets written by hand.

    python -m benchmarks.overhead            # five minutes; writes benchmarks/results/overhead.json
    python -m benchmarks.overhead --family nvae     # or very-deep: results/overhead-nvae.json, ...
    python -m benchmarks.overhead --quick    # does it run, are losses and operations equal

docs/benchmarks.md says what is measured and how. Exit status 1 where a target is missed.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import ended, number, place
from benchmarks.machine import cores, describe
from benchmarks.problem import FAMILIES, TOYS, Plan
from benchmarks.timing import ratio

RESULTS = Path(__file__).parent / "results"
FIGURE = RESULTS.parent.parent / "docs" / "figures" / "overhead.png"
SIDES = {"pyro": "benchmarks.against_torch", "numpyro": "benchmarks.against_jax"}
TIME_TARGETS = {  # of each family, held by the interval's lower end
    "ladder": {"Pyro, 1 thread": 1.10, "NumPyro": 1.03},
    "nvae": {"Pyro, 1 thread": 1.05, "NumPyro": 1.03},
    "very-deep": {"Pyro, 1 thread": 1.05, "NumPyro": 1.03},
}
TURNS = 50  # at least, for what is kept
FLOP_TARGETS = {"pyro": 0.0, "numpyro": 0.01}  # relative difference
LOSS_TARGETS = {"first_step": 1e-5, "grad_norm": 1e-4}  # relative difference in the first step


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where every target is held, 1 otherwise."""
    options = _options(arguments)
    problem = (TOYS if options.quick else FAMILIES)[options.family]
    one = options.quick or cores() == 1 or options.family != "ladder"
    threads = (1,) if one else (1, 2)
    plan = Plan(options.repeats, options.steps, threads, options.quick)
    sides: dict[str, Any] = {}
    for ppl in options.ppl:
        measured = import_module(SIDES[ppl]).measure(plan, problem)
        targets = {} if options.quick else TIME_TARGETS[options.family]
        sides[ppl] = {
            "machine": describe(),
            "repeats": plan.repeats,
            "steps_a_repeat": plan.steps,
            "operations": _operations(ppl, measured["flops"]),
            "memory": _memory(measured["memory"]),
            "losses_apart": measured["losses_apart"],
            "times": _times(ppl, measured["seconds"], targets),
        }
        sides[ppl]["held"] = _held(sides[ppl])
    report = {"problem": asdict(problem), "sides": sides}
    print(_table(report))
    if options.out is not None:
        _keep(report, options.out)
        if options.out == result_of(options.family):
            _draw()
    return 0 if all(side["held"] for side in sides.values()) else 1


def _keep(report: dict[str, Any], out: Path) -> None:
    """Write it, beside what stands there of the other PPL and the same problem."""
    whole: dict[str, Any] = json.loads(json.dumps(report))
    if out.exists():
        known = json.loads(out.read_text())
        if known["problem"] == whole["problem"]:
            both = {**known["sides"], **whole["sides"]}
            whole["sides"] = {ppl: both[ppl] for ppl in SIDES if ppl in both}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(whole, indent=2) + "\n")


def result_of(family: str) -> Path:
    """Where a family's report is kept."""
    return RESULTS / ("overhead.json" if family == "ladder" else f"overhead-{family}.json")


def _draw() -> None:
    """docs/figures/overhead.png, of all families that have been measured."""
    from benchmarks import pictures

    found = {family: result_of(family) for family in FAMILIES}
    kept = {name: json.loads(path.read_text()) for name, path in found.items() if path.exists()}
    print(pictures.overhead(kept, FIGURE))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ppl", choices=list(SIDES), action="append", help="one side alone")
    parser.add_argument("--family", choices=list(FAMILIES), default="ladder", help="the nets")
    parser.add_argument("--repeats", type=number, help="timed turns of every contestant (60)")
    parser.add_argument(
        "--steps", type=number, help="optimiser steps a turn (10; 5 but for the ladder)"
    )
    parser.add_argument("--quick", action="store_true", help="2 turns of 2 steps, times unjudged")
    parser.add_argument("--out", type=Path, help="JSON (in results/ unless --quick)")
    options = parser.parse_args(arguments)
    options.ppl = options.ppl or list(SIDES)
    options.repeats = options.repeats or (2 if options.quick else 60)
    is_ladder = options.family == "ladder"
    options.steps = options.steps or (2 if options.quick else 10 if is_ladder else 5)
    if not options.quick:
        results = result_of(options.family)
        options.out = place(options.out, results, whole=options.repeats >= TURNS)
    return options


def _operations(ppl: str, flops: dict[str, float]) -> dict[str, Any]:
    apart = flops["ppl-vae"] / flops["by hand"] - 1
    return {**flops, "relative_difference": apart, "held": abs(apart) <= FLOP_TARGETS[ppl]}


def _memory(peaks: dict[str, int]) -> dict[str, Any]:
    return {**peaks, "relative_difference": peaks["ppl-vae"] / peaks["by hand"] - 1}


def _times(ppl: str, seconds: dict[Any, Any], targets: dict[str, float]) -> list[dict[str, Any]]:
    if ppl == "numpyro":
        return [_time("NumPyro", seconds["ppl-vae"], seconds["by hand"], targets)]
    rows = []
    for count, times in seconds.items():
        threads = f"{count} thread" + "s" * (count > 1)
        names = {"Pyro": "ppl-vae", "Pyro's stock ELBO": "stock"}
        for name, who in names.items():
            if who not in times:
                continue
            rows.append(_time(f"{name}, {threads}", times[who], times["by hand"], targets))
    return rows


def _time(
    name: str, ours: np.ndarray, by_hand: np.ndarray, targets: dict[str, float]
) -> dict[str, Any]:
    found, target = ratio(ours, by_hand), targets.get(name)
    return {
        "name": name,
        "milliseconds": 1e3 * float(np.median(ours)),
        "milliseconds_by_hand": 1e3 * float(np.median(by_hand)),
        "ratio": found.value,
        "interval": [found.low, found.high],
        "target": target,
        "held": None if target is None else found.low <= target,
    }


def _held(side: dict[str, Any]) -> bool:
    same_losses = all(side["losses_apart"][name] <= most for name, most in LOSS_TARGETS.items())
    in_time = all(row["held"] is not False for row in side["times"])
    return same_losses and side["operations"]["held"] and in_time


def _table(report: dict[str, Any]) -> str:
    sides = report["sides"]
    first, *_ = sides.values()
    machine = first["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, load {machine['busy_cores']}; "
        f"medians of {first['repeats']} interleaved turns of {first['steps_a_repeat']} steps, "
        f"{report['problem']['family']}, batch {report['problem']['batch']}",
        "",
        f"{'step time':28} {'ms':>8} {'by hand':>8} {'ratio':>7}   95 % interval   target",
    ]
    for row in (row for side in sides.values() for row in side["times"]):
        low, high = row["interval"]
        line = f"{row['name']:28} {row['milliseconds']:8.2f} {row['milliseconds_by_hand']:8.2f} "
        line += f"{row['ratio']:7.3f}   {low:.3f} … {high:.3f}"
        if row["target"] is not None:
            line += f"   {row['target']:.2f} {'held' if row['held'] else 'missed'}"
        lines.append(line)
    lines += ["", f"{'operations a step':28} {'ppl-vae':>14} {'by hand':>14} {'apart':>8}"]
    for ppl, row in ((ppl, side["operations"]) for ppl, side in sides.items()):
        held = "held" if row["held"] else "missed"
        line = f"{ppl:28} {row['ppl-vae']:14.0f} {row['by hand']:14.0f} "
        lines.append(line + f"{row['relative_difference']:8.2%}   {FLOP_TARGETS[ppl]:.0%} {held}")
    lines += ["", f"{'peak memory a step, MB':28} {'ppl-vae':>14} {'by hand':>14} {'apart':>8}"]
    for ppl, row in ((ppl, side["memory"]) for ppl, side in sides.items()):
        line = f"{ppl:28} {row['ppl-vae'] / 1e6:14.1f} {row['by hand'] / 1e6:14.1f} "
        lines.append(line + f"{row['relative_difference']:8.2%}")
    lines += ["", "largest relative difference, first step: loss and its terms; gradient norm"]
    for ppl, apart in ((ppl, side["losses_apart"]) for ppl, side in sides.items()):
        lines.append(f"{ppl:28} {apart['first_step']:14.1e} {apart['grad_norm']:14.1e}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
