"""A recipe trained into a run's folder, begun or gone on with, and its figures."""

from __future__ import annotations

__all__ = ["at_home", "begin", "check_goes_on", "data_of", "go_on", "load_data"]

import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae import recipes
from ppl_vae.checks import check_masks_taken
from ppl_vae.errors import TrainingError, UsageError
from ppl_vae.recipes import Recipe
from ppl_vae.typed import room

if TYPE_CHECKING:
    import xarray as xr

    from ppl_vae.data import Dataset
    from ppl_vae.runs import Run

SHOWN = 20  # images of a figure


Callbacks = Sequence[Callable[[Any], Any]]


def begin(
    recipe: Recipe,
    ppl: str,
    folder: str | os.PathLike[str],
    command: str = "",
    callbacks: Callbacks = (),
) -> Run:
    """Train a new run; `callbacks` as those of `fit`.

    Its folder is made once recipe, data and programs have been checked, and is freed again where
    training fails before the first checkpoint, so that the mended command can be given as it is.
    Of several processes (`ppl_vae.launch`) the first alone writes.

    Raises:
        UsageError: the folder holds a run, or something about the recipe is wrong.
        TrainingError: training cannot go on; what to change is in the message.
    """
    from ppl_vae.runs import AtWorkError, Run

    recipe = at_home(recipe)
    ranks = room(ppl).ranks
    ranks.join(recipe.training)
    data = load_data(recipe)
    pair = _pair(recipe, ppl, data)
    ranks.wait()  # nothing is written unless all have come so far
    if ranks.leads():
        device = room(ppl).device_name(recipe.training.device)
        facts = {"x_shape": [*data.x_shape], "device": device}
        run = Run.create(folder, recipe.to_dict(), ppl, command, **facts)
    try:
        ranks.wait()
        if not ranks.leads():
            run = Run.open(folder)
        _fit(run, recipe, data, pair, callbacks, resume=False)
    except AtWorkError:  # who has resumed it since goes on
        raise
    except (UsageError, TrainingError):
        if ranks.leads() and run.last is None:
            _discard(run)
        raise
    return run


def go_on(run: Run, recipe: Recipe | None = None, callbacks: Callbacks = ()) -> Run:
    """Train a run further, from its last whole checkpoint.

    Args:
        run: opened.
        recipe: the run's own, but perhaps for the number of epochs and for `evaluation`; None takes
            the run's.
        callbacks: as those of `fit`.

    Raises:
        UsageError: anything but `training.epochs` and `evaluation` has changed, or the data; fewer
            epochs than there are; another process is training the run.
        TrainingError: training cannot go on; what to change is in the message.
    """
    old = Recipe.from_dict(run.recipe)
    recipe = old if recipe is None else at_home(recipe)
    for key in recipes.differences(old, recipe):
        if key != "training.epochs" and not key.startswith("evaluation."):
            raise UsageError(
                f"{key}: cannot change with --resume, training.epochs and evaluation alone may: "
                "leave it as it was, or train into another folder"
            )
    check_goes_on(run, recipe)
    ranks = room(run.ppl).ranks
    ranks.join(recipe.training)
    data = data_of(run, recipe)
    pair = _pair(recipe, run.ppl, data)
    ranks.wait()  # until all have read what is written now
    if ranks.leads():
        with run.at_work():
            run.write_recipe(recipe.to_dict())
    _fit(run, recipe, data, pair, [_device_keeper(run, recipe), *callbacks], resume=True)
    return run


def _pair(recipe: Recipe, ppl: str, data: Dataset) -> tuple[Any, Any]:
    """(model, guide), with the data's images found to be what the model takes."""
    pair = recipes.build(recipe, ppl, data.x_shape)
    check_masks_taken(data.train, pair[0])
    return pair


def check_goes_on(run: Run, recipe: Recipe) -> None:
    """UsageError where a run cannot go on, or has come further than it is asked to."""
    if run.last is not None and not (run.last / "optimizer.safetensors").exists():
        raise UsageError(
            f"{run.path}: expected a run that was trained here, came weights alone, converted or "
            "with a learned prior: train a recipe of your own"
        )
    done = run.epochs
    if recipe.training.epochs < done:
        raise UsageError(
            f"training.epochs: expected at least {done}, which {run.path} has, came "
            f"{recipe.training.epochs}: leave it out, ask for more, or train into another folder"
        )


