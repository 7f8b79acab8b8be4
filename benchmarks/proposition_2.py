r"""What layers of latents add: a correlated density of several modes, fitted by 1, 2, 4, 8 of them.

    python -m benchmarks.proposition_2                   # some ten minutes of one core

Child 2021 (arXiv 2011.10650, proposition 2): N-layer VAEs are universal approximators of densities
of latents. Here z is a point of the plane, from five narrow Normals whose coordinates hang together

.. math:: p^*(z) = \tfrac15 \sum_{k=1}^{5} N(z; \mu_k, s^2 (1, \rho; \rho, 1))

and the lowest site of a `VeryDeepVAE` at resolution 1: two coordinates that are independent and
Normal given the groups above. With none above the best fit has a closed form. All others have the
same number of weights (by the width of their nets), of steps and of draws. The gap to the truth,
E[log p*(z) - log p(z)] >= 0 in nats, is E[log p* - L_K] over fresh draws, and so an upper bound.

Depths that stand in --out already are not trained again; then --figure is drawn.
"""

from __future__ import annotations

__all__ = ["Mixture", "main", "measure"]

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx

from benchmarks.machine import describe
from evaluation._canvas import BLUE, GREY, drawing, save
from guides.numpyro import VeryDeepGuide
from models.numpyro import VeryDeepVAE
from ppl_vae.numpyro import fit, sample, stream_log_weights
from ppl_vae.settings import ObjectiveSettings

OUT = Path(__file__).parent / "results" / "proposition_2.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "proposition-2.png"
WIDTHS = {1: 47, 2: 37, 4: 28, 8: 20}  # of the maps, by depth: 46,000 to 47,400 weights
SHOWN = 1500
Array = npt.NDArray[np.float64]


class Mixture:
    """Five Normals at the corners and the middle of a square, all leaning the same way.

    >>> round(float(np.exp(Mixture().log_prob(Mixture.centres))[2]), 2)  # all but a fifth of one's
    28.34
    """

    centres = np.array([[0.25, 0.25], [0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [0.75, 0.75]])
    scale, correlation = 0.06, 0.95

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

    def narrow_entropy(self) -> float:
        """Of one of the five, nats."""
        return float(0.5 * np.linalg.slogdet(2 * math.pi * math.e * self.covariance)[1])

    def entropy(self, points: int = 600) -> float:
        """Nats, by a sum over a grid of points each way that holds all but nothing of the mass."""
        axis = (np.arange(points) + 0.5) / points * 1.4 - 0.2
        grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        log_prob = self.log_prob(grid)
        return float(-(np.exp(log_prob) * log_prob).sum() * (1.4 / points) ** 2)

    def gap_of_normal(self, independent: bool) -> float:
        """Divergence from the nearest single Normal, that of the same moments, nats."""
        moments = self.covariance + np.cov(self.centres.T, ddof=0)
        if independent:
            moments = np.diag(np.diag(moments))
        normal = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * moments)[1]
        return float(normal - self.entropy())


