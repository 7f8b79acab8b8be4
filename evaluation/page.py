"""One evaluation as a page: a self-contained HTML file of tables, figures and warnings.

A page is a list of chapters, one a check; each check makes its own and knows nothing of HTML.
"""

from __future__ import annotations

__all__ = ["Chapter", "Picture", "Table"]

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evaluation.comparison import Row


@dataclass(frozen=True)
class Table:
    """Rows of named cells (`evaluation.comparison.Row`); `note` says units, signs and errors."""

    rows: Sequence[Row]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG file and what it shows."""

    path: Path
    caption: str


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
