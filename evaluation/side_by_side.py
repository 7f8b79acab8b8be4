"""Runs side by side as a page: a chapter for each protocol, for the pictures, for each check."""

from __future__ import annotations

__all__ = ["comparison_page"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.check_tables import compare_checks
from evaluation.comparison import (
    HERE,
    Cell,
    Number,
    Row,
    Section,
    compare,
    said_once,
    sites_down,
)
from evaluation.page import Chapter, Picture, Table, write_page
from evaluation.published import Published, with_published

_LIKELIHOOD = (
    "-L_K: -log p(x) by the bound L_K, nats per image, lower is better; each K is a bound of its "
    "own. ± is the "
    "standard error over images, in rows of a mean the standard deviation over seeds. ELBO: L_1, "
    "nats per image, higher is better. % k > 0.7: share of images whose Pareto k is above 0.7, "
    "where L_K rests on few samples and still moves with K."
)
_SITES = "KL by site, nats per image, in brackets active units; z1 is nearest the data."
_SOURCE = (
    "Rows of another source than “measured here” are papers' numbers; none of them was measured by "
    "this project."
)


def comparison_page(
    path: str | Path,
    evaluations: Sequence[Mapping[str, Any]],
    *,
    published: Sequence[Published] = (),
    pictures: Sequence[Picture] = (),
    facts: Mapping[str, Cell] | None = None,
) -> Path:
    """Write the page to `path`, whole or not at all, and give `path`.

    Args:
        evaluations: what `ppl-vae evaluate` keeps in evaluation.json, one or more.
        published: from `published_numbers`.
        pictures: such as those of `figures.compare_likelihoods` and `figures.compare_curves`.
        facts: what else the head of the page says.
    """
    sections = with_published(compare(evaluations), published)
    chapters = [_of_section(section) for section in sections]
    if pictures:
        chapters.append(Chapter("Pictures", pictures=pictures))
    chapters += _of_checks(evaluations)
    about: dict[str, Cell] = {
        "runs": len(evaluations),
        "protocols": len({section.protocol for section in compare(evaluations)}),
        "reading": "Runs share a table only under one protocol (data set, binarisation, split, "
        "number of images), and a column only where the bound and its K are the same.",
    }
    return write_page(path, "Runs side by side", about | dict(facts or {}), chapters)


def _of_section(section: Section) -> Chapter:
    shared, rows = said_once(section.rows)
    text = [_said(shared)] if shared else []
    if any(row.get("source", HERE) != HERE for row in section.rows):
        text.append(_SOURCE)
    tables = [Table(rows, _LIKELIHOOD)]
    if section.sites:
        tables.append(Table(sites_down(section.sites), _SITES, "Divergence by site"))
    return Chapter(section.protocol.text, text, tables, warnings=_warnings(section))


def _of_checks(evaluations: Sequence[Mapping[str, Any]]) -> list[Chapter]:
    """A chapter for each check; each protocol and each choice of its settings has a table."""
    chapters: dict[str, list[Table]] = {}
    for check in compare_checks(evaluations):
        shared, rows = said_once(check.rows)
        _, _, settings = check.title.partition(f"{check.protocol.text} · ")
        note = " · ".join(filter(None, [settings, _said(shared)]))
        table = Table(rows, note, check.protocol.text)
        chapters.setdefault(check.check, []).append(table)
    return [Chapter(f"Check: {name}", tables=tables) for name, tables in chapters.items()]


def _warnings(section: Section) -> list[str]:
    """One line for the runs with images of a Pareto k above 0.7."""
    bad = [
        f"{Section.label(row)} {cell} %"
        for row in section.rows
        if row.get("run") != "mean ± sd"
        for name, cell in row.items()
        if name.startswith("% k") and isinstance(cell, Number) and cell.value > 0
    ]
    if not bad:
        return []
    return [f"Images with Pareto k above 0.7, where L_K is a loose bound: {'; '.join(bad)}."]


def _said(shared: Row) -> str:
    if not shared:
        return ""
    return "All runs: " + " · ".join(f"{name} {cell}" for name, cell in shared.items()) + "."
