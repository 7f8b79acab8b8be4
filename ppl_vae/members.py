"""A study's member as a folder: is it trained as it was asked for, and what is its evaluation."""

from __future__ import annotations

__all__ = ["as_asked", "epochs_of", "evaluate", "evaluation", "is_whole"]

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae import evaluating, experiment, recipes
from ppl_vae.errors import UsageError
from ppl_vae.judging import Subject
from ppl_vae.recipes import Recipe
from ppl_vae.studies import Member

LABELS = ("device", "full_epochs", "cut")  # of an evaluation: what was measured is the same

if TYPE_CHECKING:
    import xarray as xr

    from ppl_vae.runs import Run


def as_asked(member: Member, folder: Path, ppl: str) -> Run | None:
    """The run in a folder, if it is of the member's recipe."""
    from ppl_vae.runs import Run

    if not (folder / "run.json").exists():
        return None
    run = Run.open(folder)
    wanted = experiment.at_home(member.recipe)
    if run.ppl != ppl or recipes.differences(Recipe.from_dict(run.recipe), wanted):
        return None
    return run


def is_whole(run: Run, member: Member) -> bool:
    """Whether it has been trained for as many epochs as the member asks for."""
    return run.last is not None and epochs_of(run.path) >= member.recipe.training.epochs


def epochs_of(folder: Path) -> int:
    """How many epochs of a run are kept."""
    from ppl_vae.runs import Run

    try:
        return int(Run.open(folder).history["epoch"][-1])
    except UsageError:  # none, or not one
        return 0


def evaluate(run: Run, member: Member, chosen: evaluating.Chosen) -> None:
    """The member's evaluation, in the run's folder, unless it stands there as it is asked for."""
    from ppl_vae.runs import load

    about = _about(run, member, chosen)
    if _there(run, about) is not None:
        return
    settings = member.recipe.evaluation
    data = experiment.data_of(run, member.recipe)
    images = data.test.take(settings.images or len(data.test))
    pair = load(run)
    subject = Subject(*pair, run.ppl, images, run.figures, data=data, history=run.history)
    evaluating.evaluate(run, subject, settings.samples, chosen, member.recipe.data, about)


def evaluation(
    member: Member, folder: Path, ppl: str, chosen: evaluating.Chosen
) -> dict[str, Any] | None:
    """The evaluation of a member that has been trained to its end, if it is there."""
    try:
        run = as_asked(member, folder, ppl)
        if run is None or not (folder / "evaluation.json").exists():
            return None
        training, about = member.recipe.training, _about(run, member, chosen)
        if about["epochs"] < training.epochs and training.patience is None:
            return None
        return _there(run, about)
    except UsageError:  # a folder that is not whole: training says so
        return None


def _about(run: Run, member: Member, chosen: evaluating.Chosen) -> dict[str, Any]:
    """What an evaluation says of its run."""
    weights, history = run.weights(), run.history
    return {
        "run": str(run.path), "member": member.name, "recipe": member.recipe.name, "ppl": run.ppl,
        "weights": weights[1], "seed": member.seed, "parameters": _parameters(weights[0]),
        "epochs": int(history["epoch"][-1]), "full_epochs": member.full_epochs,
        "cut": member.cut, "hours": _hours(history), "device": run.device,
        "asked": _asked(member.recipe.evaluation, chosen),
    }  # fmt: skip


def _there(run: Run, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluation that stands in the run's folder if it is about the same, with its labels."""
    try:
        there = dict(json.loads((run.path / "evaluation.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None
    if any(there.get(key) != value for key, value in about.items() if key not in LABELS):
        return None
    return {**there, **{key: about[key] for key in LABELS}}


def _hours(history: xr.Dataset) -> float | None:
    """Of training steps alone; None for a history of before these were kept."""
    return float(history["seconds"].sum()) / 3600 if "seconds" in history else None


def _asked(settings: recipes.EvaluationSettings, chosen: evaluating.Chosen) -> str:
    """What an evaluation was asked for, as one text."""
    return json.dumps([asdict(settings), {name: asdict(sets) for name, sets in chosen.items()}])


def _parameters(weights: Mapping[str, np.ndarray]) -> int:
    """How many numbers were learned; batch norm's statistics are not."""
    return sum(array.size for name, array in weights.items() if "running_" not in name)
