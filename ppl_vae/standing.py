"""How far a study has come: its rows, those that are missing, and its files.

OUT/study.json                      every member's evaluation
OUT/table.md                        the comparison, mean ± standard deviation over seeds
OUT/page.md                         the table with all that a reader needs to believe it
OUT/training.png, OUT/curves.png    training side by side
OUT/kl_gaps.png                     KL by site for training and validation images, if there are any
OUT/along.png                       the columns against what members differ in, where that is said
"""

from __future__ import annotations

__all__ = ["Standing", "points", "write"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ppl_vae.runs import UNKNOWN
from ppl_vae.studies import Member, Study
from ppl_vae.study_page import on_gpu, page, reduced, table, value_at

if TYPE_CHECKING:
    import xarray as xr

PICTURES = ("along.png", "kl_gaps.png", "training.png", "curves.png")


class Count(NamedTuple):
    """Numbers of rows; a row is done when all its seeds are.

    Attributes:
        rows: of the table.
        done: trained and evaluated.
        reduced: of those, by less than the study's own protocol.
        off_gpu: of all rows, those that no GPU has trained.
        begun: not done, but something of them is there.
        untouched: not begun.
    """

    rows: int
    done: int
    reduced: int
    off_gpu: int
    begun: int
    untouched: int


@dataclass(frozen=True)
class Standing:
    """What a study has so far.

    Attributes:
        study: read.
        members: every run that was asked for.
        told: {a run's folder: its evaluation}, of those that are done.
        begun: {a run's folder: epochs trained}, of those that are not.
        command: that makes it.
        stopped: those that were stopped when the time was up.
    """

    study: Study
    members: Sequence[Member]
    told: Mapping[str, Mapping[str, Any]]
    begun: Mapping[str, int]
    command: str = ""
    stopped: Sequence[Member] = ()

    def table(self) -> str:
        """Every member's row, with "-" where nothing is known yet."""
        study = self.study
        return table(list(self.told.values()), study.columns, study.published, list(self._rows()))

    def page(self, pictures: Sequence[str] = ()) -> str:
        """The table with its source, command, protocol and hours, and what it lacks."""
        about = (self.study.name, self.study.description, self.study.source)
        told = list(self.told.values())
        return page(*about, told, self.table(), self.command, pictures, self.notes())

    def notes(self) -> list[str]:
        """Which rows have not run yet, and which have not on a GPU."""
        missing = [text for runs in self._rows().values() for text in self._missing(runs)]
        lines = [f"Not run yet: {', '.join(missing)}."] if missing else []
        slow = self._off_gpu()
        if len(slow) == len(self._rows()) and not any(UNKNOWN in text for text in slow):
            return [*lines, "No GPU run yet: every row."]
        return [*lines, f"No GPU run yet: {', '.join(slow)}."] if slow else lines

    def count(self) -> Count:
        """How many rows stand where."""
        rows, done, begun, less = self._rows(), 0, 0, 0
        for runs in rows.values():
            told = [self.told[run.folder] for run in runs if run.folder in self.told]
            whole = len(told) == len(runs)
            done += whole
            less += whole and any(map(reduced, told))
            begun += not whole and bool(told or any(run.folder in self.begun for run in runs))
        numbers = (len(rows), done, less, len(self._off_gpu()), begun)
        return Count(*numbers, untouched=len(rows) - done - begun)

    def _rows(self) -> dict[str, list[Member]]:
        """A row's runs, one a seed."""
        rows: dict[str, list[Member]] = {}
        for member in self.members:
            rows.setdefault(member.name, []).append(member)
        return rows

    def _missing(self, runs: Sequence[Member]) -> list[str]:
        """A row's runs that are not done; the row's name for all of them."""
        left = [run for run in runs if run.folder not in self.told]
        if len(left) == len(runs) and not any(run.folder in self.begun for run in runs):
            return [runs[0].name]
        return [run.folder + self._epochs(run) for run in left]

    def _epochs(self, run: Member) -> str:
        if run.folder not in self.begun:
            return ""
        return f" (at epoch {self.begun[run.folder]} of {run.recipe.training.epochs})"

    def _off_gpu(self) -> list[str]:
        """Rows that no GPU has trained, as far as was kept."""
        found = []
        for name, runs in self._rows().items():
            told = [self.told[run.folder] for run in runs if run.folder in self.told]
            devices = [one.get("device", UNKNOWN) for one in told]
            if not any(map(on_gpu, devices)):
                found.append(f"{name} (device {UNKNOWN})" if UNKNOWN in devices else name)
        return found


def write(
    standing: Standing,
    out: Path,
    histories: Mapping[str, xr.Dataset],
    pictures: Sequence[str] = PICTURES,
) -> None:
    """The comparison's files; pictures where there are runs to draw.

    Args:
        standing: of the study.
        out: its folder.
        histories: {a run's folder: its history} of those that are done.
        pictures: of the page, as far as they are in the folder.
    """
    from ppl_vae.runs import write_atomically

    study, told = standing.study, list(standing.told.values())
    whole = {"study": study.name, "description": study.description, "members": told}
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "study.json", json.dumps(whole, indent=2).encode())
    write_atomically(out / "table.md", f"{standing.table()}\n".encode())
    if histories:
        _draw(study, out, told, dict(histories))
    shown = [name for name in pictures if told and (out / name).exists()]
    write_atomically(out / "page.md", standing.page(shown).encode())


def _draw(
    study: Study, out: Path, told: Sequence[Mapping[str, Any]], histories: dict[str, Any]
) -> None:
    from evaluation import figures
    from evaluation.latent_figures import side_by_side
    from evaluation.study_figures import along, kl_gaps

    side_by_side(histories, out / "training.png")
    figures.compare_curves(histories, out / "curves.png")
    if all("valid_kl" in history and history.sizes["site"] for history in histories.values()):
        kl_gaps(histories, out / "kl_gaps.png")
    for title, at in study.along.items():
        columns = {name: place for name, place in study.columns.items() if isinstance(place, str)}
        along(title, points(told, at, columns), out / "along.png")


def points(
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
