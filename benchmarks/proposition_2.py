r"""What layers of latents add: a correlated density of several modes, by 1, 2, 3 and 4 of them.

    python -m benchmarks.proposition_2               # two minutes of one core
    python -m benchmarks.proposition_2 --ppl pyro

Child 2021 (arXiv 2011.10650, proposition 2): N-layer VAEs are universal approximators of densities
of latents. Here z is a point of the plane, from five narrow Normals whose coordinates hang together

.. math:: p^*(z) = \tfrac15 \sum_{k=1}^{5} N(z; \mu_k, s^2 (1, \rho; \rho, 1))

and its coordinates are the two lowest latents of a hierarchy of Normal numbers (`benchmarks.chain_
pyro`), each with location and scale a net of all numbers above. What such a hierarchy can reach:

- one layer, both coordinates in it: independent Normals, and no nearer than those of p*'s moments;
- two: the second coordinate's location and scale bend with the first, and still one mode each;
- three: p* itself. The top number, cut into five parts of equal probability by steep sigmoids,
  says which Normal; given it both coordinates are Normal, the second's location linear in the
  first. `by_hand` sets these weights; the divergence goes to zero as the sigmoids get steeper.

All of that is computed by quadrature. Besides, each hierarchy is trained on draws of p*, with
posteriors that are point masses at the coordinates, and Normal above. The gap to the truth,
E[log p* - log p] >= 0 in nats, is E[log p* - L_K] over fresh draws, so an upper bound; exact for
one layer and two. What stands in --out already is not trained again; then --figure is drawn.
"""

from __future__ import annotations

__all__ = ["Mixture", "by_hand", "gap_by_hand", "main", "measure", "pair", "smallest_gaps"]

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from benchmarks.command import ended, number
from benchmarks.machine import describe
from evaluation._canvas import BLUE, GREY, drawing, save
from ppl_vae.errors import UsageError
from ppl_vae.typed import room

OUT = Path(__file__).parent / "results" / "proposition_2.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "proposition-2.png"
LAYERS = (1, 2, 3, 4)
STEEPNESS = (10, 100, 1000)
SHOWN = 1500
Array = npt.NDArray[np.float64]


class Mixture:
    """Five Normals at the corners and the middle of a square, all leaning the same way.

    >>> round(float(np.exp(Mixture().log_prob(Mixture.centres))[2]), 2)  # all but a fifth of one's
    1.77
    """

    centres = np.array([[-1.0, -1.0], [-1.0, 1.0], [0.0, 0.0], [1.0, -1.0], [1.0, 1.0]])
    scale, correlation = 0.24, 0.95

    def __init__(self) -> None:
        rho = self.correlation
        self.covariance = self.scale**2 * np.array([[1, rho], [rho, 1]])

    def sample(self, n: int, seed: int) -> Array:
        """(n, 2)."""
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((n, 2)) @ np.linalg.cholesky(self.covariance).T
        return self.centres[rng.integers(0, len(self.centres), n)] + noise

    def log_prob(self, z: Array) -> Array:
        """(n,) nats, of points (n, 2)."""
        apart = z[:, None] - self.centres
        distance = np.einsum("nki,ij,nkj->nk", apart, np.linalg.inv(self.covariance), apart)
        each = -0.5 * distance - 0.5 * np.linalg.slogdet(2 * np.pi * self.covariance)[1]
        return np.logaddexp.reduce(each, axis=1) - math.log(len(self.centres))

    def on_grid(self, points: int) -> tuple[Array, Array]:
        """(axis (points,), log density (points, points)) where all but nothing of the mass is."""
        axis = (np.arange(points) + 0.5) / points * 6.0 - 3.0
        rows = [self.log_prob(np.column_stack([np.full(points, a), axis])) for a in axis]
        return axis, np.stack(rows)


def smallest_gaps(points: int = 240) -> dict[str, float]:
    """The least that one layer and two can be away from p*, nats, by sums over a grid."""
    axis, log_prob = Mixture().on_grid(points)
    step, density = axis[1] - axis[0], np.exp(log_prob)
    entropy = -(density * log_prob).sum() * step**2
    first, second = density.sum(1) * step, density.sum(0) * step

    def of_normal(share: Array) -> Array:
        """Entropy of the Normal of a density's moments, (…, points) to (…)."""
        mean = (share * axis).sum(-1, keepdims=True) * step
        variance = (share * (axis - mean) ** 2).sum(-1) * step
        return np.asarray(0.5 * np.log(2 * np.pi * np.e * variance))

    seen = first > 1e-12
    given = of_normal(density[seen] / first[seen, None])
    return {
        "1": float(of_normal(first) + of_normal(second) - entropy),
        "2": float(of_normal(first) + (first[seen] * given).sum() * step - entropy),
    }


