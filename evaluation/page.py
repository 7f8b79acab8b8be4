"""One evaluation as a page: a self-contained HTML file of tables, figures and warnings.

A page is a list of chapters, one a check; each check makes its own and knows nothing of HTML.
`write_page` puts them into one file that needs nothing beside it, neither script nor network: the
style stands in it (`page.css`), pictures are data URIs. All text is escaped.
"""

from __future__ import annotations

__all__ = ["Chapter", "Code", "Picture", "Table", "write_page"]

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from itertools import count
from pathlib import Path

from evaluation._canvas import write_whole
from evaluation.comparison import Cell, Number, Row
from ppl_vae.errors import UsageError

_UPRIGHT_ROWS, _UPRIGHT_COLUMNS = 4, 8  # up to so many rows of more columns are turned
_MANY = 9  # columns; above it paper is turned on its side
_PNG = b"\x89PNG\r\n\x1a\n"


class Code(str):
    """Text to be set as code: a command."""


@dataclass(frozen=True)
class Table:
    """Rows of named cells (`evaluation.comparison.Row`); `note` says units, signs and errors.

    `title` heads it where one chapter has several.
    """

    rows: Sequence[Row]
    note: str = ""
    title: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG file and what it shows; `alt` says it to whoever cannot see it, else the caption."""

    path: Path
    caption: str
    alt: str = ""


@dataclass(frozen=True)
class Chapter:
    """What one check found, told in words, tables and pictures.

    Attributes:
        title: such as "Likelihood".
        text: paragraphs, plain text: what was measured, under which protocol, and how to read it.
        tables, pictures: in the order in which they are read.
        warnings: one sentence each, of what must not be overlooked; set off on the page.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    warnings: Sequence[str] = field(default=())


def write_page(
    path: str | Path, title: str, facts: Mapping[str, Cell], chapters: Sequence[Chapter]
) -> Path:
    """Write the page to `path`, whole or not at all, and give `path`.

    Args:
        path: of the HTML file.
        title: of the page.
        facts: the protocol, which comes first: {what: value}; `Code` is set as a command.
        chapters: in the order in which they are read.

    Raises:
        UsageError: a picture is not there, or no PNG.
    """
    numbers = count(1)
    anchors = _anchors(chapter.title for chapter in chapters)
    contents = "".join(
        f'<li><a href="#{anchor}">{escape(chapter.title)}</a></li>'
        for anchor, chapter in zip(anchors, chapters, strict=True)
    )
    sections = "\n".join(
        _chapter(chapter, anchor, numbers)
        for anchor, chapter in zip(anchors, chapters, strict=True)
    )
    page = _PAGE.format(
        title=escape(title),
        style=resources.files("evaluation").joinpath("page.css").read_text(encoding="utf-8"),
        contents=contents,
        facts="".join(
            f"<dt>{escape(name)}</dt><dd>{_fact(value)}</dd>\n"
            for name, value in facts.items()
            if value is not None
        ),
        sections=sections,
    )
    return write_whole(Path(path), page.encode("utf-8"))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the numbers</a>