def measure(
    depth: int, seed: int, *, draws: int, epochs: int, samples: int, points: int
) -> dict[str, Any]:
    """One hierarchy trained, its gap to the truth, and draws from it.

    Args:
        depth: groups of latents above the point.
        seed: of weights, draws and noise.
        draws: from the truth, to train on.
        epochs: passes over them, 256 a step.
        samples: K of L_K.
        points: fresh draws that it is averaged over.
    """
    truth = Mixture()
    model, guide = _pair(depth, seed)
    history = fit(
        model, guide, _images(truth.sample(draws, seed)), epochs=epochs, batch_size=256,
        learning_rate=2e-3, schedule="cosine", decay_epochs=epochs, clip_norm=200.0, seed=seed,
        objective=ObjectiveSettings(warmup_epochs=epochs / 4), progress=False,
    ).history  # fmt: skip
    fresh = truth.sample(points, seed + 1000)
    blocks = stream_log_weights(model, guide, _images(fresh), samples, seed=seed)
    bound = np.concatenate(
        [np.logaddexp.reduce(np.float64(w), axis=0) - math.log(samples) for w in blocks]
    )
    gap = truth.log_prob(fresh) - bound
    shown = np.asarray(sample(model, SHOWN, seed=seed)["x"], np.float64).reshape(-1, 2)
    return {
        "weights": _count(model, guide), "steps": int(history["step"][-1]),
        "gap": float(gap.mean()), "gap_se": float(gap.std(ddof=1) / math.sqrt(points)),
        "shown": shown.round(4).tolist(),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proposition_2", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--depths", type=int, nargs="+", choices=list(WIDTHS), default=list(WIDTHS))
    parser.add_argument("--draws", type=int, default=51_200, help="to train on (51200)")
    parser.add_argument("--epochs", type=int, default=20, help="passes, 256 draws a step (20)")
    parser.add_argument("--seeds", type=int, default=3, help="0 … SEEDS - 1 (3)")
    parser.add_argument("--samples", type=int, default=500, help="K of the bound (500)")
    parser.add_argument("--points", type=int, default=1000, help="that it is averaged over (1000)")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args(arguments)
    protocol = {key: getattr(options, key) for key in ("draws", "epochs", "samples", "points")}
    told = json.loads(options.out.read_text()) if options.out.exists() else {}
    if told.get("protocol") != protocol:
        told = {"machine": describe(), "protocol": protocol, "closed_form": _closed(), "fits": {}}
    for seed in range(options.seeds):
        for depth in options.depths:
            fits = told["fits"].setdefault(str(depth), {})
            if str(seed) not in fits:
                fits[str(seed)] = measure(depth, seed, **protocol)
                if seed:  # the figure shows the first seed's
                    del fits[str(seed)]["shown"]
                options.out.write_text(json.dumps(told) + "\n")
    shown = {depth: told["fits"][str(depth)] for depth in options.depths}
    print(_table(told["closed_form"], shown))
    print(_draw(shown, options.figure))


def _images(points: Array) -> npt.NDArray[np.float32]:
    """Two coordinates as two channels of one pixel."""
    return points.reshape(-1, 2, 1, 1).astype(np.float32)


def _pair(depth: int, seed: int) -> tuple[Any, Any]:
    model = VeryDeepVAE(
        (2, 1, 1), f"1x{depth}", width=WIDTHS[depth], latent_channels=2, bottleneck=1.0,
        likelihood="normal", rngs=nnx.Rngs(seed),
    )  # fmt: skip
    return model, VeryDeepGuide(model, "1x2", rngs=nnx.Rngs(seed + 1))


def _count(*modules: Any) -> int:
    return sum(leaf.size for module in modules for leaf in jax.tree.leaves(nnx.state(module)))


def _closed() -> dict[str, float]:
    truth = Mixture()
    return {
        "entropy": truth.entropy(),
        "independent Normal": truth.gap_of_normal(independent=True),
        "correlated Normal": truth.gap_of_normal(independent=False),
    }


def _table(closed: dict[str, float], fits: dict[int, dict[str, Any]]) -> str:
    lines = ["| layers above | weights | gap to the truth, nats |", "|---|---|---|"]
    lines += [f"| none, {name} | - | {closed[name]:.3f} |" for name in list(closed)[1:]]
    for depth, by_seed in fits.items():
        gaps = [found["gap"] for found in by_seed.values()]
        spread = f" ± {np.std(gaps, ddof=1):.3f}" if len(gaps) > 1 else ""
        weights = next(iter(by_seed.values()))["weights"]
        lines.append(f"| {depth} | {weights} | {np.mean(gaps):.3f}{spread} |")
    return "\n".join(lines)


def _draw(fits: dict[int, dict[str, Any]], path: Path) -> Path:
    """Draws from the truth, from the best independent Normal, and from each depth."""
    truth, rng = Mixture(), np.random.default_rng(0)
    points = truth.sample(SHOWN, 0)
    scale = np.sqrt(np.diag(truth.covariance) + truth.centres.var(0))
    panels = {"truth": points, "no layer above": 0.5 + scale * rng.standard_normal((SHOWN, 2))}
    for depth, by_seed in fits.items():
        panels[f"{depth} layer{'s' if depth > 1 else ''} above"] = np.array(by_seed["0"]["shown"])
    columns = 3
    rows = math.ceil(len(panels) / columns)
    with drawing(2.3 * columns, 2.5 * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, (name, drawn) in zip(axes, panels.items(), strict=False):
            ax.scatter(*drawn.T, s=2, lw=0, alpha=0.5, color=GREY if name == "truth" else BLUE)
            ax.set_title(name)
            ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        return save(figure, path)


if __name__ == "__main__":
    main()
