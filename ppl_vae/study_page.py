"""A study's table, and the page with all that a reader needs to believe it, or to do it again."""

from __future__ import annotations

__all__ = ["on_gpu", "page", "reduced", "table", "value_at"]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppl_vae.runs import THEN, UNKNOWN

PROTOCOL = {  # of an evaluation, by key
    "data": "data",
    "binarisation": "binarisation",
    "split": "split",
    "num_images": "images",
    "num_samples": "K",
    "ppl": "PPL",
    "weights": "weights",
    "seed": "seed",
    "device": "trained on",
}


def page(
    title: str,
    description: str,
    source: str,
    told: Sequence[Mapping[str, Any]],
    rows: str,
    command: str,
    pictures: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """Markdown: what, from where, the command, the table, the protocol of every row, pictures.

    A row whose training had less than its whole protocol is named with what it had.

    Args:
        title, description, source: of the study.
        told: evaluations of its runs.
        rows: the table.
        command: that made it.
        pictures: files beside the page.
        notes: lines about rows that are not there yet, or not as they should be.
    """
    lines = [f"# {title}", "", description, "", f"Source: {source}", "", f"    {command}", ""]
    lines += [rows, "", *(_protocol(told) if told else ["No row is done yet."]), ""]
    lines += [line for note in [*notes, *_short(told)] for line in (note, "")]
    lines += [f"![{name.partition('.')[0].replace('_', ' ')}]({name})" for name in pictures]
    return "\n".join(lines).rstrip() + "\n"


def _protocol(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """What all rows share in a sentence, what differs by row in a table."""
    values = {
        name: [one.get(key) for one in told] for key, name in PROTOCOL.items() if key in told[0]
    }
    shared = {name: column[0] for name, column in values.items() if len(set(column)) == 1}
    told_once = "; ".join(f"{name} {value}" for name, value in shared.items())
    lines = [f"Every row: {told_once}. {_hours(told)}"]
    differing = [name for name in values if name not in shared]
    if differing:
        lines += ["", f"| run | {' | '.join(differing)} |", "|---" * (1 + len(differing)) + "|"]
        for i, one in enumerate(told):
            cells = " | ".join(str(values[name][i]) for name in differing)
            lines.append(f"| {one['member']} | {cells} |")
    return lines


def _hours(told: Sequence[Mapping[str, Any]]) -> str:
    hours = [one.get("hours") for one in told]
    known = [part for part in hours if part is not None]
    if len(known) < len(hours):
        return "How long training took was not kept."
    return f"Training steps took {sum(known):.2g} hours, all runs together."


def _short(told: Sequence[Mapping[str, Any]]) -> list[str]:
    names: dict[str, dict[str, None]] = {}
    for one in told:
        if less := reduced(one):
            names.setdefault(less, {})[str(one["member"])] = None
    cut = "; ".join(f"{less} ({', '.join(some)})" for less, some in names.items())
    return [f"Not the whole protocol: {cut}."] if cut else []


def reduced(one: Mapping[str, Any]) -> str:
    """How far a run got where its study's protocol has more; "" for a whole one.

    >>> reduced({"epochs": 3, "full_epochs": 2000, "cut": "K = 2 of 5000"})
    '3 of 2000 epochs, K = 2 of 5000'
    """
    less = one["epochs"] < one["full_epochs"]
    epochs = f"{one['epochs']} of {one['full_epochs']} epochs" if less else ""
    return ", ".join(part for part in (epochs, one.get("cut", "")) if part)


def on_gpu(device: str) -> bool:
    """Whether a run's device, or one of them, was a GPU.

    >>> on_gpu("cpu"), on_gpu("not kept"), on_gpu("cpu, then NVIDIA H100 80GB HBM3")
    (False, False, True)
    """
    return any(part not in ("cpu", UNKNOWN) for part in device.split(THEN))


def table(
    told: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str | list[str]],
    published: Mapping[str, Mapping[str, float]] | None = None,
    rows: Sequence[str] = (),
) -> str:
    """A row a member, Markdown; with several seeds mean ± standard deviation (ddof = 1).

    Args:
        told: evaluations, each with its `member`.
        columns: {title: dotted place in an evaluation, or several}; see `ppl_vae.studies`. A
            place that holds a number a site stands for their sum, with `.*` behind it for each.
        published: {title: {member: number}} of another's work.
        rows: members that have a row, in this order, with an evaluation or without: "-".

    >>> told = [{"member": "a", "kl": {"z1": 3.0}}, {"member": "a", "kl": {"z1": 5.0}}]
    >>> print(table(told, {"KL": "kl.z1"}))
    | member | KL          |
    |--------|-------------|
    | a      | 4.00 ± 1.41 |
    """
    groups: dict[str, list[Mapping[str, Any]]] = {name: [] for name in rows}
    for one in told:
        groups.setdefault(str(one["member"]), []).append(one)
    others = published or {}
    written = [["member", *columns, *others]]
    for name, group in groups.items():
        cells = [_cell(group, place) for place in columns.values()]
        theirs = [f"{found[name]:g}" if name in found else "" for found in others.values()]
        written.append([name, *cells, *theirs])
    widths = [max(map(len, column)) for column in zip(*written, strict=True)]
    lines = [
        "| " + " | ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) + " |"
        for row in written
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cell(group: Sequence[Mapping[str, Any]], places: str | list[str]) -> str:
    if not group:
        return "-"
    if isinstance(places, str) and places.endswith(".*"):
        return _by_name(group, places.removesuffix(".*"))
    several = [places] if isinstance(places, str) else places
    return " … ".join(_figure([value_at(one, place) for one in group]) for place in several)


def _by_name(group: Sequence[Mapping[str, Any]], place: str) -> str:
    """The numbers below a place, as those by site, one after another."""
    held: Any = group[0]
    for key in place.split("."):
        held = held.get(key) if isinstance(held, Mapping) else None
    if not isinstance(held, Mapping) or not held:
        return "-"
    return ", ".join(_figure([value_at(one, f"{place}.{key}") for one in group]) for key in held)


def _figure(values: list[Any]) -> str:
    """One value or its mean ± standard deviation over seeds; "-" where one is not known."""
    if any(value is None for value in values):
        return "-"
    if not all(isinstance(value, int | float) for value in values):
        return str(values[0]) if len(set(map(str, values))) == 1 else "-"
    if len(values) == 1:
        return str(values[0]) if isinstance(values[0], int) else _rounded(values[0])
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    if deviation == 0 and isinstance(values[0], int):
        return str(values[0])
    return f"{_rounded(mean)} ± {_rounded(deviation)}"


def _rounded(value: float) -> str:
    """Two decimals, or two significant digits where those would be nothing."""
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def value_at(tree: Any, place: str) -> Any:
    """The value at a dotted place, numbers by name (as those by site) summed; None for none."""
    for key in place.split("."):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    if isinstance(tree, Mapping):
        values = list(tree.values())
        return sum(values) if all(isinstance(value, int | float) for value in values) else None
    return tree