<header><h1>{title}</h1></header>
<nav aria-label="Chapters"><ol><li><a href="#protocol">Protocol</a></li>{contents}</ol></nav>
<main id="main">
<section id="protocol" aria-labelledby="protocol-title">
<h2 id="protocol-title">Protocol</h2>
<dl>
{facts}</dl>
</section>
{sections}
</main>
</body>
</html>
"""


def _chapter(chapter: Chapter, anchor: str, numbers: Iterator[int]) -> str:
    parts = [
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">',
        f'<h2 id="{anchor}-title">{escape(chapter.title)}</h2>',
        *(
            f'<p class="warning" role="note"><strong>Note:</strong> {escape(text)}</p>'
            for text in chapter.warnings
        ),
        *(f"<p>{escape(text)}</p>" for text in chapter.text),
        *(_table(table, next(numbers)) for table in chapter.tables if table.rows),
        *(_picture(picture, next(numbers)) for picture in chapter.pictures),
        "</section>",
    ]
    return "\n".join(parts)


def _table(table: Table, number: int) -> str:
    """A table in a box of its own; few rows of many columns stand upright."""
    rows = table.rows
    columns = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if any(row.get(name) is not None for row in rows)
    ]
    if len(columns) > (_UPRIGHT_COLUMNS if len(rows) > 1 else 2) and len(rows) <= _UPRIGHT_ROWS:
        head, body = _upright(rows, columns)
        width = 1 + len(rows)
    else:
        head, body = _lying(rows, columns)
        width = len(columns)
    label = f"table-{number}"
    lines = [
        f"<span{quiet}>{escape(text)}</span>"
        for text, quiet in ((table.title, ""), (table.note, ' class="note"'))
        if text
    ]
    caption = "".join(lines) or '<span class="note">Numbers</span>'
    return (
        f'<div class="wide{" many" if width > _MANY else ""}" role="region" tabindex="0" '
        f'aria-labelledby="{label}">\n<table>\n<caption id="{label}">{caption}</caption>\n'
        f"{head}<tbody>\n{body}</tbody>\n</table>\n</div>"
    )


def _lying(rows: Sequence[Row], columns: Sequence[str]) -> tuple[str, str]:
    """One line a row; the run, or else the first column, names it."""
    first = "run" if "run" in columns else columns[0]
    numeric = {name: all(_is_number(row.get(name)) for row in rows) for name in columns}
    cells = "".join(f'<th scope="col"{_right(numeric[c])}>{escape(c)}</th>' for c in columns)
    body = ""
    for row in rows:
        line = "".join(
            f'<th scope="row">{_text(row.get(name))}</th>'
            if name == first
            else f"<td{_right(numeric[name])}>{_text(row.get(name))}</td>"
            for name in columns
        )
        body += f"<tr{_mean(row)}>{line}</tr>\n"
    return f"<thead><tr>{cells}</tr></thead>\n", body


def _upright(rows: Sequence[Row], columns: Sequence[str]) -> tuple[str, str]:
    """One line a column of the table, one column a row of it."""
    first = "run" if "run" in columns else columns[0]
    numeric = len(rows) > 1
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td{_right(numeric)}>{_text(row.get(name))}</td>" for row in rows)
        + "</tr>\n"
        for name in columns
        if name != first or len(rows) == 1
    )
    if len(rows) == 1:
        return "", body
    cells = "".join(f'<th scope="col" class="number">{_text(row.get(first))}</th>' for row in rows)
    return f'<thead><tr><th scope="col">{escape(first)}</th>{cells}</tr></thead>\n', body


def _picture(picture: Picture, number: int) -> str:
    """A picture with a box of its own, which on a narrow screen shows it in full size if asked."""
    try:
        data = Path(picture.path).read_bytes()
    except OSError as error:
        raise UsageError(f"picture: {picture.path}: {error.strerror}: draw it again") from error
    if not data.startswith(_PNG):
        raise UsageError(f"picture: expected a PNG file, came {picture.path}: draw it again")
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    source = base64.b64encode(data).decode("ascii")
    return (
        f'<figure>\n<input type="checkbox" class="zoom" id="zoom-{number}">'
        f'<label for="zoom-{number}">Full size</label>\n'
        f'<div class="frame"><img src="data:image/png;base64,{source}" width="{width}" '
        f'height="{height}" alt="{escape(picture.alt or picture.caption)}"></div>\n'
        f"<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"
    )


def _fact(value: Cell) -> str:
    return f"<code>{escape(value)}</code>" if isinstance(value, Code) else _text(value)


def _text(cell: Cell) -> str:
    return "–" if cell is None else escape(str(cell))


def _is_number(cell: Cell) -> bool:
    return cell is None or isinstance(cell, Number | int)


def _right(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _mean(row: Row) -> str:
    """Rows of a mean over seeds stand out."""
    return (
        ' class="mean"' if any(str(cell).startswith("mean ± sd") for cell in row.values()) else ""
    )


def _anchors(titles: Iterator[str]) -> list[str]:
    """An id for each chapter, from its title, none twice."""
    taken = {"protocol", "main"}
    anchors = []
    for title in titles:
        plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "chapter"
        anchor = next(
            name
            for name in (plain, *(f"{plain}-{i}" for i in range(2, len(taken) + 3)))
            if name not in taken
        )
        taken.add(anchor)
        anchors.append(anchor)
    return anchors
