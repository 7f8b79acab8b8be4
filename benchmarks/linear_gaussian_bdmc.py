"""How tight the bounds of log p(x) are where it is known: a linear-Gaussian model in float64.

    python -m benchmarks.linear_gaussian_bdmc   # writes results/linear_gaussian_bdmc.json

D = 20, Q = 5, 100 simulated points, 1000 temperatures, 16 chains, 10 leapfrogs, from the prior and
from a guide 1.5 times too wide; L_K of the same guide up to K = 5000. Held where, for each start
and PPL, the mean gap of the two bounds is below 0.05 nats, and the mean bounds stand on either side
of the exact mean within two standard errors (over points, of bound less exact value); and where L_K
rises to it. Exit status 1 where it is not held. Some minutes on two cores.
"""

from __future__ import annotations

__all__ = ["main", "measured"]

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import ended, number, place
from benchmarks.linear_gaussian import LinearGaussian
from benchmarks.machine import describe
from evaluation import annealed_bounds, likelihood_ladder
from ppl_vae.annealing import AnnealingSettings

RESULTS = Path(__file__).parent / "results" / "linear_gaussian_bdmc.json"
MAX_GAP = 0.05  # nats
WIDTH = 1.5  # of the guide against the exact posterior's deviations


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where every target is held, 1 otherwise."""
    options = _options(arguments)
    problem = LinearGaussian(options.points)
    rows = []
    for ppl in options.ppl:
        for start in ("prior", "guide"):
            settings = AnnealingSettings(start=start, num_temperatures=options.temperatures)
            rows.append(measured(problem, ppl, settings))
            print(_line(rows[-1]), flush=True)
    ladders = {ppl: _ladder(problem, ppl, options.samples) for ppl in options.ppl}
    for ppl, ladder in ladders.items():
        print(f"{ppl:8} L_K - exact  {_spelled(ladder['less_exact'])}")
    held = all(row["held"] for row in rows) and all(one["held"] for one in ladders.values())
    report = {
        "problem": {"points": options.points, "D": 20, "Q": 5, "noise": 1.0, "guide": WIDTH},
        "temperatures": options.temperatures,
        "machine": describe(),
        "exact_mean": float(problem.log_evidence.mean()),
        "annealing": rows,
        "ladder": ladders,
        "held": held,
    }
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if held else 1


def measured(problem: LinearGaussian, ppl: str, settings: AnnealingSettings) -> dict[str, Any]:
    """Both bounds less the exact value, means over points with their standard errors, nats."""
    begun = time.perf_counter()
    with problem.precision(ppl):
        chains = import_module(f"ppl_vae.{ppl}").annealed_log_weights(
            *problem.programs(ppl, WIDTH), problem.x, settings, latents=problem.latents
        )
    bounds = annealed_bounds(chains.forward, chains.reverse)
    found: dict[str, Any] = {"ppl": ppl, "start": settings.start}
    for name in ("lower", "upper"):
        less = bounds[name].values - problem.log_evidence
        found[f"{name}_less_exact"] = float(less.mean())
        found[f"{name}_se"] = float(less.std(ddof=1) / np.sqrt(len(less)))
    found["gap"] = float(bounds["gap_mean"])
    found["acceptance"] = float(chains.acceptance.mean())
    found["seconds"] = time.perf_counter() - begun
    found["held"] = bool(
        found["gap"] < MAX_GAP
        and found["lower_less_exact"] < 2 * found["lower_se"]
        and found["upper_less_exact"] > -2 * found["upper_se"]
    )
    return found


def _ladder(problem: LinearGaussian, ppl: str, num_samples: int) -> dict[str, Any]:
    with problem.precision(ppl):
        room = import_module(f"ppl_vae.{ppl}")
        pair = problem.programs(ppl, WIDTH)
        ladder = likelihood_ladder(room.stream_log_weights(*pair, problem.x, num_samples))
    less = ladder["bound"].values - problem.log_evidence
    means, errors = less.mean(1), less.std(1, ddof=1) / np.sqrt(less.shape[1])
    return {
        "less_exact": {f"L_{k}": float(m) for k, m in zip(ladder["K"].values, means, strict=True)},
        "se": {f"L_{k}": float(e) for k, e in zip(ladder["K"].values, errors, strict=True)},
        "extrapolated_less_exact": float(ladder["extrapolated"] - problem.log_evidence.mean()),
        "extrapolated_gain_se": float(ladder["extrapolated_gain_se"]),
        "held": bool((np.diff(means) > 0).all() and abs(means[-1]) < max(0.01, 2 * errors[-1])),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear_gaussian_bdmc")
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ppl", choices=("pyro", "numpyro"), action="append", help="one alone")
    parser.add_argument("--points", type=number, default=100)
    parser.add_argument("--temperatures", type=number, default=1000)
    parser.add_argument("--samples", type=number, default=5000, help="K of the highest rung")
    parser.add_argument("--out", type=Path, help=f"JSON (results/{RESULTS.name})")
    options = parser.parse_args(arguments)
    options.ppl = options.ppl or ["pyro", "numpyro"]
    asked = (len(set(options.ppl)), options.points, options.temperatures, options.samples)
    options.out = place(options.out, RESULTS, whole=asked == (2, 100, 1000, 5000))
    return options


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['ppl']:8} from the {row['start']:6} lower - exact {row['lower_less_exact']:+.4f} ± "
        f"{row['lower_se']:.4f}   upper - exact {row['upper_less_exact']:+.4f} ± "
        f"{row['upper_se']:.4f}   gap {row['gap']:.4f}   accepted {row['acceptance']:.2f}   "
        f"{row['seconds']:.0f} s   {'held' if row['held'] else 'missed'}"
    )


def _spelled(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:+.4f}" for name, value in values.items())


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
