"""A study run: every member trained (or gone on with), evaluated, and put side by side.

OUT/MEMBER/ or OUT/MEMBER/seed-N/   a run's folder

Beside them the comparison's files, see `ppl_vae.standing`. A study that was stopped goes on where
it stands when the same command is given again.
"""

from __future__ import annotations

__all__ = ["Asked", "ask", "run", "stands", "work"]

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae import evaluating, experiment, loop
from ppl_vae.errors import TrainingError, UsageError
from ppl_vae.judging import CHECKS
from ppl_vae.members import as_asked, epochs_of, evaluate, evaluation, is_whole
from ppl_vae.standing import Standing, write
from ppl_vae.studies import Member, Study
from ppl_vae.typed import room

if TYPE_CHECKING:
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
        minutes: after so many training stops at the next epoch's end, and no member is begun; what
            is told besides the table says where it stands.
        jobs: runs trained at once, on one device: in processes (Pyro), or those seeds of a member
            as one program (NumPyro); see `ppl_vae.<ppl>.together`.

    Raises:
        UsageError: whatever is wrong with the study; all of it is checked before training starts,
            but for what is in `out` already.
        TrainingError: a member cannot be trained; those before it stay, and are compared.
    """
    asked = ask(study, out, ppl, changes, seeds, command, share)
    found = work(asked, minutes, jobs)
    left = [f"\n\n{_standing(one, out / one.folder, minutes)}" for one in found.stopped]
    return found.table() + "".join(left)


@dataclass(frozen=True)
class Asked:
    """A study and all that was asked of it, checked.

    Attributes:
        study: read.
        members: its runs.
        chosen: checks of their evaluations.
        out: the study's folder.
        ppl: that the runs are trained in.
        command: kept with every run.
    """

    study: Study
    members: Sequence[Member]
    chosen: evaluating.Chosen
    out: Path
    ppl: str
    command: str


def ask(
    study: Study,
    out: Path,
    ppl: str,
    changes: Sequence[str] = (),
    seeds: Sequence[int] = (),
    command: str = "",
    share: float = 1.0,
) -> Asked:
    """What `work` takes; arguments and errors as those of `run`."""
    if (out / "run.json").exists():
        raise UsageError(
            f"--out: expected a study's folder, came {out}, which holds a run: name another one"
        )
    of_checks = [c for c in changes if c.partition(".")[0] in CHECKS]
    settings = [f"{key}={json.dumps(value)}" for key, value in study.check_settings.items()]
    members = study.runs([c for c in changes if c not in of_checks], seeds, share)
    chosen = evaluating.chosen(study.checks, [], [*settings, *of_checks])
    return Asked(study, members, chosen, out, ppl, command)


def work(asked: Asked, minutes: float | None = None, jobs: int = 1) -> Standing:
    """Train and evaluate what is missing, and write the comparison; see `run`."""
    clock, stopped = _Clock(minutes), []
    try:
        for start in range(0, len(asked.members), jobs):
            stopped = _done(asked.members[start : start + jobs], asked, clock)
            if stopped:
                break
    except (UsageError, TrainingError):
        if (found := stands(asked)).told:
            _write(found, asked.out)
        raise
    found = replace(stands(asked), stopped=stopped)
    _write(found, asked.out)
    return found


def stands(asked: Asked) -> Standing:
    """What the folder has already, with nothing trained.

    Runs of another protocol, and evaluations that asked for something else, are not told.
    """
    told, begun = {}, {}
    for member in asked.members:
        folder = asked.out / member.folder
        there = evaluation(member, folder, asked.ppl, asked.chosen)
        if there is not None:
            told[member.folder] = there
        elif (folder / "run.json").exists():
            begun[member.folder] = epochs_of(folder)
    return Standing(asked.study, asked.members, told, begun, asked.command)


def _write(found: Standing, out: Path) -> None:
    from ppl_vae.runs import Run

    write(found, out, {folder: Run.open(out / folder).history for folder in found.told})


class _Clock:
    """A callback of training that ends it once the time is up, within an epoch if it has parts."""

    within_epochs = True

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None and minutes <= 0:
            raise UsageError(f"--minutes: expected a number above 0, came {minutes:g}")
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def __call__(self, *_: Any) -> None:
        if self.end is not None and time.monotonic() > self.end:
            raise loop.Stop


def _standing(member: Member, folder: Path, minutes: float | None) -> str:
    return (
        f"stopped after {minutes:g} minutes: {member.folder} stands at epoch "
        f"{epochs_of(folder)} of {member.recipe.training.epochs}; the same command goes on"
    )


def _done(members: Sequence[Member], asked: Asked, clock: _Clock) -> list[Member]:
    """Train and evaluate members, and give those that the clock has stopped."""
    stopped = []
    try:
        runs = _trained(members, asked.out, asked.ppl, asked.command, clock)
    except (UsageError, TrainingError):  # of one of them: the others may have come to their end
        for member in members:
            ended = as_asked(member, asked.out / member.folder, asked.ppl)
            if ended is not None and is_whole(ended, member):
                evaluate(ended, member, asked.chosen)
        raise
    for member, trained in zip(members, runs, strict=True):
        if trained is None:
            stopped.append(member)
        else:
            evaluate(trained, member, asked.chosen)
    return stopped


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
        clock()
    except loop.Stop:
        return None
    return trained


def _trained_alone(member: Member, folder: Path, ppl: str, command: str, clock: _Clock) -> Run:
    """The member's run, with as many epochs as its recipe says."""
    from ppl_vae.runs import Run

    print(f"{folder}: training", file=sys.stderr)
    if not (folder / "run.json").exists():
        clock()
        return experiment.begin(member.recipe, ppl, folder, command, [clock])
    run = Run.open(folder)
    if run.ppl != ppl:
        raise UsageError(
            f"{folder}: was begun in {run.ppl}: take --ppl {run.ppl}, or another --out"
        )
    if as_asked(member, folder, ppl) is not None and is_whole(run, member):
        return run
    return experiment.go_on(run, member.recipe, [clock])
