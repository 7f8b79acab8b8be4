"""What kept activations save: images drawn pixel by pixel against a whole pass for every pixel.

    python -m benchmarks.sampling            # minutes; writes benchmarks/results/sampling.json
    python -m benchmarks.sampling --quick    # 6 × 6 images: does it run, are the pixels the same

The gated PixelCNN of the recipe pixelcnn-mnist with its initial weights, 28 × 28 binary images, in
both PPLs. Both ways draw from one random stream, so their pixels must be the same. Operations are
those of the convolutions, a multiplication and an addition each, over one whole image.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import ended, number, place
from benchmarks.machine import describe
from benchmarks.timing import interleaved, ratio
from ppl_vae import recipes

RESULTS = Path(__file__).parent / "results" / "sampling.json"
SIDE, BATCH = 28, 1  # of an image; images drawn at once
SIZES = recipes.read("pixelcnn-mnist").model.init_args


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where both ways draw the same pixels, 1 otherwise."""
    options = _options(arguments)
    side = 6 if options.quick else SIDE
    rows = [_measure(ppl, side, options.repeats) for ppl in options.ppl]
    report = {"machine": describe(), "net": SIZES, "batch": BATCH, "rows": rows}
    print("\n".join(_line(row) for row in rows))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(row["same_pixels"] == 1 for row in rows) else 1


def _measure(ppl: str, side: int, repeats: int) -> dict[str, Any]:
    cached, naive, operations = {"pyro": _pyro, "numpyro": _numpyro}[ppl](side)
    same = np.mean([cached(seed) == naive(seed) for seed in range(2)])
    seconds = interleaved({"cached": cached, "whole passes": naive}, repeats)
    found = ratio(seconds["whole passes"], seconds["cached"])
    return {
        "ppl": ppl,
        "side": side,
        "same_pixels": float(same),
        "repeats": repeats,
        "seconds": {name: float(np.median(values)) for name, values in seconds.items()},
        "ratio": found.value,
        "interval": [found.low, found.high],
        "operations": operations,
    }


Draw = Callable[[int], Any]  # seed to an image


def _pyro(side: int) -> tuple[Draw, Draw, dict[str, float]]:
    """Both ways, and their operations, in torch on one thread."""
    import torch

    from benchmarks.counting import counting
    from ppl_vae.pyro import Autoregressive, Likelihood
    from ppl_vae.pyro.nets import PixelCNNNet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, likelihood = PixelCNNNet((1, side, side), 1, **SIZES), Likelihood("bernoulli")

    def cached(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        return np.asarray(Autoregressive(net, likelihood, (BATCH,)).sample())

    @torch.no_grad()
    def naive(seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        x = torch.zeros(BATCH, 1, side, side)
        for i, j in np.ndindex(side, side):
            at = (..., slice(i, i + 1), slice(j, j + 1))
            x[at] = likelihood(net(x)[at]).sample()
        return x.numpy()

    def operations(draw: Callable[[], Any]) -> float:
        with counting() as counter:
            draw()
        return float(counter.get_total_flops())

    one = operations(lambda: net(torch.zeros(BATCH, 1, side, side)))
    counted = {"cached": operations(lambda: cached(0)), "one pass": one}
    return cached, naive, {**counted, "whole passes": side * side * one}


def _numpyro(side: int) -> tuple[Draw, Draw, dict[str, float]]:
    """Both ways, compiled, and their operations, in JAX."""
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax import random

    from ppl_vae.numpyro import Autoregressive, Likelihood
    from ppl_vae.numpyro.nets import PixelCNNNet

    net, likelihood = (
        PixelCNNNet((1, side, side), 1, **SIZES, rngs=nnx.Rngs(0)),
        Likelihood("bernoulli"),
    )

    @jax.jit
    def draw(key: Any) -> Any:
        return Autoregressive(net, likelihood, (BATCH,)).sample(key)

    @jax.jit
    def step(x: Any, at: Any, key: Any) -> Any:
        logits = jax.lax.dynamic_slice(net(x), (0, 0, *at), (BATCH, 1, 1, 1))
        pixel = likelihood(logits).sample(key).astype(x.dtype)
        return jax.lax.dynamic_update_slice(x, pixel, (0, 0, *at))

    def cached(seed: int) -> np.ndarray:
        return np.asarray(draw(random.key(seed)))

    def naive(seed: int) -> np.ndarray:
        keys = jax.vmap(lambda key: random.split(key, side))(random.split(random.key(seed), side))
        x = jnp.zeros((BATCH, 1, side, side))
        for i, j in np.ndindex(side, side):
            x = step(x, (i, j), keys[i, j])
        return np.asarray(x)

    one = _convolutions(jax.make_jaxpr(net)(jnp.zeros((BATCH, 1, side, side))).jaxpr)
    counted = {"cached": _convolutions(jax.make_jaxpr(draw)(random.key(0)).jaxpr), "one pass": one}
    return cached, naive, {**counted, "whole passes": side * side * one}


def _convolutions(program: Any) -> float:
    """Operations of a JAX program's convolutions, a scan's body as often as it runs."""
    total = 0.0
    for step in program.eqns:
        times = step.params.get("length", 1) if step.primitive.name == "scan" else 1
        for value in step.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * _convolutions(inner)
        if step.primitive.name == "conv_general_dilated":
            out, kernel = step.outvars[0].aval.shape, step.invars[1].aval.shape
            num_outputs = kernel[step.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * np.prod(out) * np.prod(kernel) / num_outputs
    return total


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ppl", choices=("pyro", "numpyro"), action="append", help="one alone")
    parser.add_argument("--repeats", type=number, help="timed draws of either way (7)")
    parser.add_argument("--quick", action="store_true", help="6 × 6 pixels, 2 draws")
    parser.add_argument("--out", type=Path, help=f"JSON (results/{RESULTS.name} unless --quick)")
    options = parser.parse_args(arguments)
    options.ppl = options.ppl or ["pyro", "numpyro"]
    options.repeats = options.repeats or (2 if options.quick else 7)
    if not options.quick:
        options.out = place(options.out, RESULTS, whole=len(set(options.ppl)) == 2)
    return options


def _line(row: dict[str, Any]) -> str:
    seconds, operations = row["seconds"], row["operations"]
    return (
        f"{row['ppl']:8} {row['side']} × {row['side']}, medians of {row['repeats']}: kept "
        f"{seconds['cached']:.3f} s, whole passes {seconds['whole passes']:.3f} s, ratio "
        f"{row['ratio']:.1f} [{row['interval'][0]:.1f}, {row['interval'][1]:.1f}]; operations "
        f"{operations['cached']:.3g} against {operations['whole passes']:.3g} "
        f"({operations['one pass']:.3g} a pass); same pixels {row['same_pixels']:.1%}"
    )


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
