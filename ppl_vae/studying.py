"""A study run: every member trained (or gone on with), evaluated, and put side by side.

OUT/MEMBER/ or OUT/MEMBER/seed-N/   a run's folder
OUT/study.json                      every member's evaluation
OUT/table.md                        the comparison, mean ± standard deviation over seeds
OUT/training.png, OUT/curves.png    their training side by side
OUT/kl_gaps.png                     KL by site for training and validation images, if there are any
OUT/along.png                       the columns against what members differ in, where that is said

A study that was stopped goes on where it stands when the same command is given again.
"""

from __future__ import annotations

__all__ = ["run"]

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae import evaluating, experiment, loop, recipes
from ppl_vae.errors import UsageError
from ppl_vae.judging import CHECKS, Subject
from ppl_vae.recipes import Recipe
from ppl_vae.studies import Member, Study
from ppl_vae.study_page import page, table, value_at
from ppl_vae.typed import room

PICTURES = ("along.png", "kl_gaps.png", "training.png", "curves.png")

if TYPE_CHECKING:
    import xarray as xr

    from ppl_vae.runs import Run


def run(
    study: Study,
    out: Path,
    ppl: str = "pyro",
    changes: Sequence[str] = (),
    seeds: Sequence[int] = (),
    command: str = "",
    share: float = 1.0,
    minutes: float | None = None,
    jobs: int = 1,
) -> str:
    """Train and evaluate what is missing, write the comparison, and give its table.

    Args:
        study: read.
        out: the study's folder.
        ppl: that its runs are trained in.
        changes: of every member's recipe, or `check.key=value`.
        seeds: in the place of the study's.
        command: kept with every run.
        share: of each member's protocol; see `Study.runs`.
        minutes: after so many training stops at the next epoch's end, and no member is begun; the
            table is then of those that are done, and says where it stands.
        jobs: runs trained at once, on one device: in processes (Pyro), or those seeds of a member
            as one program (NumPyro); see `ppl_vae.<ppl>.together`.

    Raises:
        UsageError: whatever is wrong with the study; all of it is checked before training starts,
            but for what is in `out` already.
        TrainingError: a member cannot be trained; those before it stay.
    """
    of_checks = [c for c in changes if c.partition(".")[0] in CHECKS]
    settings = [f"{key}={json.dumps(value)}" for key, value in study.check_settings.items()]
    clock, standing = _Clock(minutes), ""
    members = study.runs([c for c in changes if c not in of_checks], seeds, share)
    chosen = evaluating.chosen(study.checks, [], [*settings, *of_checks])
    told, histories = [], {}
    for start in range(0, len(members), jobs):
        some = members[start : start + jobs]
        for member, trained in zip(some, _trained(some, out, ppl, command, clock), strict=True):
            if trained is None:
                standing += f"\n\n{_standing(member, out / member.folder, minutes)}"
                continue
            told.append(_evaluated(trained, member, chosen))
            histories[member.folder] = trained.history
        if standing:
            break
    rows = table(told, study.columns, study.published)
    if told:
        _tell(study, out, told, histories, rows, command)
    return rows + standing


class _Clock:
    """A callback of training that ends it once the time is up."""

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None and minutes <= 0:
            raise UsageError(f"--minutes: expected a number above 0, came {minutes:g}")
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def check(self, *_: Any) -> None:
        if self.end is not None and time.monotonic() > self.end:
            raise loop.Stop


def _standing(member: Member, folder: Path, minutes: float | None) -> str:
    from ppl_vae.runs import Run

    begun = (folder / "run.json").exists() and Run.open(folder).last is not None
    epoch = int(Run.open(folder).history["epoch"][-1]) if begun else 0
    return (
        f"stopped after {minutes:g} minutes: {member.folder} stands at epoch {epoch} of "
        f"{member.recipe.training.epochs}; the same command goes on"
    )


def _trained(
    members: Sequence[Member], out: Path, ppl: str, command: str, clock: _Clock
) -> list[Run | None]:
    """The members' runs, trained at once; None for one that the clock has stopped."""
    jobs = [
        partial(_trained_in_time, one, out / one.folder, ppl, command, clock) for one in members
    ]
    if len(jobs) == 1:
        return [jobs[0]()]
    runs: list[Run | None] = room(ppl).together(jobs, [member.name for member in members])
    return runs


def _trained_in_time(
    member: Member, folder: Path, ppl: str, command: str, clock: _Clock
) -> Run | None:
    try:
        trained = _trained_alone(member, folder, ppl, command, clock)
        clock.check()
    except loop.Stop:
        return None
    return trained


