"""Does evaluation's memory stay flat: its peak at growing numbers of images and of samples.

    python -m benchmarks.evaluation_memory   # writes benchmarks/results/evaluation_memory.json

Each row is a process of its own: log weights of a linear-Gaussian model (D = 4, Q = 2, float64),
so small that nets take next to nothing, streamed into `likelihood_ladder`; images are made twelve
times as many, then samples. All weights at once would take images × samples × 8 bytes, which is the
column beside. Held where no row's peak resident memory is more than 10 % above the smallest of its
PPL. Some minutes on two cores; exit status 1 where it is not held.
"""

from __future__ import annotations

__all__ = ["main", "peak"]

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.command import ended, place
from benchmarks.linear_gaussian import LinearGaussian
from benchmarks.machine import describe
from evaluation import likelihood_ladder

RESULTS = Path(__file__).parent / "results" / "evaluation_memory.json"
SIZES = ((500, 5000), (6000, 5000), (300, 8000), (300, 100_000))  # images, samples
MARGIN = 0.1  # of the smallest


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where memory is flat, 1 otherwise."""
    options = _options(arguments)
    if options.one:
        print(json.dumps(peak(options.ppl[0], *options.one)))
        return 0
    rows = []
    for ppl in options.ppl:
        for images, samples in SIZES:
            scale = 50 if options.quick else 1
            rows.append(_row(ppl, max(20, images // scale), samples // scale))
            print(_line(rows[-1]), flush=True)
    held = all(_is_flat([row for row in rows if row["ppl"] == ppl]) for ppl in options.ppl)
    report = {"machine": describe(), "rows": rows, "held": held}
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if held else 1


def peak(ppl: str, num_images: int, num_samples: int) -> dict[str, Any]:
    """Peak resident memory (MB) of this process once it has evaluated so many."""
    import resource

    problem = LinearGaussian(num_images, num_observed=4, num_latents=2)
    programs = import_module(f"ppl_vae.{ppl}")
    begun = time.perf_counter()
    with problem.precision(ppl):
        pair = problem.programs(ppl, width=1.5)
        found = likelihood_ladder(programs.stream_log_weights(*pair, problem.x, num_samples))
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes here
    return {
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
        "seconds": time.perf_counter() - begun,
        "images": int(found["num_images"]),
    }


def _row(ppl: str, images: int, samples: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.evaluation_memory", "--ppl", ppl]
    command += ["--one", str(images), str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    weights = images * samples * 8 / 1e6
    return {"ppl": ppl, "samples": samples, **found, "all_weights_mb": weights}


def _is_flat(rows: list[dict[str, Any]]) -> bool:
    peaks = [row["peak_mb"] for row in rows]
    return bool(max(peaks) <= (1 + MARGIN) * min(peaks))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation_memory")
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ppl", choices=("pyro", "numpyro"), action="append", help="one alone")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the size: does it run")
    parser.add_argument("--one", type=int, nargs=2, metavar=("IMAGES", "SAMPLES"), help="one row")
    parser.add_argument("--out", type=Path, help=f"JSON (results/{RESULTS.name} unless --quick)")
    options = parser.parse_args(arguments)
    options.ppl = options.ppl or ["pyro", "numpyro"]
    if not options.quick and not options.one:
        options.out = place(options.out, RESULTS, whole=len(set(options.ppl)) == 2)
    return options


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['ppl']:8} {row['images']:6} images × {row['samples']:7} samples   "
        f"peak {row['peak_mb']:6.0f} MB   all weights {row['all_weights_mb']:6.0f} MB   "
        f"{row['seconds']:5.0f} s"
    )


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
