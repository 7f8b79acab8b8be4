"""The papers' tables, ours beside theirs, in pieces: one page of what stands and what does not.

    python -m benchmarks.papers --minutes 9                      # given again and again
    python -m benchmarks.papers --tables burda-2015 --share 0.01 # a hundredth of every row's epochs

Goes through the tables in order, a folder each below --out; finished rows are left as they are, an
unfinished one goes on from its last checkpoint. A table that cannot be done here (data that are
not there) is named with its reason, and the next one is begun. The page says of every table how
many rows are done, reduced, without a GPU run, or not begun, and holds each with its source,
command, protocol and hours. Exit status: 0 once all rows are done, 1 while some are missing, 2 for
arguments that are wrong.
"""

from __future__ import annotations

__all__ = ["TABLES", "main"]

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from benchmarks import beta_table
from ppl_vae import studies, studying
from ppl_vae.cli import Parser
from ppl_vae.errors import TrainingError, UsageError, nearest
from ppl_vae.judging import CHECKS
from ppl_vae.runs import write_atomically
from ppl_vae.seeds import read_seeds
from ppl_vae.standing import Count, Standing
from ppl_vae.studies import Study
from ppl_vae.studying import Asked
from ppl_vae.typed import room

SWEEP = beta_table.STUDY.name
TABLES = (
    "burda-2015",
    "sonderby-2016",
    "deep-mnist",
    "gulrajani-2017",
    "oord-2017",
    "codes-mnist",
    SWEEP,
)
HEADS = ("table", "rows", "done", "reduced", "without a GPU run", "begun", "not begun")
LEGEND = (
    "A row is done once all its seeds have been trained and evaluated; reduced, as its table says, "
    "if by less than the whole protocol. Without a GPU run are all that a CPU has trained, or "
    "nothing yet. What papers report stands in columns of its own."
)


