"""Evaluations side by side: what may share a column, and what may not.

A likelihood means something under its protocol only: data set, binarisation, split and number of
images. So each protocol has a section of its own with the protocol's columns first, and every K a
column of its own: L_100 and L_1000 are different bounds.
"""

from __future__ import annotations

__all__ = [
    "HERE",
    "KEYS",
    "PROTOCOL",
    "Cell",
    "Number",
    "Protocol",
    "Row",
    "Section",
    "about",
    "by_setting",
    "compare",
    "mean_row",
    "protocol_of",
    "said_once",
    "sites_down",
]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ppl_vae.errors import UsageError

KEYS = (
    "nll",
    "nll_se",
    "elbo",
    "num_samples",
    "num_images",
    "bits_per_dim",
    "kl",
    "active_units",
    "pareto_k_bad",
    "data",
    "binarisation",
    "split",
)
CHECKS = ("checks", "check_settings")
HERE = "measured here"  # a row's source, where papers' numbers stand beside it
_MANY_SITES = 8
PROTOCOL = ("data", "binarisation", "split", "images")


class Number(NamedTuple):
    """A figure in a table: value, error (standard error, or deviation over seeds) and decimals."""

    value: float
    error: float | None = None
    decimals: int = 2

    def __str__(self) -> str:
        if self.error is None and self.decimals > 4 and 0 < abs(self.value) < 10**-self.decimals:
            return f"{self.value:.0e}"  # a p-value, say, of which no decimal would be left
        error = "" if self.error is None else f" ± {self.error:.{self.decimals}f}"
        return f"{self.value:.{self.decimals}f}{error}"


Cell: TypeAlias = "Number | str | int | None"
Row: TypeAlias = "dict[str, Cell]"


class Protocol(NamedTuple):
    """Under what a likelihood was measured: only where all of it is equal, numbers may compare."""

    data: str
    binarisation: str
    split: str
    num_images: int

    @property
    def text(self) -> str:
        """In one line, to stand above a table."""
        images = f"{self.num_images} images"
        return f"{self.data} · binarisation {self.binarisation} · {self.split} · {images}"


@dataclass(frozen=True)
class Section:
    """All evaluations of one protocol: `rows` of figures, and KL and active units in `sites`."""

    protocol: Protocol
    rows: list[Row]
    sites: list[Row]

    @property
    def bounds(self) -> list[str]:
        """The -L_K columns, by rising K."""
        names = {name for row in self.rows for name in row if name.startswith("-L_")}
        return sorted(names, key=lambda name: int(name[3:]))

    @staticmethod
    def label(row: Row) -> str:
        """What names a row: its run, else whatever else was said of it."""
        other = (
            str(v)
            for k, v in row.items()
            if isinstance(v, str | int) and k not in (*PROTOCOL, "active")
        )
        return str(row.get("run") or " ".join(other) or "run")


def compare(evaluations: Sequence[Mapping[str, Any]], *, means: bool = True) -> list[Section]:
    """Evaluations side by side, one `Section` for each protocol, in order of first appearance.

    Evaluations that differ in nothing but `run` and `seed` are one setting: their seeds stand in
    neighbouring rows, and with `means` a row of mean ± standard deviation over seeds (ddof = 1)
    follows two or more.

    Args:
        evaluations: what `summary` gives, or `evaluate --json` prints.
        means: whether rows of means are wanted.

    Raises:
        UsageError: no evaluation, or one that lacks its figure or its protocol.
    """
    if not evaluations:
        raise UsageError(
            "evaluations: expected one or more (what evaluate --json prints), came none"
        )
    by_protocol: dict[Protocol, list[Mapping[str, Any]]] = {}
    for evaluation in evaluations:
        by_protocol.setdefault(protocol_of(evaluation), []).append(evaluation)
    return [_section(protocol, members, means) for protocol, members in by_protocol.items()]


def protocol_of(evaluation: Mapping[str, Any]) -> Protocol:
    """Under what an evaluation was measured; UsageError where it does not say."""
    wanted = ("nll", "num_samples", *Protocol._fields)
    if missing := [key for key in wanted if evaluation.get(key) is None]:
        raise UsageError(
            f"evaluations: {evaluation.get('run', 'one')} lacks {', '.join(missing)}: "
            "evaluate it again, figures without their protocol are not compared"
        )
    return Protocol(*(evaluation[key] for key in Protocol._fields))


