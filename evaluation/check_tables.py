"""What the checks found in several runs, side by side: a table for each check.

Two evaluations share a table of a check only where protocol and the check's settings are the same:
a bound by 100 temperatures is another bound than one by 1000.
"""

from __future__ import annotations

__all__ = ["CheckTable", "compare_checks"]

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.comparison import (
    PROTOCOL,
    Cell,
    Number,
    Protocol,
    Row,
    about,
    by_setting,
    mean_row,
    protocol_of,
)

_MANY = 8  # entries of one name, such as sites
_MOST_DECIMALS = 6


@dataclass(frozen=True)
class CheckTable:
    """One check under one protocol and one choice of its settings."""

    check: str
    protocol: Protocol
    settings: Mapping[str, Any]
    rows: list[Row]

    @property
    def title(self) -> str:
        """Check, protocol and settings in one line."""
        given = {name: value for name, value in self.settings.items() if value is not None}
        settings = ", ".join(f"{name} {_plain(value)}" for name, value in given.items())
        return " · ".join(filter(None, [self.check, self.protocol.text, settings]))


def compare_checks(
    evaluations: Sequence[Mapping[str, Any]], *, means: bool = True
) -> list[CheckTable]:
    """Tables of the checks' numbers, in order of first appearance; none where no check was made.

    Protocol first, then what names the run, then the check's numbers; `name_se` becomes the error
    of `name`, and what is nested has its names joined. With `means`, seeds of one setting are
    followed by mean ± standard deviation (ddof = 1).

    Args:
        evaluations: as of `compare`.

    Raises:
        UsageError: an evaluation with checks that lacks its figure or its protocol.
    """
    groups: dict[str, tuple[str, Protocol, list[Mapping[str, Any]]]] = {}
    for evaluation in evaluations:
        for check in evaluation.get("checks") or {}:
            protocol = protocol_of(evaluation)
            key = str((check, protocol, sorted(_settings(evaluation, check).items())))
            groups.setdefault(key, (check, protocol, []))[2].append(evaluation)
    order = list(dict.fromkeys(check for check, _, _ in groups.values()))
    tables = [
        CheckTable(check, protocol, _settings(members[0], check), _rows(check, members, means))
        for check, protocol, members in groups.values()
    ]
    return sorted(tables, key=lambda table: order.index(table.check))


def _rows(check: str, members: Sequence[Mapping[str, Any]], means: bool) -> list[Row]:
    names = list(dict.fromkeys(name for member in members for name in about(member)))
    numbers = [dict(_flat(member["checks"][check])) for member in members]
    columns = list(
        dict.fromkeys(c for n in numbers for c in n if not (c.endswith(" se") and c[:-3] in n))
    )
    decimals = {column: _decimals([n.get(column) for n in numbers]) for column in columns}
    rows: list[Row] = []
    for group in by_setting(members):
        new = [
            _row(member, names, dict(_flat(member["checks"][check])), decimals) for member in group
        ]
        rows += sorted(new, key=lambda row: (row.get("seed") is None, _order(row.get("seed"))))
        seeds = {row["seed"] for row in new if row.get("seed") is not None}
        if means and len(seeds) == len(new) > 1:
            rows.append(mean_row(new))
    return rows


def _row(
    member: Mapping[str, Any],
    names: Sequence[str],
    numbers: Mapping[str, Any],
    decimals: Mapping[str, int],
) -> Row:
    row: Row = dict(zip(PROTOCOL, protocol_of(member), strict=True))
    row |= {name: _cell(member.get(name), None, 2) for name in names}
    row |= {
        column: _cell(numbers.get(column), numbers.get(f"{column} se"), decimals[column])
        for column in decimals
    }
    return row


def _settings(evaluation: Mapping[str, Any], check: str) -> dict[str, Any]:
    return dict((evaluation.get("check_settings") or {}).get(check) or {})


def _flat(told: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of all that is told, however deep it is nested.

    What is told of more sites than a table has room for is drawn together.
    """
    for name, value in told.items():
        joined = re.sub(r"_(?!\d)", " ", f"{above} {name}".strip())  # L_1000 stays what it is
        if isinstance(value, Mapping) and len(value) > _MANY:
            yield joined, _together(list(value.values()))
        elif isinstance(value, Mapping):
            yield from _flat(value, joined)
        else:
            yield joined, value


def _together(values: Sequence[Any]) -> str:
    """How many of them are so, or between what they lie.

    >>> _together([True, False, True]), _together([0.5, 2, 1.25])
    ('2 of 3', '0.5 to 2')
    """
    if all(isinstance(value, bool) for value in values):
        return f"{sum(values)} of {len(values)}"
    numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if not numbers:
        return f"{len(values)} values"
    return f"{min(numbers):.3g} to {max(numbers):.3g}"


def _decimals(values: Sequence[Any]) -> int:
    """Two, or for a column of small numbers enough for three figures of the largest."""
    sizes = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v) and v]
    if not sizes or max(sizes) >= 1:
        return 2
    return min(_MOST_DECIMALS, 2 - math.floor(math.log10(max(sizes))))


def _cell(value: Any, error: Any, decimals: int) -> Cell:
    if isinstance(value, bool) or value is None or isinstance(value, int | str):
        return _plain(value) if isinstance(value, bool) else value
    if isinstance(value, float):
        spread = float(error) if isinstance(error, int | float) else None
        return Number(value, spread, decimals) if math.isfinite(value) else None
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _order(seed: Cell) -> float:
    return float(seed) if isinstance(seed, int) else 0.0
