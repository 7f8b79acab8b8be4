"""What the command line's verbs do; each takes the parsed arguments of `ppl_vae.cli`."""

from __future__ import annotations

__all__ = [
    "compare",
    "convert",
    "evaluate",
    "inpaint",
    "list_known",
    "prior",
    "reconstruct",
    "sample",
    "study",
    "train",
]

import json
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ppl_vae import experiment, recipes, studies
from ppl_vae.errors import UsageError
from ppl_vae.inpainting import inpaint
from ppl_vae.judging import CHECKS, Subject
from ppl_vae.overrides import Change, parse_sweep
from ppl_vae.recipes import Recipe
from ppl_vae.seeds import read_seeds
from ppl_vae.temperatures import read_temperature
from ppl_vae.typed import room, zoo

if TYPE_CHECKING:
    from evaluation.published import Published
    from ppl_vae.runs import Run


def list_known(args: Namespace) -> None:
    """Print what there is to train and on what."""
    from ppl_vae import data

    print("Recipes (ppl-vae train NAME):")
    for name in recipes.names():
        print(f"  {name:18}{recipes.description(name)}")
    print("\nStudies (ppl-vae study NAME):")
    for name in studies.names():
        print(f"  {name:18}{studies.description(name)}")
    print("\nData sets (data.name in a recipe):")
    for name in data.names():
        about = data.source(name)
        print(f"  {name:18}{about.title}; {about.split}")
    kinds: tuple[Literal["model", "guide"], ...] = ("model", "guide")
    for kind in kinds:
        print(f"\n{kind.capitalize()}s ({kind}.class_path in a recipe, the same in both PPLs):")
        print(f"  {', '.join(zoo(kind))}")
    print("\nChecks (ppl-vae evaluate RUN --check NAME):")
    for name, tells in CHECKS.items():
        print(f"  {name:18}{tells}")


def train(args: Namespace) -> None:
    """Train one run, or one for each combination of a sweep."""
    if args.recipe is None and (args.sweep or not args.resume):
        raise UsageError("train: expected a recipe, came none: name one (see ppl-vae list)")
    if args.out is None and args.resume:
        raise UsageError("--resume: expected the run to go on with, came none: add --out RUN")
    out = args.out or Path("runs") / Path(args.recipe).stem
    each = [
        (
            out / ",".join(_spelled(key, value) for key, value in chosen),
            [*args.overrides, *chosen],
        )
        for chosen in parse_sweep(args.sweep)
    ]
    for folder, changes in each if args.sweep else ():
        _check_one(args, folder, changes)
    for folder, changes in each:
        run = _train_one(args, folder, changes, is_one_of_many=bool(args.sweep))
        ranks = room(run.ppl).ranks
        if ranks.leads():
            history = run.history
            print(
                f"{run.path}: {int(history['epoch'][-1])} epochs, training ELBO "
                f"{float(history['elbo'][-1]):.2f} nats per image; pictures in {run.figures}"
            )
    ranks.leave()


def study(args: Namespace) -> None:
    """Train, evaluate and compare the members of a study; goes on with what stands there."""
    from ppl_vae import studying

    seeds = read_seeds(args.seeds)
    out = args.out or Path("runs") / Path(args.study).stem
    command = shlex.join(["ppl-vae", *sys.argv[1:]])
    print(
        studying.run(
            studies.read(args.study),
            out,
            args.ppl,
            args.overrides,
            seeds,
            command,
            args.share,
            args.minutes,
            args.jobs,
        )
    )
    print(f"\nfigures and numbers: {out}")


