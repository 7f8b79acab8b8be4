"""What a scanned epoch of convolutions costs in JAX: the zoo's slopes against those JAX derives.

    python -m benchmarks.convolutions   # writes benchmarks/results/convolutions.json

Four 3 × 3 convolutions of 16 channels, batches of 32 maps, plain gradient steps; three steps a
call, in one `lax.scan` or one after another, interleaved. Ratios are time over that of the zoo's
scan. About a minute on one core. Elsewhere than on the CPU both are one and the same.
"""

from __future__ import annotations

__all__ = ["main", "measured"]

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.command import ended, number, place
from benchmarks.machine import describe
from benchmarks.timing import interleaved, ratio
from ppl_vae.numpyro.nets.convolution import LAYOUT, conv_general_dilated

RESULTS = Path(__file__).parent / "results" / "convolutions.json"
SIDES = (7, 14, 28)
WAYS = {"zoo": conv_general_dilated, "jax": lax.conv_general_dilated}
STEPS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    options = _options(arguments)
    rows = [measured(side, options.repeats) for side in options.sides]
    for row in rows:
        told = ", ".join(
            f"{name} {each['value']:.2f} [{each['low']:.2f}, {each['high']:.2f}]"
            for name, each in row["ratios"].items()
        )
        print(f"{row['side']} x {row['side']}: {row['seconds']:.4f} s; {told}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        report = {"machine": describe(), "rows": rows}
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def measured(side: int, repeats: int) -> dict[str, Any]:
    """Median seconds of the zoo's scanned steps on maps side × side, and the others' ratios."""
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(0.05 * rng.standard_normal((3, 3, 16, 16)), jnp.float32)] * 4
    batches = jnp.asarray(rng.standard_normal((STEPS, 32, side, side, 16)), jnp.float32)
    contestants: dict[str, Callable[[int], Any]] = {}
    for name, convolve in WAYS.items():
        steps = partial(_one_by_one, jax.jit(partial(_step, convolve)), weights, batches)
        epoch = partial(_scanned, jax.jit(partial(_epoch, convolve)), weights, batches)
        contestants[f"{name}, scanned"] = epoch
        contestants[f"{name}, a step at a time"] = steps
    seconds = interleaved(contestants, repeats)
    reference = seconds.pop("zoo, scanned")
    return {
        "side": side,
        "seconds": float(np.median(reference)),
        "ratios": {name: asdict(ratio(each, reference)) for name, each in seconds.items()},
    }


def _loss(convolve: Any, weights: Any, x: Any) -> Any:
    for w in weights:
        x = jax.nn.relu(convolve(x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=LAYOUT))
    return (x**2).mean()


def _step(convolve: Any, weights: Any, x: Any) -> Any:
    slopes = jax.grad(partial(_loss, convolve))(weights, x)
    return [w - 1e-3 * slope for w, slope in zip(weights, slopes, strict=True)]


def _epoch(convolve: Any, weights: Any, batches: Any) -> Any:
    return lax.scan(lambda w, x: (_step(convolve, w, x), None), weights, batches)[0]


def _scanned(epoch: Callable[..., Any], weights: Any, batches: Any, _: int) -> Any:
    return jax.block_until_ready(epoch(weights, batches))


def _one_by_one(step: Callable[..., Any], weights: Any, batches: Any, _: int) -> Any:
    return jax.block_until_ready([step(weights, batch) for batch in batches])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolutions")
    parser.add_argument("--sides", type=number, nargs="+", default=SIDES)
    parser.add_argument("--repeats", type=number, default=20)
    parser.add_argument("--out", type=Path, help=f"JSON (results/{RESULTS.name})")
    options = parser.parse_args(arguments)
    whole = set(SIDES) <= set(options.sides) and options.repeats >= 20
    options.out = place(options.out, RESULTS, whole)
    return options


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