def _device_keeper(run: Run, recipe: Recipe) -> Callable[[Any], None]:
    """A callback: a device that trains an epoch of the run stands in run.json."""
    from ppl_vae.runs import THEN

    here = room(run.ppl).device_name(recipe.training.device)
    before = here if run.last is None else run.device
    told = before if before.split(THEN)[-1] == here else f"{before}{THEN}{here}"
    return lambda _: run.trained_on(told)


def load_data(recipe: Recipe) -> Dataset:
    """The recipe's data set."""
    from ppl_vae import data

    return data.load(**asdict(recipe.data))


def data_of(run: Run, recipe: Recipe) -> Dataset:
    """The data of a run; UsageError where other images have taken their place since."""
    found, trained = load_data(recipe), tuple(run.about["x_shape"])
    if found.x_shape != trained:
        raise UsageError(
            f"{run.path}: trained on images of shape {trained}, but {recipe.data.name} has "
            f"{found.x_shape} now: put back what it was trained on, or train anew"
        )
    return found


def at_home(recipe: Recipe) -> Recipe:
    """The recipe with the paths of its data such that they hold from any folder."""
    kept: dict[str, Any] = {
        name: str(Path(given).expanduser().resolve())
        for name in ("path", "condition")
        if (given := getattr(recipe.data, name)) not in (None, "label")
    }
    repository = recipe.data.repository  # on the hub, or a folder in the place of one
    if repository is not None and Path(repository).expanduser().is_dir():
        kept["repository"] = str(Path(repository).expanduser().resolve())
    return replace(recipe, data=replace(recipe.data, **kept))


def _fit(
    run: Run,
    recipe: Recipe,
    data: Dataset,
    pair: tuple[Any, Any],
    callbacks: Callbacks,
    *,
    resume: bool,
) -> None:
    settings = {
        "objective": recipe.objective, "run": run, "resume": resume, "callbacks": callbacks,
    }  # fmt: skip
    try:
        fitted = room(run.ppl).fit(
            *pair, data.train, valid=data.valid, **settings, **asdict(recipe.training)
        )
    except KeyboardInterrupt as stop:
        again = f"ppl-vae train --out {shlex.quote(str(run.path))} --resume"
        raise KeyboardInterrupt(f"stopped; {again} goes on from the last checkpoint") from stop
    if room(run.ppl).ranks.leads():
        _draw(run, data, pair, fitted.history)


def _draw(run: Run, data: Dataset, pair: tuple[Any, Any], history: xr.Dataset) -> None:
    """Every figure of a trained run, of its last weights."""
    from evaluation import figures
    from evaluation.code_figures import codes_over_time

    folder, programs = run.figures, room(run.ppl)
    history = history.assign_attrs(data=data.name, ppl=run.ppl)
    figures.learning_curves(history, folder / "learning_curves.png")
    if history.sizes.get("site"):
        figures.kl_by_site(history, folder / "kl_by_site.png")
    if "code_counts" in history:
        codes_over_time(history, folder / "codes_over_time.png")
    elif "posterior_loc" in history:
        figures.posterior_range(history, folder / "posterior_range.png")
    shown = data.test.take(min(SHOWN, len(data.test)))
    channels = shown.pixels.shape[1]  # without a mask's
    if history.sizes.get("site"):  # without latents there is nothing to reconstruct from
        means = np.asarray(programs.reconstruct(*pair, shown))[:, :channels]
        title = "Test images and their reconstructions, last weights"
        path = folder / "reconstructions.png"
        figures.reconstructions(shown.pixels, means, path, limit=SHOWN, title=title)
    drawn = np.asarray(programs.sample(pair[0], SHOWN)["x_mean"])[:, :channels]
    title = "Prior samples and their nearest training images, last weights"
    path = folder / "samples_and_nearest.png"
    figures.samples_with_neighbours(drawn, data.train.pixels, path, limit=SHOWN, title=title)
    kept = sorted((run.path / "samples").glob("epoch-*.npy"))
    over_time = [(int(path.stem.partition("-")[2]), np.load(path)[:, :channels]) for path in kept]
    if over_time:
        figures.samples_over_time(over_time, folder / "samples_over_time.png")


def _discard(run: Run) -> None:
    """Take away what a run without a checkpoint has in its folder, and nothing else."""
    for name in ("tensorboard", "samples", "checkpoints"):
        shutil.rmtree(run.path / name, ignore_errors=True)
    for name in ("run.json", "recipe.yaml"):
        (run.path / name).unlink(missing_ok=True)
    if not any(run.path.iterdir()):
        run.path.rmdir()