def about(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What names an evaluation: run, recipe, ppl, weights, seed ..."""
    return {key: value for key, value in evaluation.items() if key not in (*KEYS, *CHECKS)}


def by_setting(members: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Evaluations that differ in nothing but run and seed, together."""
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for member in members:
        setting = str([(k, v) for k, v in about(member).items() if k not in ("run", "seed")])
        settings.setdefault(setting, []).append(member)
    return list(settings.values())


def mean_row(rows: Sequence[Row]) -> Row:
    """Mean ± standard deviation over the seeds of one setting, of the figures that all have."""
    mean: Row = {}
    for name, first in rows[0].items():
        cells = [cell for row in rows if isinstance(cell := row.get(name), Number)]
        if len(cells) == len(rows):
            values = [cell.value for cell in cells]
            spread = float(np.std(values, ddof=1))
            mean[name] = Number(float(np.mean(values)), spread, cells[0].decimals)
        elif name == "run":
            mean[name] = "mean ± sd"
        elif name == "seed":
            mean[name] = f"{len({row[name] for row in rows})} seeds"
        else:
            same = all(row.get(name) == first for row in rows)
            mean[name] = first if same and name != "active" else None
    if "run" not in mean:
        mean["seed"] = f"mean ± sd of {mean['seed']}"
    return mean


def said_once(rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """What all rows measured here share, and the rows without it.

    Protocol, run, seed and source stay in them.
    """
    measured = [row for row in rows if row.get("source", HERE) == HERE]
    shared: Row = {
        name: cell
        for name, cell in (measured[0] if measured else {}).items()
        if name not in (*PROTOCOL, "run", "seed", "source", "active")
        and isinstance(cell, str | int)
        and all(row.get(name) == cell for row in measured)
    }
    return shared, [{k: cell for k, cell in row.items() if k not in shared} for row in rows]


def sites_down(rows: list[Row]) -> list[Row]:
    """`Section.sites` turned on their side, runs as columns, where that makes them narrower."""
    sites = list(dict.fromkeys(site for row in rows for site in row if site != "run"))
    if len(rows) > 1 and len(sites) <= max(6, len(rows)):
        return rows
    names = [str(row["run"]) for row in rows] if len(rows) > 1 else ["KL (active)"]
    if len(set(names)) < len(names):
        names = [f"{name} ({i})" for i, name in enumerate(names, start=1)]
    turned: list[Row] = [{"site": site} for site in sites]
    for line in turned:
        line |= {n: row.get(str(line["site"])) for n, row in zip(names, rows, strict=True)}
    return turned


def _section(protocol: Protocol, members: list[Mapping[str, Any]], means: bool) -> Section:
    names = list(dict.fromkeys(name for member in members for name in about(member)))
    bounds = sorted({int(member["num_samples"]) for member in members})
    settings = [_runs(group) for group in by_setting(members)]
    most = sorted({int(run[-1]["num_samples"]) for runs in settings for run in runs})
    rows: list[Row] = []
    sites: list[Row] = []
    for runs in settings:
        new = [_row(protocol, run, names, bounds, most) for run in runs]
        rows += new
        for row, run in zip(new, runs, strict=True):
            if run[-1].get("kl"):
                cells: Row = {"run": Section.label(row)}
                sites.append(cells | _site_cells(run[-1]))
        seeds = {row["seed"] for row in new if row.get("seed") is not None}
        if means and len(seeds) == len(new) > 1:
            rows.append(mean_row(new))
    return Section(protocol, rows, sites)


def _runs(group: list[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """One setting's evaluations by seed; those of one run at several K together, by rising K."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for member in sorted(group, key=lambda m: (m.get("seed") is None, m.get("seed") or 0)):
        key = str(list(about(member).items()))
        measured = {e["num_samples"] for e in runs.get(key, [])}
        if not member.get("run") or member["num_samples"] in measured:
            key += f" {len(runs)}"  # another run for all we know, or measured twice
        runs.setdefault(key, []).append(member)
    return [sorted(run, key=lambda m: int(m["num_samples"])) for run in runs.values()]


def _row(
    protocol: Protocol,
    run: list[Mapping[str, Any]],
    names: list[str],
    bounds: list[int],
    most: list[int],
) -> Row:
    """One run's figures, from its evaluations by rising K.

    L_K comes from each of them, all else from the one with the most samples; where a section has
    several such K (`most`), what hangs on K has a column for each.
    """
    last = run[-1]
    row: Row = dict(zip(PROTOCOL, protocol, strict=True))
    row |= {name: _cell(last.get(name)) for name in names}
    row |= {f"-L_{k}": None for k in bounds}
    row |= {f"-L_{e['num_samples']}": Number(e["nll"], e.get("nll_se")) for e in run}
    elbo, bits, bad = (last.get(key) for key in ("elbo", "bits_per_dim", "pareto_k_bad"))
    row["ELBO"] = None if elbo is None else Number(elbo)
    row["active"] = _active(last.get("active_units") or {})
    for k in most:
        of_k = f", K = {k}" if len(most) > 1 else ""
        this = k == last["num_samples"]
        row[f"bits/dim{of_k}"] = Number(bits, decimals=3) if this and bits is not None else None
        share = Number(100 * bad, decimals=1) if this and bad is not None else None
        row[f"% k > 0.7{of_k}"] = share
    return row


def _active(counts: Mapping[str, int]) -> str | None:
    """Active units by site, z1 first; of a deep hierarchy their sum."""
    if len(counts) > _MANY_SITES:
        return f"{sum(counts.values())} in {len(counts)} sites"
    return "+".join(map(str, counts.values())) or None


def _site_cells(evaluation: Mapping[str, Any]) -> Row:
    active = evaluation.get("active_units") or {}
    return {
        site: f"{nats:.2f}" + (f" ({active[site]})" if site in active else "")
        for site, nats in evaluation["kl"].items()
        if nats is not None
    }


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, str | int):
        return value
    return f"{value:g}" if isinstance(value, float) else str(value)