def by_hand(steepness: float) -> dict[str, Array]:
    """Weights of a three-layer chain of four sigmoids that is the mixture, the steeper the more."""
    truth, rho = Mixture(), Mixture.correlation
    first, second = truth.centres.T
    rest = second - rho * first
    cuts = norm.ppf(np.arange(1, 5) / 5)

    def steps(values: Array) -> Array:
        return np.stack([np.diff(values), np.zeros(4)])

    inside = np.full((4, 1), steepness)
    return {
        "model.nets.0.bias": np.zeros(2),
        "model.nets.1.inside.weight": inside,
        "model.nets.1.inside.bias": -steepness * cuts,
        "model.nets.1.outside.weight": steps(first),
        "model.nets.1.skip.weight": np.zeros((2, 1)),
        "model.nets.1.bias": np.array([first[0], math.log(truth.scale)]),
        "model.nets.2.inside.weight": np.hstack([inside, np.zeros((4, 1))]),
        "model.nets.2.inside.bias": -steepness * cuts,
        "model.nets.2.outside.weight": steps(rest),
        "model.nets.2.skip.weight": np.array([[0, rho], [0, 0]]),
        "model.nets.2.bias": np.array([rest[0], math.log(truth.scale * math.sqrt(1 - rho**2))]),
    }


def gap_by_hand(steepness: float, points: int = 120) -> float:
    """Divergence of `by_hand` from p*, nats: sums over a grid, and over the top number."""
    truth, weights = Mixture(), by_hand(steepness)
    cuts = norm.ppf(np.arange(1, 5) / 5)
    near = (cuts[:, None] + np.linspace(-15, 15, 121) / steepness).ravel()
    top = np.unique(np.concatenate([np.linspace(-6, 6, 241), near]))
    mass = norm.pdf(top) * np.gradient(top)
    raised = steepness * (top[:, None] - cuts)
    units = 1 / (1 + np.exp(-np.clip(raised, -500, 500)))

    def net(i: int) -> tuple[Array, float]:
        bias = weights[f"model.nets.{i}.bias"]
        return bias[0] + units @ weights[f"model.nets.{i}.outside.weight"][0], math.exp(bias[1])

    axis, log_prob = truth.on_grid(points)
    (loc, scale), (rest, narrow) = net(1), net(2)
    gap = 0.0
    for a, row in zip(axis, log_prob, strict=True):
        share = mass / mass.sum() * _normal(a - loc, scale)
        density = _normal(axis[:, None] - rest - truth.correlation * a, narrow) @ share
        gap += (np.exp(row) * (row - np.log(np.maximum(density, 1e-300)))).sum()
    return float(gap * (axis[1] - axis[0]) ** 2)


def _normal(apart: Array, scale: float) -> Array:
    """Density of a Normal so far from its location."""
    return np.asarray(np.exp(-0.5 * (apart / scale) ** 2) / (scale * math.sqrt(2 * math.pi)))


def pair(ppl: str, layers: int, seed: int = 0, hidden: int = 64) -> tuple[Any, Any]:
    """(model, guide) of `benchmarks.chain_<ppl>`, fresh weights."""
    if ppl == "pyro":
        import torch

        from benchmarks import chain_pyro

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = chain_pyro.Chain(layers, hidden)
            return model, chain_pyro.Copy(model)
    from flax import nnx

    from benchmarks import chain_numpyro

    chain = chain_numpyro.Chain(layers, hidden, rngs=nnx.Rngs(seed))
    return chain, chain_numpyro.Copy(chain, rngs=nnx.Rngs(seed + 1))