def evaluate(args: Namespace) -> None:
    """Print (or give as JSON), and keep in the run, how good a run is."""
    from ppl_vae import evaluating

    run, recipe, ppl = _opened(args)
    chosen = evaluating.chosen(args.check, args.bound, args.overrides)
    ranks = room(ppl).ranks
    devices = args.devices or recipe.training.devices
    ranks.join(replace(recipe.training, devices=devices))
    model, guide, which = _loaded(args, run, ppl)
    data = experiment.data_of(run, recipe)
    subject = Subject(
        model,
        guide,
        ppl,
        data.test.take(args.images or recipe.evaluation.images or len(data.test)),
        run.figures,
        data=data,
        history=None if "converted_from" in run.about else run.history,
        twin=_twin(args, run, recipe),
        seed=args.seed,
        batch_norm=args.batch_norm,
        spread=devices == "all" or ranks.count() > 1,
    )
    samples = args.samples or recipe.evaluation.samples
    if not ranks.leads():
        evaluating.take_part(subject, samples)
        ranks.leave()
        return
    about = {
        "run": str(args.run), "recipe": recipe.name, "ppl": ppl, "weights": which,
        "batch_norm": args.batch_norm, "seed": recipe.training.seed,
    }  # fmt: skip
    if changed := recipes.changes(recipe):
        about["changes"] = changed
    told = evaluating.evaluate(run, subject, samples, chosen, recipe.data, about, _command())
    if args.json:
        print(json.dumps(told))
    else:
        print(evaluating.text(told))
        print(f"\nreport:   {run.path}/report.html")
        print(f"pictures: {run.figures}\nnumbers:  {run.path}/evaluation.json")
    ranks.leave()


def sample(args: Namespace) -> None:
    """Draws from the prior, into a picture or a file of numbers."""
    from evaluation import figures

    temperature = read_temperature(args.temperature)
    run, recipe, ppl = _opened(args)
    model, _, which = _loaded(args, run, ppl)
    drawn = {"temperature": temperature, "batch_norm": args.batch_norm, "seed": args.seed}
    drawn["label"] = args.label
    draws = room(ppl).sample(model, args.count, **drawn)
    out = _out(args.out, run.figures / "samples.png")
    if out.suffix == ".npz":
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in draws.items()}
        np.savez_compressed(out, **arrays)
    else:
        title = f"Prior samples, temperature {args.temperature}, {which} weights"
        means = np.asarray(draws["x_mean"])
        if recipe.data.masks:  # without the channels of a condition and the mask
            means = means[:, : -1 - getattr(model, "condition", 0)]
        figures.image_grid(means, out, limit=args.count, title=title)
    print(out)


def reconstruct(args: Namespace) -> None:
    """Test images and what the posterior makes of them, into a picture or a file of numbers."""
    from evaluation import figures

    run, recipe, ppl = _opened(args)
    model, guide, which = _loaded(args, run, ppl)
    images = experiment.data_of(run, recipe).test.take(args.count)
    drawn = {"seed": args.seed, "batch_norm": args.batch_norm}
    means = np.asarray(room(ppl).reconstruct(model, guide, images, **drawn))
    means = means[:, : images.pixels.shape[1]]  # without a mask's channel
    out = _out(args.out, run.figures / "test_reconstructions.png")
    if out.suffix == ".npz":
        np.savez_compressed(out, x=images.pixels, x_mean=means)
    else:
        title = f"Test images and their reconstructions, {which} weights"
        figures.reconstructions(images.pixels, means, out, limit=args.count, title=title)
    print(out)


def compare(args: Namespace) -> None:
    """Tables of evaluated runs, one for each protocol, and figures and a page if asked for."""
    from evaluation import published_numbers, table

    published = [] if args.published is None else published_numbers(args.published or None)
    runs = [run for path in args.runs for run in _runs_in(path)]
    told = [_evaluation_of(run) for run in runs]
    print(table(told, style="markdown" if args.markdown else "text", published=published))
    if args.out is not None:
        for path in _draw_comparison(runs, told, published, args.out):
            print(path)


def convert(args: Namespace) -> None:
    """A run from weights that authors published."""
    from ppl_vae import conversion

    conversion.convert(args)


def prior(args: Namespace) -> None:
    """An autoregressive prior over a run's codes, and a run that has both."""
    from ppl_vae import second_stage

    second_stage.command(args)


