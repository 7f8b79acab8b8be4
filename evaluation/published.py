"""Likelihoods that papers publish, beside those measured here.

`published.yaml` holds numbers whose bound, K and protocol the paper states, each with its source.
A published number shares a table only with runs of the same protocol, and a column only with the
same bound and K: an ELBO never stands below L_5000.
"""

from __future__ import annotations

__all__ = ["Published", "published_numbers", "with_published"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from evaluation.comparison import HERE, PROTOCOL, Number, Protocol, Row, Section
from ppl_vae.errors import UsageError, nearest

TABLE = Path(__file__).with_name("published.yaml")

_GROUP = {  # what each group of the file says of all its rows
    "source": str, "read": str, "data": str, "binarisation": str, "split": str, "num_images": int,
    "num_samples": int, "rows": list,
}  # fmt: skip
_ROW = {"model": str, "nll": float, "elbo": float, "active_units": str}
_OPTIONAL = ("num_samples", "nll", "elbo", "active_units")
_READ = {"paper": "paper", "secondary": "paper, by a secondary source"}


@dataclass(frozen=True)
class Published:
    """One number of a paper.

    Attributes:
        model: as the paper names it.
        source: authors, year, identifier, table; "paper: " before it.
        protocol: under which it was measured.
        figures: its columns as in `Section.rows`: -L_K (nats, lower is better), ELBO
            (nats, higher is better), active.
    """

    model: str
    source: str
    protocol: Protocol
    figures: Row


def published_numbers(path: str | Path | None = None) -> list[Published]:
    """The numbers of a YAML or JSON table, the project's own where no path is given.

    Raises:
        UsageError: no such file, or what it says is no table of this form.
    """
    path = TABLE if path is None else Path(path)
    if path.is_dir():
        raise UsageError(
            f"--published: expected a YAML or JSON table, came the folder {path}: "
            "put --published after the runs"
        )
    try:
        groups = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such table: give a YAML or JSON file") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise UsageError(f"{path}: neither YAML nor JSON ({problem}): mend it") from error
    if not isinstance(groups, list) or not groups:
        raise UsageError(
            f"{path}: expected a list of groups of numbers, came {_said(groups)}: "
            f"write it as {TABLE.name} of the folder evaluation is"
        )
    return [
        number
        for i, group in enumerate(groups, start=1)
        for number in _numbers(group, f"{path}, group {i}")
    ]


def with_published(sections: Sequence[Section], published: Sequence[Published]) -> list[Section]:
    """Sections with the published numbers of their data sets, in a column `source` told apart.

    Numbers of a protocol that no run has follow in sections of their own.
    """
    wanted = {section.protocol.data for section in sections}
    by_protocol: dict[Protocol, list[Published]] = {}
    for number in published:
        if number.protocol.data in wanted:
            by_protocol.setdefault(number.protocol, []).append(number)
    placed = [_beside(section, by_protocol.pop(section.protocol, [])) for section in sections]
    others = [Section(protocol, [], []) for protocol in by_protocol]
    return placed + [_beside(section, by_protocol[section.protocol]) for section in others]


def _beside(section: Section, numbers: Sequence[Published]) -> Section:
    """One section with rows added; every row has every column."""
    if not numbers:
        return section
    theirs: list[Row] = [
        {
            **dict(zip(PROTOCOL, number.protocol, strict=True)),
            "run": number.model,
            "source": number.source,
            **number.figures,
        }
        for number in numbers
    ]
    ours: list[Row] = []
    for row in section.rows:
        first = {name: row.get(name) for name in (*PROTOCOL, "run")}
        ours.append({**first, "source": HERE, **row})
    rows = ours + theirs
    names = list(dict.fromkeys(name for row in rows for name in row))
    bounds = [name for name in names if name.startswith("-L_")]
    bounds.sort(key=lambda name: int(name[3:]))
    ordered = [name for name in names if name not in (*bounds, "ELBO")]
    after = (i for i, name in enumerate(ordered) if name.startswith(("bits/dim", "active")))
    at = next(after, len(ordered))
    ordered[at:at] = [*bounds, *(["ELBO"] if "ELBO" in names else [])]
    return replace(section, rows=[{name: row.get(name) for name in ordered} for row in rows])


def _numbers(group: Any, where: str) -> list[Published]:
    group = _checked(group, _GROUP, where)
    if (read := group["read"]) not in _READ:
        raise UsageError(f"{where}: read: unknown {read!r}: {nearest(read, _READ)}")
    protocol = Protocol(*(group[name] for name in Protocol._fields))
    source = f"{_READ[read]}: {group['source']}"
    numbers = []
    for i, entry in enumerate(group["rows"], start=1):
        row = _checked(entry, _ROW, f"{where}, row {i}")
        figures: Row = {}
        if "nll" in row:
            if "num_samples" not in group:
                raise UsageError(f"{where}: nll without num_samples: add the K of L_K to the group")
            figures[f"-L_{group['num_samples']}"] = Number(float(row["nll"]))
        if "elbo" in row:
            figures["ELBO"] = Number(float(row["elbo"]))
        if not figures:
            raise UsageError(f"{where}, row {i}: expected nll or elbo, came neither: add one")
        if "active_units" in row:
            figures["active"] = row["active_units"]
        numbers.append(Published(row["model"], source, protocol, figures))
    return numbers


def _said(tree: Any) -> str:
    """What YAML held, in its own words."""
    if isinstance(tree, dict):
        return f"a mapping of {', '.join(map(str, list(tree)[:6])) or 'nothing'}"
    return "nothing" if not tree else f"{tree!r:.60}"


def _checked(tree: Any, expected: Mapping[str, type], where: str) -> dict[str, Any]:
    """A mapping with the keys expected and values of their types; UsageError otherwise."""
    if not isinstance(tree, dict):
        raise UsageError(f"{where}: expected {', '.join(expected)}, came {tree!r}")
    for key in tree:
        if key not in expected:
            raise UsageError(f"{where}: unknown key {key!r}: {nearest(str(key), expected)}")
    for key, kind in expected.items():
        if key not in tree and key not in _OPTIONAL:
            raise UsageError(f"{where}: lacks {key}: add it, no number stands without its protocol")
        kinds = (int, float) if kind is float else kind
        if key in tree and (not isinstance(tree[key], kinds) or isinstance(tree[key], bool)):
            raise UsageError(f"{where}: {key}: expected {kind.__name__}, came {tree[key]!r}")
        if kind is int and key in tree and tree[key] < 1:
            raise UsageError(f"{where}: {key}: expected 1 or more, came {tree[key]}")
    return tree