def _trained_alone(member: Member, folder: Path, ppl: str, command: str, clock: _Clock) -> Run:
    """The member's run, with as many epochs as its recipe says."""
    from ppl_vae.runs import Run

    print(f"{folder}: training", file=sys.stderr)
    if not (folder / "run.json").exists():
        clock.check()
        return experiment.begin(member.recipe, ppl, folder, command, [clock.check])
    run = Run.open(folder)
    if run.ppl != ppl:
        raise UsageError(
            f"{folder}: was begun in {run.ppl}: take --ppl {run.ppl}, or another --out"
        )
    same = not recipes.differences(Recipe.from_dict(run.recipe), member.recipe)
    done = run.last is not None and run.history["epoch"][-1] >= member.recipe.training.epochs
    return run if same and done else experiment.go_on(run, member.recipe, [clock.check])


def _evaluated(run: Run, member: Member, chosen: evaluating.Chosen) -> dict[str, Any]:
    """The member's evaluation: the one that stands there if nothing has changed since."""
    from ppl_vae.runs import load

    settings, weights = member.recipe.evaluation, run.weights()
    about = {
        "run": str(run.path), "member": member.name, "recipe": member.recipe.name, "ppl": run.ppl,
        "weights": weights[1], "seed": member.seed, "parameters": _parameters(weights[0]),
        "epochs": int(run.history["epoch"][-1]), "full_epochs": member.full_epochs,
        "hours": _hours(run.history),
        "asked": _asked(settings, chosen),
    }  # fmt: skip
    there = _there(run)
    if there is not None and all(there.get(key) == value for key, value in about.items()):
        return there
    data = experiment.data_of(run, member.recipe)
    images = data.test.take(settings.images or len(data.test))
    pair = load(run)
    subject = Subject(*pair, run.ppl, images, run.figures, data=data, history=run.history)
    return evaluating.evaluate(run, subject, settings.samples, chosen, member.recipe.data, about)


def _tell(
    study: Study,
    out: Path,
    told: list[dict[str, Any]],
    histories: dict[str, Any],
    rows: str,
    command: str,
) -> None:
    """The comparison's files."""
    from evaluation import figures
    from evaluation.latent_figures import side_by_side
    from evaluation.study_figures import along, kl_gaps
    from ppl_vae.runs import write_atomically

    whole = {"study": study.name, "description": study.description, "members": told}
    write_atomically(out / "study.json", json.dumps(whole, indent=2).encode())
    write_atomically(out / "table.md", f"{rows}\n".encode())
    side_by_side(histories, out / "training.png")
    figures.compare_curves(histories, out / "curves.png")
    if all("valid_kl" in history and history.sizes["site"] for history in histories.values()):
        kl_gaps(histories, out / "kl_gaps.png")
    for title, at in study.along.items():
        columns = {name: place for name, place in study.columns.items() if isinstance(place, str)}
        along(title, _points(told, at, columns), out / "along.png")
    pictures = [name for name in PICTURES if (out / name).exists()]
    about = (study.name, study.description, study.source)
    written = page(*about, told, rows, command, pictures)
    write_atomically(out / "page.md", written.encode())


def _points(
    told: Sequence[Mapping[str, Any]], at: Mapping[str, float], columns: Mapping[str, str]
) -> dict[str, list[tuple[float, float]]]:
    """{column: (number of the member, value) of every run}, of columns that are numbers."""
    found = {}
    for name, place in columns.items():
        pairs = [(at[one["member"]], value_at(one, place)) for one in told if one["member"] in at]
        values = [(float(x), float(y)) for x, y in pairs if isinstance(y, int | float)]
        if values:
            found[name] = values
    return found


def _hours(history: xr.Dataset) -> float | None:
    """Of training steps alone; None for a history of before these were kept."""
    return float(history["seconds"].sum()) / 3600 if "seconds" in history else None


def _there(run: Run) -> dict[str, Any] | None:
    try:
        return dict(json.loads((run.path / "evaluation.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def _asked(settings: recipes.EvaluationSettings, chosen: evaluating.Chosen) -> str:
    """What an evaluation was asked for, as one text."""
    return json.dumps([asdict(settings), {name: asdict(sets) for name, sets in chosen.items()}])


def _parameters(weights: Mapping[str, np.ndarray]) -> int:
    """How many numbers were learned; batch norm's statistics are not."""
    return sum(array.size for name, array in weights.items() if "running_" not in name)