def _train_one(
    args: Namespace, folder: Path, changes: Sequence[str | Change], *, is_one_of_many: bool
) -> Run:
    from ppl_vae.runs import Run

    if not args.resume or (is_one_of_many and not (folder / "run.json").exists()):
        recipe = recipes.read(args.recipe, changes)
        return experiment.begin(recipe, args.ppl or "pyro", folder, _command())
    run = Run.open(folder)
    if args.ppl not in (None, run.ppl):
        raise UsageError(f"--ppl: {folder} was begun in {run.ppl}: leave --ppl out, or begin anew")
    tree = run.recipe if args.recipe is None else recipes.read(args.recipe).to_dict()
    return experiment.go_on(run, recipes.with_changes(tree, changes))


def _check_one(args: Namespace, folder: Path, changes: Sequence[str | Change]) -> None:
    """UsageError, before any run of a sweep is trained, about what is wrong with one of them."""
    from ppl_vae.runs import Run

    recipe, ppl = recipes.read(args.recipe, changes), args.ppl or "pyro"
    if args.resume and (folder / "run.json").exists():
        ppl = Run.open(folder).ppl
    else:
        Run.check_free(folder)
    recipe.model.resolve("model", ppl)
    recipe.guide.resolve("guide", ppl)


def _opened(args: Namespace) -> tuple[Run, Recipe, str]:
    """The run, its recipe, and the PPL to look at it in."""
    from ppl_vae.runs import Run

    run = Run.open(args.run)
    return run, Recipe.from_dict(run.recipe), args.ppl or run.ppl


def _loaded(args: Namespace, run: Run, ppl: str) -> tuple[Any, Any, str]:
    """Model, guide, and which of the run's weights they have."""
    from ppl_vae.runs import load

    room(ppl)
    return *load(run, ppl, args.weights), run.weights(args.weights)[1]


def _twin(args: Namespace, run: Run, recipe: Recipe) -> Callable[[], tuple[Any, Any]] | None:
    """Gives the run's pair in NumPyro; None where a class is the user's own."""
    from ppl_vae.runs import load

    if any("." in part.class_path for part in (recipe.model, recipe.guide)):
        return None
    return lambda: load(run, "numpyro", args.weights)


def _runs_in(path: Path) -> list[Run]:
    """The run in a folder, or all the runs below it."""
    from ppl_vae.runs import Run

    if (path / "run.json").exists():
        return [Run.open(path)]
    found = sorted(file.parent for file in path.rglob("run.json"))
    return [Run.open(folder) for folder in found] or [Run.open(path)]


def _evaluation_of(run: Run) -> dict[str, Any]:
    try:
        return dict(json.loads((run.path / "evaluation.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(
            f"{run.path}: no evaluation.json of a finished evaluation in it: run "
            f"ppl-vae evaluate {run.path}"
        ) from error


def _draw_comparison(
    runs: Sequence[Run],
    told: Sequence[dict[str, Any]],
    published: Sequence[Published],
    out: Path,
) -> list[Path]:
    """Figures of several runs and the page that shows them."""
    from evaluation import Code, Picture, comparison_page, figures

    out.mkdir(parents=True, exist_ok=True)
    bounds = figures.compare_likelihoods(told, out / "likelihoods.png", published)
    histories = {str(run.path): run.history for run in runs}
    curves = figures.compare_curves(histories, out / "curves.png")
    pictures = [
        Picture(
            bounds,
            "-log p(x) by L_K, nats per image, lower is better; ± standard error over images, of "
            "means the standard deviation over seeds.",
        ),
        Picture(curves, "ELBO over training, nats per image; higher is better."),
    ]
    page = comparison_page(
        out / "compare.html",
        told,
        published=published,
        pictures=pictures,
        facts={"command": Code(_command())},
    )
    return [bounds, curves, page]


def _command() -> str:
    """The command as it was given."""
    return shlex.join(["ppl-vae", *sys.argv[1:]])


def _out(out: Path | None, default: Path) -> Path:
    out = out or default
    if out.suffix not in (".png", ".npz"):
        raise UsageError(f"--out: expected a .png or .npz file, came {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _spelled(key: str, value: Any) -> str:
    """One setting as part of a folder's name.

    >>> _spelled("model.init_args.latents", [4, 2])
    'model.init_args.latents=[4,2]'
    """
    return f"{key}={json.dumps(value, separators=(',', ':'))}".replace('"', "").replace("/", "_")