@dataclass
class Table:
    """One of the tables.

    Attributes:
        asked: its study, and what of it.
        runner: what has `work` and `stands` for it.
        stands: how far it has come.
        why: it cannot be done here; "" as far as is known.
    """

    asked: Asked
    runner: ModuleType
    stands: Standing
    why: str = ""

    def work(self, minutes: float | None, jobs: int) -> None:
        """Do what time allows."""
        try:
            self.stands = self.runner.work(self.asked, minutes, jobs)
        except (UsageError, TrainingError) as error:
            self.why = " ".join(str(error).split())
            self.stands = self.runner.stands(self.asked)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 once every row is done, 1 while rows are missing, 2 for wrong arguments."""
    try:
        options = _options(arguments)
        tables = _tables(options)
        page = options.page or options.out / "papers.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        _go_through(tables, options, page)
    except UsageError as error:
        print(f"papers: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"papers: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"papers: error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    print("\n".join([*_summary(tables), f"page: {page}"]))
    return 0 if all(_is_done(table) for table in tables) else 1


def _go_through(tables: Sequence[Table], options: argparse.Namespace, page: Path) -> None:
    """Work in order until the time is up; the page is written after every table."""
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    _write(tables, options, page)
    for table in tables:
        left = None if end is None else (end - time.monotonic()) / 60
        if left is not None and left <= 0:
            break
        table.work(left, options.jobs)
        _write(tables, options, page)


def _is_done(table: Table) -> bool:
    count = table.stands.count()
    return count.done == count.rows


def _tables(options: argparse.Namespace) -> list[Table]:
    """Every table that was asked for, its arguments checked, nothing trained."""
    room(options.ppl)
    names = options.tables or TABLES
    for name in names:
        if name not in TABLES:
            raise UsageError(f"--tables: unknown {name!r}: {nearest(name, TABLES)}")
    read = [beta_table.STUDY if name == SWEEP else studies.read(name) for name in names]
    for change in options.overrides:
        check = change.partition(".")[0]
        if check in CHECKS and not any(check in study.checks for study in read):
            raise UsageError(f"--set {change}: no table has the check {check}")
    return [_table(study, options) for study in read]


def _table(study: Study, options: argparse.Namespace) -> Table:
    asked = studying.ask(
        study,
        options.out / study.name,
        options.ppl,
        _changes(study, options.overrides),
        options.seeds,
        _command(options, [study.name]),
        options.share,
    )
    runner = beta_table if study is beta_table.STUDY else studying
    return Table(asked, runner, runner.stands(asked))


def _changes(study: Study, changes: Sequence[str]) -> list[str]:
    """Without settings of checks that the study does not have."""
    checks = {change: change.partition(".")[0] for change in changes}
    return [one for one, check in checks.items() if check not in CHECKS or check in study.checks]


def _write(tables: Sequence[Table], options: argparse.Namespace, page: Path) -> None:
    own = f" --page {shlex.quote(str(options.page))}" if options.page else ""
    lines = ["# The papers' tables", "", f"    {_command(options, options.tables)}{own}", ""]
    lines += [LEGEND, "", *_summary(tables), ""]
    for table in tables:
        folder = table.asked.out
        lines += [f"#{table.stands.page().rstrip()}", ""]
        if table.why:
            lines += [f"Not all of it could be done: {table.why}", ""]
        if (folder / "page.md").exists():
            link = os.path.relpath(folder / "page.md", page.parent)
            lines += [f"Pictures, runs and numbers: [{link}]({link})", ""]
    write_atomically(page, ("\n".join(lines).rstrip() + "\n").encode())


def _summary(tables: Sequence[Table]) -> list[str]:
    """A row a table, their sum, and the tables that cannot be done."""
    counts = [(table.asked.study.name, table.stands.count()) for table in tables]
    whole = Count(*(sum(numbers) for numbers in zip(*(c for _, c in counts), strict=True)))
    rows = [f"| {name} | {' | '.join(map(str, c))} |" for name, c in (*counts, ("all", whole))]
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|", *rows]
    stuck = [f"- {table.asked.study.name}: {table.why}" for table in tables if table.why]
    return [*lines, "", "Cannot be done here, or not all of it:", "", *stuck] if stuck else lines


def _command(options: argparse.Namespace, names: Sequence[str]) -> str:
    """The command for some tables, with all that was asked for."""
    words = ["python", "-m", "benchmarks.papers"]
    words += ["--tables", *names] if names else []
    words += ["--ppl", options.ppl, "--out", str(options.out)]
    words += ["--share", f"{options.share:g}"] if options.share != 1 else []
    words += ["--minutes", f"{options.minutes:g}"] if options.minutes is not None else []
    words += ["--jobs", str(options.jobs)] if options.jobs != 1 else []
    words += ["--seeds", ",".join(map(str, options.seeds))] if options.seeds else []
    words += [word for change in options.overrides for word in ("--set", change)]
    return shlex.join(words)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.papers", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", nargs="+", default=[], metavar="NAME", help=", ".join(TABLES))
    parser.add_argument("--ppl", choices=("numpyro", "pyro"), default="numpyro")
    parser.add_argument("--share", type=float, default=1.0, help="of every row's epochs (1)")
    parser.add_argument("--minutes", type=float, help="of all tables together; begin no row later")
    parser.add_argument("--jobs", type=int, default=1, help="runs of a table trained at once (1)")
    parser.add_argument("--seeds", default="", metavar="N1,N2", help="in the place of the tables'")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/papers"), help="a folder a table")
    parser.add_argument("--page", type=Path, help="the page (OUT/papers.md)")
    options = parser.parse_args(arguments)
    options.seeds = read_seeds(options.seeds)
    if options.jobs < 1:
        raise UsageError(f"--jobs: expected a whole number of at least 1, came {options.jobs}")
    if options.minutes is not None and not options.minutes > 0:
        raise UsageError(f"--minutes: expected a number above 0, came {options.minutes:g}")
    page = options.page or options.out / "papers.md"
    if page.is_dir():
        raise UsageError(
            f"--page: expected a file, came the folder {page}: name a file in it, such as "
            f"{page / 'papers.md'}"
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
