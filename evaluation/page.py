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
_BROAD, _MANY = 32, 110  # letters in a line: more than a phone has, more than a screen has
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
            f'<p class="warning" role="note"><strong>Warning:</strong> {escape(text)}</p>'
            for text in chapter.warnings
        ),
        *(f"<p>{escape(text)}</p>" for text in chapter.text),
        *(_table(table, chapter.title, next(numbers)) for table in chapter.tables if table.rows),
        *(_picture(picture, next(numbers)) for picture in chapter.pictures),
        "</section>",
    ]
    return "\n".join(parts)


@dataclass(frozen=True)
class _Grid:
    """A table as it is drawn: `names` of its columns (none: no head), lines of cells.

    The cell at `header` names its line.
    """

    names: Sequence[str]
    lines: Sequence[Sequence[Cell]]
    header: int = 0
    means: Sequence[bool] = ()

    @property
    def numeric(self) -> list[bool]:
        """Columns of numbers alone, but for the one that names the lines."""
        return [
            i != self.header and all(c is None or isinstance(c, Number | int) for c in column)
            for i, column in enumerate(zip(*self.lines, strict=True))
        ]

    @property
    def letters(self) -> int:
        """About how many letters a line needs, long texts being broken."""
        names = self.names or [""] * len(self.lines[0])
        columns = zip(names, zip(*self.lines, strict=True), strict=True)
        widths = [max(len(name) // 2, *(len(_text(c)) for c in cells)) for name, cells in columns]
        return sum(min(width, 20) + 2 for width in widths)


def _table(table: Table, chapter: str, number: int) -> str:
    """A table below its note, in a box of its own.

    Where it has no title, the chapter's is its caption for those who listen to the page. What is
    too broad for a phone (or for any screen: for a narrower one) is stacked there by the style.
    """
    grid = _grid(table.rows)
    label = f"table-{number}"
    broad = " broad" if grid.letters > _BROAD else ""
    many = " many" if grid.letters > _MANY else ""
    hidden = "" if table.title else ' class="hidden"'
    note = f'<p class="note" id="{label}-note">{escape(table.note)}</p>\n' if table.note else ""
    described = f' aria-describedby="{label}-note"' if table.note else ""
    head = "".join(
        f'<th role="columnheader" scope="col"{_right(right)}>{_broken(name)}</th>'
        for name, right in zip(grid.names, grid.numeric, strict=False)
    )
    means = grid.means or [False] * len(grid.lines)
    body = "\n".join(_line(grid, *each) for each in zip(grid.lines, means, strict=True))
    return (
        f'{note}<div class="wide{broad}{many}" role="region" tabindex="0" '
        f'aria-labelledby="{label}">\n<table role="table"{described}>\n'
        f'<caption id="{label}"{hidden}>{escape(table.title or chapter)}</caption>\n'
        + (f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n' if head else "")
        + f'<tbody role="rowgroup">\n{body}\n</tbody>\n</table>\n</div>'
    )


def _grid(rows: Sequence[Row]) -> _Grid:
    """The table as its rows stand, or on its side where few rows have many columns."""
    columns = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if any(row.get(name) is not None for row in rows)
    ]
    first = "run" if "run" in columns else columns[0]
    lines = [[row.get(name) for name in columns] for row in rows]
    if len(rows) == 1 and len(columns) > 2:
        return _Grid([], list(zip(columns, lines[0], strict=True)))
    if len(columns) > _UPRIGHT_COLUMNS and len(rows) <= _UPRIGHT_ROWS:
        names = [first, *(_plain(row.get(first)) for row in rows)]
        return _Grid(names, [[n, *(row.get(n) for row in rows)] for n in columns if n != first])
    means = [any(str(cell).startswith("mean ± sd") for cell in line) for line in lines]
    return _Grid(columns, lines, columns.index(first), means)


def _line(grid: _Grid, cells: Sequence[Cell], mean: bool) -> str:
    names = grid.names or [""] * len(cells)
    parts = []
    for i, (name, right, cell) in enumerate(zip(names, grid.numeric, cells, strict=True)):
        if i == grid.header:
            parts.append(f'<th role="rowheader" scope="row">{_broken(_plain(cell))}</th>')
            continue
        kind = " ".join(w for w, so in (("number", right), ("none", cell is None)) if so)
        kind = f' class="{kind}"' if kind else ""
        named = f' data-name="{escape(name)}"' if name else ""
        parts.append(f'<td role="cell"{kind}{named}>{_text(cell)}</td>')
    return f'<tr role="row"{" class=mean" if mean else ""}>{"".join(parts)}</tr>'


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


def _plain(cell: Cell) -> str:
    return "–" if cell is None else str(cell)


def _text(cell: Cell) -> str:
    text = _plain(cell)
    return escape(text) if isinstance(cell, Number | int) else _broken(text)


def _broken(text: str) -> str:
    """Text that may be broken behind each part of a path."""
    return escape(text).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _right(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


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
