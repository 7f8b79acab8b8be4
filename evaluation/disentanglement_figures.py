"""Pictures of disentanglement: which unit knows which factor, and a metric against beta."""

from __future__ import annotations

__all__ = ["beta_sweep", "units_by_factor"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from evaluation._canvas import GREY, PALETTE, drawing, save
from ppl_vae.errors import UsageError

_MOST_UNITS = 40
TITLES = {
    "higgins": "Higgins",
    "factor_vae": "FactorVAE",
    "mig": "MIG",
    "modularity": "modularity",
    "sap": "SAP",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
}


def units_by_factor(found: xr.Dataset, path: str | Path) -> Path:
    """Mutual information of every unit and factor, as a share of the factor's entropy.

    Args:
        found: what `evaluation.disentanglement_scores` gives; of more than 40 units those are
            shown that know most of any factor.
        path: of the PNG.
    """
    share = (found.mutual_information / found.entropy).transpose("factor", "unit")
    if share.sizes["unit"] > _MOST_UNITS:
        best = np.argsort(-share.max("factor").values, kind="stable")[:_MOST_UNITS]
        share = share.isel(unit=np.sort(best))
    width = max(4.6, 2.2 + 0.42 * share.sizes["unit"])
    with drawing(width, 1.6 + 0.42 * share.sizes["factor"]) as figure:
        ax = figure.subplots()
        picture = ax.imshow(share.values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        ax.set_title("What each unit knows of each factor")
        ax.set_xticks(range(share.sizes["unit"]), share.unit.values, rotation=90)
        ax.set_yticks(range(share.sizes["factor"]), share.factor.values)
        ax.grid(False)
        figure.colorbar(picture, label="I / H")
        return save(figure, path)


def beta_sweep(
    sweep: xr.Dataset, path: str | Path, metrics: Sequence[str] = ("higgins", "factor_vae", "mig")
) -> Path:
    """Metrics against beta_norm, mean ± standard deviation over seeds, reconstruction below.

    Args:
        sweep: `score` (metric, beta_norm, seed), `chance` likewise, and `log_likelihood`
            (beta_norm, seed), nats per image.
        path: of the PNG.
        metrics: those drawn.
    """
    missing = [metric for metric in metrics if metric not in sweep.metric.values]
    if missing:
        raise UsageError(f"metrics: the sweep has no {missing[0]!r}: leave it out, or measure it")
    with drawing(6.4, 6.4) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        for metric, colour in zip(metrics, PALETTE, strict=False):
            part = sweep.sel(metric=metric)
            _band(top, part.score, colour, TITLES.get(metric, metric))
            top.plot(sweep.beta_norm, part.chance.mean("seed"), ":", color=colour, lw=1)
        top.set_title("Disentanglement (dotted: chance)")
        top.set_ylabel("score, 1 at best")
        top.set_ylim(-0.02, 1.03)
        top.legend()
        _band(bottom, sweep.log_likelihood, GREY, None)
        bottom.set_title("Reconstruction, log p(x | z)")
        bottom.set_ylabel("nats per image")
        bottom.set_xscale("log")
        bottom.set_xlabel(f"beta_norm; mean ± sd of {sweep.sizes['seed']} seeds")
        return save(figure, path)


def _band(ax: Axes, values: xr.DataArray, colour: Any, label: str | None) -> None:
    mean = values.mean("seed")
    sd = values.std("seed", ddof=1) if values.sizes["seed"] > 1 else 0 * mean
    ax.plot(values.beta_norm, mean, "o-", ms=4, color=colour, label=label)
    ax.fill_between(values.beta_norm, mean - sd, mean + sd, color=colour, alpha=0.18, lw=0)
