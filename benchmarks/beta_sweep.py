"""Disentanglement against beta_norm over several seeds, and beta chosen from a few labelled images.

    python -m benchmarks.beta_sweep                  # about ten minutes of one core
    python -m benchmarks.beta_sweep --minutes 5      # a part; the same command goes on later

Every trained model leaves one JSON file in --out, which is not trained again. Once all are there,
benchmarks/results/beta_sweep.json and docs/figures/beta-sweep.png are written;
docs/disentanglement.md says what they show.
"""

from __future__ import annotations

__all__ = ["main", "summarised"]

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from benchmarks.machine import describe
from ppl_vae import experiment, recipes
from ppl_vae.data import Images
from ppl_vae.errors import UsageError
from ppl_vae.recipes import Recipe
from ppl_vae.typed import room

RESULTS = Path(__file__).parent / "results" / "beta_sweep.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "beta-sweep.png"
BETAS = (0.004, 0.04, 0.07, 0.12, 0.2, 0.4, 1.2)
CHOOSE_BY = ("higgins", "factor_vae", "mig")
Piece = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 once the sweep is whole, 1 while parts are missing."""
    options = _options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * options.minutes
    pieces = []
    grid = list(product(options.betas, range(options.seeds)))
    for beta_norm, seed in grid:
        changes = [
            *options.overrides, ("objective.beta_norm", beta_norm), ("training.seed", seed),
        ]  # fmt: skip
        recipe = recipes.read(options.recipe, changes)
        path = options.out / f"beta_norm={beta_norm:g},seed={seed}.json"
        if not path.exists():
            if time.monotonic() > until:
                continue
            piece = measured(recipe, options.ppl, options.labelled)
            path.write_text(json.dumps(piece) + "\n")
            print(
                path.name,
                f"{piece['cpu_seconds']:.0f} s of CPU",
                piece["scores"]["higgins"],
                flush=True,
            )
        pieces.append(_read(path, recipe, options.ppl, options.labelled))
    if len(pieces) < len(grid):
        print(f"{len(pieces)} of {len(grid)} models: the same command goes on")
        return 1
    _write(options, pieces)
    return 0


def measured(recipe: Recipe, ppl: str, labelled: int) -> Piece:
    """One model trained, and what its codes of the test images score.

    Args:
        recipe: of a data set with factors.
        ppl: "pyro" or "numpyro".
        labelled: test images that make the small labelled subset; the others are the rest.
    """
    from evaluation.disentanglement import disentanglement_scores

    begun = time.process_time()
    data, programs = experiment.load_data(recipe), room(ppl)
    model, guide = recipes.build(recipe, ppl, data.x_shape)
    programs.fit(
        model, guide, data.train, objective=recipe.objective, progress=False,
        **asdict(recipe.training),
    )  # fmt: skip
    codes, known = _codes(programs, model, guide, data.test)
    terms = programs.site_terms(model, guide, data.test)
    found = disentanglement_scores(codes, seed=recipe.training.seed, num_shuffles=1, **known)
    order = np.random.default_rng(0).permutation(len(codes))  # the same few of every model
    parts = {"few": order[:labelled], "rest": order[labelled:]}
    return {
        "recipe": recipe.to_dict(), "ppl": ppl, "labelled": labelled,
        "scores": _by_metric(found.score), "chance": _by_metric(found.chance),
        **{part: _some_scores(codes, known, rows) for part, rows in parts.items()},
        "log_likelihood": float(np.mean(terms["log_likelihood"])),
        "kl": float(sum(np.mean(kl) for kl in terms["kl"].values())),
        "active_units": int((codes.var(axis=0) > 0.01).sum()),
        "cpu_seconds": time.process_time() - begun,
    }  # fmt: skip


def summarised(pieces: Sequence[Piece]) -> xr.Dataset:
    """All models as one data set: scores and chance (metric, beta_norm, seed), and by part."""
    betas = sorted({piece["recipe"]["objective"]["beta_norm"] for piece in pieces})
    seeds = sorted({piece["recipe"]["training"]["seed"] for piece in pieces})
    at = {
        (piece["recipe"]["objective"]["beta_norm"], piece["recipe"]["training"]["seed"]): piece
        for piece in pieces
    }

    def scores(key: str) -> Any:
        names = list(pieces[0][key])
        values = [[[at[b, s][key][name] for s in seeds] for b in betas] for name in names]
        return ("metric" if key in ("score", "scores", "chance") else "choice",
                "beta_norm", "seed"), values  # fmt: skip

    def numbers(key: str) -> Any:
        return ("beta_norm", "seed"), [[at[b, s][key] for s in seeds] for b in betas]

    return xr.Dataset(
        {
            "score": scores("scores"), "chance": scores("chance"),
            "few": scores("few"), "rest": scores("rest"),
            **{key: numbers(key) for key in ("log_likelihood", "kl", "active_units")},
        },
        {
            "metric": list(pieces[0]["scores"]), "choice": list(pieces[0]["few"]),
            "beta_norm": betas, "seed": seeds,
        },
    )  # fmt: skip


def _codes(
    programs: Any, model: Any, guide: Any, images: Images
) -> tuple[np.ndarray, dict[str, Any]]:
    """(images, units) posterior means of all sites, and the keywords that say the factors."""
    factors = images.factors
    if factors is None:
        raise UsageError("data: expected a set with true factors: take sprites or dsprites")
    moments = programs.posterior_moments(model, guide, images)
    sites = sorted(moments, key=lambda site: (len(site), site))
    means = [np.asarray(moments[site][0], dtype=np.float64) for site in sites]
    varying = [k for k in range(len(factors.names)) if np.ptp(factors.classes[:, k]) > 0]
    names = [factors.names[k] for k in varying]
    categorical = [k for k, name in enumerate(names) if name in factors.categorical]
    known = {"factors": factors.classes[:, varying], "names": names, "categorical": categorical}
    return np.concatenate([mean.reshape(len(mean), -1) for mean in means], axis=1), known


def _some_scores(codes: np.ndarray, known: Mapping[str, Any], rows: np.ndarray) -> Any:
    from evaluation.disentanglement import disentanglement_scores

    some = {**known, "factors": known["factors"][rows]}
    found = disentanglement_scores(codes[rows], metrics=CHOOSE_BY, num_shuffles=0, **some)
    return _by_metric(found.score)


def _by_metric(values: xr.DataArray) -> dict[str, float]:
    return {str(name): float(values.sel(metric=name)) for name in values.metric.values}


def _read(path: Path, recipe: Recipe, ppl: str, labelled: int) -> Piece:
    piece: Piece = json.loads(path.read_text())
    asked = {"recipe": json.loads(json.dumps(recipe.to_dict())), "ppl": ppl, "labelled": labelled}
    for key, value in asked.items():
        if piece[key] != value:
            raise UsageError(f"{path}: of another {key}: give another --out, or remove the file")
    return piece


def _write(options: argparse.Namespace, pieces: Sequence[Piece]) -> None:
    """The JSON, the picture, and a table on the screen."""
    from evaluation.beta_choice import choose_beta
    from evaluation.disentanglement_figures import beta_sweep

    sweep = summarised(pieces)
    choices = {
        str(metric): {
            str(name): float(value)
            for name, value in choose_beta(
                sweep.few.sel(choice=metric), sweep.rest.sel(choice=metric)
            ).data_vars.items()
        }
        for metric in sweep.choice.values
    }
    report = {
        "recipe": {**pieces[0]["recipe"], "objective": "beta_norm varies"},
        "ppl": options.ppl,
        "machine": describe(),
        "cpu_seconds": sum(piece["cpu_seconds"] for piece in pieces),
        "labelled": options.labelled,
        "beta_norm": sweep.beta_norm.values.tolist(),
        "seed": sweep.seed.values.tolist(),
        **{
            part: {str(m): sweep[part].sel(metric=m).values.tolist() for m in sweep.metric.values}
            for part in ("score", "chance")
        },
        **{key: sweep[key].values.tolist() for key in ("log_likelihood", "kl", "active_units")},
        "choice": choices,
    }
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(report, indent=2) + "\n")
    print(_table(sweep, choices))
    print(beta_sweep(sweep, options.figure))


def _table(sweep: xr.Dataset, choices: Mapping[str, Mapping[str, float]]) -> str:
    """Mean ± standard deviation over seeds by beta_norm, as Markdown."""
    figures = {str(m): (sweep.score.sel(metric=m), 2) for m in sweep.metric.values}
    figures |= {"log p(x given z)": (sweep.log_likelihood, 1), "KL": (sweep.kl, 1)}
    figures["active units"] = (sweep.active_units, 1)
    lines = [
        "| beta_norm | " + " | ".join(figures) + " |",
        "|" + "---|" * (len(figures) + 1),
    ]
    for beta in sweep.beta_norm.values:
        cells = []
        for values, decimals in figures.values():
            of = values.sel(beta_norm=beta).values
            sd = of.std(ddof=1) if len(of) > 1 else 0.0
            cells.append(f"{of.mean():.{decimals}f} ± {sd:.{decimals}f}")
        lines.append(f"| {beta:g} | " + " | ".join(cells) + " |")
    chosen = [
        f"{metric}: beta_norm {told['chosen']:g} chosen on the few scores {told['score']:.3f} ± "
        f"{told['sd']:.3f} on the rest; best there {told['best']:g} with {told['best_score']:.3f}"
        for metric, told in choices.items()
    ]
    return "\n".join([*lines, "", *chosen])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beta_sweep", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--recipe", default="beta-vae-sprites", help="of a set with factors")
    parser.add_argument("--ppl", choices=("numpyro", "pyro"), default="numpyro")
    parser.add_argument("--betas", type=float, nargs="+", default=list(BETAS), help="beta_norm")
    parser.add_argument("--seeds", type=int, default=5, help="0 … SEEDS - 1 (5)")
    parser.add_argument("--labelled", type=int, default=200, help="the small labelled subset (200)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no model later")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/beta-sweep"), help="one file a model"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