def measure(
    ppl: str, layers: int, seed: int, *, draws: int, epochs: int, samples: int, points: int
) -> dict[str, Any]:
    """One hierarchy trained, its gap to the truth, and draws from it.

    Args:
        seed: of weights, draws and noise.
        draws: from the truth, to train on.
        epochs: passes over them, 512 a step.
        samples: K of L_K, where there is a layer above the coordinates.
        points: fresh draws that it is averaged over.
    """
    truth, programs = Mixture(), room(ppl)
    both = pair(ppl, layers, seed)
    history = programs.fit(
        *both, _images(truth.sample(draws, seed)), epochs=epochs, batch_size=512,
        learning_rate=5e-3, schedule="cosine", decay_epochs=epochs, clip_norm=200.0, seed=seed,
        progress=False,
    ).history  # fmt: skip
    fresh = truth.sample(points, seed + 1000)
    k = samples if layers > 2 else 1  # exact
    weights = np.asarray(programs.log_weights(*both, _images(fresh), k, seed=seed), np.float64)
    gap = truth.log_prob(fresh) - (np.logaddexp.reduce(weights, axis=0) - math.log(k))
    shown = np.asarray(programs.sample(both[0], SHOWN, seed=seed)["x"], np.float64).reshape(-1, 2)
    return {
        "weights": sum(value.size for value in programs.state(*both).values()),
        "steps": int(history["step"][-1]), "gap": float(gap.mean()),
        "gap_se": float(gap.std(ddof=1) / math.sqrt(points)), "shown": shown.round(3).tolist(),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proposition_2", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ppl", choices=("pyro", "numpyro"), default="numpyro")
    parser.add_argument("--layers", type=int, nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--draws", type=number, default=51_200, help="to train on (51200)")
    parser.add_argument("--epochs", type=number, default=100, help="passes, 512 draws a step (100)")
    parser.add_argument("--seeds", type=number, default=3, help="0 … SEEDS - 1 (3)")
    parser.add_argument("--samples", type=number, default=500, help="K of the bound (500)")
    parser.add_argument(
        "--points", type=number, default=2000, help="that it is averaged over (2000)"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args(arguments)
    protocol = {key: getattr(options, key) for key in ("draws", "epochs", "samples", "points")}
    told = json.loads(options.out.read_text()) if options.out.exists() else {}
    if told.get("protocol", protocol) != protocol:
        raise UsageError(f"--out: {options.out} is of {told['protocol']}: name another file")
    if not told:
        told = {"machine": describe(), "protocol": protocol, "fits": {}}
        told["smallest"] = smallest_gaps()
        told["by hand"] = {str(steepness): gap_by_hand(steepness) for steepness in STEEPNESS}
    fits = told["fits"].setdefault(options.ppl, {})
    for seed in range(options.seeds):
        for layers in options.layers:
            of_layers = fits.setdefault(str(layers), {})
            if str(seed) not in of_layers:
                of_layers[str(seed)] = measure(options.ppl, layers, seed, **protocol)
                if seed:  # the figure shows the first seed's
                    del of_layers[str(seed)]["shown"]
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(told) + "\n")
    print(_table(told))
    print(_draw(fits, options.figure))


def _images(points: Array) -> npt.NDArray[np.float32]:
    """Two coordinates as an image of two pixels."""
    return points.reshape(-1, 1, 1, 2).astype(np.float32)


def _table(told: dict[str, Any]) -> str:
    lines = ["| layers | weights | least possible | trained, Pyro | trained, NumPyro |"]
    lines.append("|---|---|---|---|---|")
    smallest = {layers: f"{gap:.3f}" for layers, gap in told["smallest"].items()}
    for layers in map(str, LAYERS):
        cells = []
        for ppl in ("pyro", "numpyro"):
            runs = told["fits"].get(ppl, {}).get(layers, {}).values()
            gaps = [run["gap"] for run in runs]
            spread = f" ± {np.std(gaps, ddof=1):.3f}" if len(gaps) > 1 else ""
            cells.append(f"{np.mean(gaps):.3f}{spread}" if gaps else "-")
        counts = [f[layers]["0"]["weights"] for f in told["fits"].values() if layers in f]
        weights = counts[0] if counts else "-"
        lines.append(
            f"| {layers} | {weights} | {smallest.get(layers, '0')} | {' | '.join(cells)} |"
        )
    hand = ", ".join(f"{gap:.2g} at {steep}" for steep, gap in told["by hand"].items())
    return "\n".join([*lines, "", f"three layers by hand, by steepness: {hand}"])


def _draw(fits: dict[str, Any], path: Path) -> Path:
    """Draws from the truth and from each trained hierarchy of the first seed."""
    panels = {"truth": Mixture().sample(SHOWN, 0)}
    for layers, by_seed in fits.items():
        panels[f"{layers} layer{'s' if layers != '1' else ''}"] = np.array(by_seed["0"]["shown"])
    with drawing(2.2 * len(panels), 2.5) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False).ravel()
        for ax, (name, drawn) in zip(axes, panels.items(), strict=True):
            ax.scatter(*drawn.T, s=2, lw=0, alpha=0.5, color=GREY if name == "truth" else BLUE)
            ax.set_title(name)
            ax.set(xlim=(-2, 2), ylim=(-2, 2), xticks=[], yticks=[], aspect="equal")
        return save(figure, path)


if __name__ == "__main__":
    sys.exit(ended(main))
