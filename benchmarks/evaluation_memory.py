"""Does evaluation's memory stay flat: its peak at growing numbers of images and of samples.

    python -m benchmarks.evaluation_memory   # writes benchmarks/results/evaluation_memory.json

Each row is a process of its own: log weights of a small two-layer ladder streamed into
`likelihood_ladder`, images made four times as many and again, then samples. All weights at once
would take images × samples × 4 bytes, which is the column beside. Held where no row's peak
resident memory is more than 5 % above the smallest of its PPL. Some minutes on two cores; exit
status 1 where it is not held.
"""

from __future__ import annotations

__all__ = ["main", "peak"]

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe

RESULTS = Path(__file__).parent / "results" / "evaluation_memory.json"
SIZES = ((250, 5000), (1000, 5000), (4000, 5000), (50, 20_000), (50, 80_000), (50, 320_000))
MARGIN = 0.05  # of the smallest


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where memory is flat, 1 otherwise."""
    options = _options(arguments)
    if options.one:
        print(json.dumps(peak(options.ppl[0], *options.one)))
        return 0
    rows = []
    for ppl in options.ppl:
        for images, samples in SIZES[:: 2 if options.quick else 1]:
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

    from evaluation import likelihood_ladder

    programs, pair = _pair(ppl)
    images = np.random.default_rng(0).integers(0, 2, (num_images, 1, 8, 8)).astype(np.float32)
    begun = time.perf_counter()
    found = likelihood_ladder(programs.stream_log_weights(*pair, images, num_samples))
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes here
    return {
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
        "seconds": time.perf_counter() - begun,
        "images": int(found["num_images"]),
    }


def _pair(ppl: str) -> tuple[Any, Any]:
    from importlib import import_module

    from ppl_vae.recipes import Recipe

    programs = import_module(f"ppl_vae.{ppl}")
    model = {"latents": [2, 2], "hidden": [16, 8], "layers": 1, "batch_norm": False}
    recipe = {
        "name": "memory",
        "data": {"name": "digits"},
        "model": {"class_path": "HierarchicalVAE", "init_args": model},
        "guide": {"class_path": "LadderGuide"},
    }
    return programs, programs.build(Recipe.from_dict(recipe), (1, 8, 8))


def _row(ppl: str, images: int, samples: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.evaluation_memory", "--ppl", ppl]
    command += ["--one", str(images), str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    weights = images * samples * 4 / 1e6
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
    if options.out is None and not options.quick:
        options.out = RESULTS
    return options


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['ppl']:8} {row['images']:6} images × {row['samples']:7} samples   "
        f"peak {row['peak_mb']:6.0f} MB   all weights {row['all_weights_mb']:6.0f} MB   "
        f"{row['seconds']:5.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
