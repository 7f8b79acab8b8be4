"""Telling it: one evaluation as a plain dict (the JSON of `ppl-vae evaluate`), or as tables."""

from __future__ import annotations

__all__ = ["compare", "summary", "table"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from evaluation.check_tables import compare_checks
from evaluation.comparison import KEYS, Cell, Row, Section, compare, said_once, sites_down
from evaluation.published import Published, with_published
from ppl_vae.errors import UsageError

_NOTE = (
    "-L_K: -log p(x) by the bound L_K in nats per image, ± standard error over images, lower is "
    "better. "
    "ELBO: nats per image, higher is better."
)


def summary(
    result: xr.Dataset,
    *,
    kl: Mapping[str, Any],
    active_units: xr.Dataset | Mapping[str, int],
    data: str,
    binarisation: str,
    split: str,
    **about: str | int | float | None,
) -> dict[str, Any]:
    """One evaluation as plain Python values, ready for strict JSON: exactly `KEYS`, then `about`.

    Args:
        result: from `importance_weighted_nll`.
        kl: {site: nats per image}, numbers or one value an image, which are averaged.
        active_units: from `active_units`, or {site: count}.
        data, binarisation, split: the protocol, beside the number of images.
        about: whatever names the run in tables (run, recipe, ppl, weights, seed ...), after the
            twelve keys.

    What is not known (a standard error of one image, Pareto's k below 25 samples) is None.

    Raises:
        UsageError: `about` has a name of `KEYS`.
    """
    if clash := set(about) & set(KEYS):
        raise UsageError(
            f"about: {', '.join(sorted(clash))} are measured, not given: choose other names"
        )
    if isinstance(active_units, xr.Dataset):
        counts = active_units["active_units"]
        active_units = dict(
            zip(map(str, counts["site"].values), counts.values.tolist(), strict=True)
        )
    return {
        "nll": _plain(result["nll_mean"]),
        "nll_se": _plain(result["nll_se"]),
        "elbo": _plain(result["elbo_mean"]),
        "num_samples": int(result["num_samples"]),
        "num_images": int(result["num_images"]),
        "bits_per_dim": _plain(result["bits_per_dim"]) if "bits_per_dim" in result else None,
        "kl": {
            site: _plain(np.mean(np.asarray(value, dtype=np.float64))) for site, value in kl.items()
        },
        "active_units": {site: int(count) for site, count in active_units.items()},
        "pareto_k_bad": _plain(result["pareto_k_bad"]),
        "data": data,
        "binarisation": binarisation,
        "split": split,
        **about,
    }


def table(
    evaluations: Sequence[Mapping[str, Any]],
    *,
    style: str = "text",
    published: Sequence[Published] = (),
) -> str:
    """`compare` as text, or with `style="markdown"` for a page: a table for each protocol.

    A table for each check follows; numbers from papers (`published_numbers`) stand beside those
    measured where protocol and bound are the same.

    Raises:
        UsageError: another style; and see `compare`.
    """
    if style not in ("text", "markdown"):
        raise UsageError(f"style: expected text or markdown, came {style!r}")
    sections = with_published(compare(evaluations), published)
    parts = [_text(section, style) for section in sections]
    for check in compare_checks(evaluations):
        parts += [check.title, _rows(check.rows, style)]
    return "\n\n".join(parts)


def _text(section: Section, style: str) -> str:
    """One protocol's tables, and what their columns are."""
    parts = [_rows(section.rows, style), _NOTE]
    if section.sites:
        sites = sites_down(section.sites)
        parts += ["KL by site, nats per image (active units)", _render(sites, style)]
    return "\n\n".join(parts)


def _rows(rows: list[Row], style: str) -> str:
    """A table: what all rows share is said above, a single row stands upright."""
    if len(rows) == 1 and style == "text":
        width = max(map(len, rows[0]))
        lines = [f"{k.ljust(width)}  {_show(v)}" for k, v in rows[0].items() if v is not None]
        return "\n".join(lines)
    shared, rows = said_once(rows)
    above = " · ".join(f"{name} {cell}" for name, cell in shared.items())
    return "\n\n".join(filter(None, [above, _render(rows, style)]))


def _render(rows: Sequence[Row], style: str) -> str:
    columns = [
        c
        for c in dict.fromkeys(c for row in rows for c in row)
        if any(row.get(c) is not None for row in rows)
    ]
    cells = [[_show(row.get(column)) for column in columns] for row in rows]
    right = [all(not isinstance(row.get(c), str) for row in rows) for c in columns]
    widths = [max(map(len, [c, *(line[i] for line in cells)])) for i, c in enumerate(columns)]

    def line(values: Sequence[str]) -> str:
        padded = [
            v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)
        ]
        return f"| {' | '.join(padded)} |" if style == "markdown" else "  ".join(padded).rstrip()

    if style == "markdown":
        rule = (
            "|"
            + "|".join(
                "-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)
            )
            + "|"
        )
    else:
        rule = "  ".join("-" * w for w in widths)
    return "\n".join([line(columns), rule, *map(line, cells)])


def _show(cell: Cell) -> str:
    return "-" if cell is None else str(cell)


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
