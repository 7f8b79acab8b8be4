"""Disentanglement against beta_norm over several seeds, and beta chosen from a few labelled images.

    python -m benchmarks.beta_sweep                  # about ten minutes of one core
    python -m benchmarks.beta_sweep --minutes 5      # a part; the same command goes on later

Every trained model leaves one JSON file in --out, which is not trained again. Once all are there,
benchmarks/results/beta_sweep.json and docs/figures/beta-sweep.png are written;
docs/disentanglement.md says what they show.
"""

from __future__ import annotations

__all__ = ["BETAS", "LABELLED", "kept", "main", "swept"]

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from benchmarks.beta_report import Piece, write
from benchmarks.command import ended
from ppl_vae import experiment, recipes
from ppl_vae.data import Images
from ppl_vae.errors import UsageError
from ppl_vae.recipes import Recipe
from ppl_vae.runs import write_atomically
from ppl_vae.typed import room

RESULTS = Path(__file__).parent / "results" / "beta_sweep.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "beta-sweep.png"
BETAS = (0.004, 0.04, 0.07, 0.12, 0.2, 0.4, 1.2)
LABELLED = 200
CHOOSE_BY = ("higgins", "factor_vae", "mig")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 once the sweep is whole, 1 while parts are missing."""
    options = _options(arguments)
    until = time.monotonic() + 60 * options.minutes
    grid = [
        recipes.read(
            options.recipe,
            [*options.overrides, ("objective.beta_norm", beta_norm), ("training.seed", seed)],
        )
        for beta_norm, seed in product(options.betas, range(options.seeds))
    ]
    pieces = swept(grid, options.ppl, options.out, until, options.labelled)
    if len(pieces) < len(grid):
        print(f"{len(pieces)} of {len(grid)} models: the same command goes on")
        return 1
    write(pieces, options.results, options.figure)
    return 0


def swept(
    grid: Iterable[Recipe], ppl: str, out: Path, until: float, labelled: int = LABELLED
) -> list[Piece]:
    """The models of all recipes, trained where they are missing and time is left.

    Args:
        grid: recipes that differ in `objective.beta_norm` and `training.seed`.
        ppl: "pyro" or "numpyro".
        out: folder of one file a model.
        until: by `time.monotonic`; no model is begun later.
        labelled: see `measured`.

    Raises:
        UsageError: a file there is of something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    pieces = []
    for recipe in grid:
        piece = kept(recipe, ppl, out, labelled)
        if piece is None and time.monotonic() <= until:
            piece = measured(recipe, ppl, labelled)
            path = _path(recipe, out)
            write_atomically(path, (json.dumps(piece) + "\n").encode())
            told = f"{piece['cpu_seconds']:.0f} s of CPU", piece["scores"]["higgins"]
            print(path.name, *told, flush=True)
        if piece is not None:
            pieces.append(piece)
    return pieces


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
    fitted = programs.fit(
        model, guide, data.train, objective=recipe.objective, progress=False,
        **asdict(recipe.training),
    )  # fmt: skip
    codes, known = _codes(programs, model, guide, data.test)
    terms = programs.site_terms(model, guide, data.test)
    found = disentanglement_scores(codes, seed=recipe.training.seed, num_shuffles=1, **known)
    order = np.random.default_rng(0).permutation(len(codes))  # the same few of every model
    parts = {"few": order[:labelled], "rest": order[labelled:]}
    return {
        "recipe": json.loads(json.dumps(recipe.to_dict())), "ppl": ppl, "labelled": labelled,
        "device": programs.device_name(recipe.training.device), "num_images": len(data.test),
        "hours": float(fitted.history["seconds"].sum()) / 3600,
        "scores": _by_metric(found.score), "chance": _by_metric(found.chance),
        **{part: _some_scores(codes, known, rows) for part, rows in parts.items()},
        "log_likelihood": float(np.mean(terms["log_likelihood"])),
        "kl": float(sum(np.mean(kl) for kl in terms["kl"].values())),
        "active_units": int((codes.var(axis=0) > 0.01).sum()),
        "cpu_seconds": time.process_time() - begun,
    }  # fmt: skip


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


def _path(recipe: Recipe, out: Path) -> Path:
    beta_norm, seed = recipe.objective.beta_norm, recipe.training.seed
    return out / f"beta_norm={beta_norm:g},seed={seed}.json"


def kept(recipe: Recipe, ppl: str, out: Path, labelled: int = LABELLED) -> Piece | None:
    """A recipe's model as it stands in its file; None where there is none.

    Raises:
        UsageError: the file is of something else.
    """
    path = _path(recipe, out)
    if not path.exists():
        return None
    piece: Piece = json.loads(path.read_text())
    asked = {"recipe": json.loads(json.dumps(recipe.to_dict())), "ppl": ppl, "labelled": labelled}
    for key, value in asked.items():
        if piece[key] != value:
            raise UsageError(f"{path}: of another {key}: give another --out, or remove the file")
    return piece


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beta_sweep", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--recipe", default="beta-vae-sprites", help="of a set with factors")
    parser.add_argument("--ppl", choices=("numpyro", "pyro"), default="numpyro")
    parser.add_argument("--betas", type=float, nargs="+", default=list(BETAS), help="beta_norm")
    parser.add_argument("--seeds", type=int, default=5, help="0 … SEEDS - 1 (5)")
    parser.add_argument(
        "--labelled", type=int, default=LABELLED, help="the small labelled subset (200)"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no model later")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/beta-sweep"), help="one file a model"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(ended(main))
