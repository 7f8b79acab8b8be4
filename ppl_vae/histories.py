"""A run's history: one row an epoch.

An xarray.Dataset over `step` (the optimiser's, at each epoch's end), `site` (z1 first)
and `bound` (lowest, highest). Means over an epoch's images, under the weights as they were:
`elbo` (divergence weight 1), `log_likelihood`, `kl`; nats per image, `elbo` higher is better.

At an epoch's end, of the first training images and under one draw of the sites above: the lowest
and highest `posterior_loc` and `posterior_scale`, and how many units are active, by the variance
over images of their posterior means (`active_units`, Burda et al. 2015) and by their mean
divergence (`active_units_kl`), either above 0.01. Where latents are discrete: how many positions
have each code (`code_counts`, over `site` and `code`), how many codes have any (`used_codes`), and
the perplexity of the counts.
"""

from __future__ import annotations

__all__ = ["ACTIVE", "code_use", "history_of", "rows_of"]

from typing import Any

import numpy as np
import xarray as xr

from ppl_vae.codebooks import perplexity

ACTIVE = 0.01  # a unit's least variance of means, or least nats of divergence, to count as active

UNITS = {
    "elbo": "nats per image",
    "loss": "nats per image",
    "log_likelihood": "nats per image",
    "kl": "nats per image",
    "valid_elbo": "nats per image",
    "valid_log_likelihood": "nats per image",
    "valid_kl": "nats per image",
    "kl_weight": "1",
    "learning_rate": "1",
    "grad_norm": "nats per image per unit of weight",
    "skipped": "steps in the epoch",
    "images_per_second": "1 / s",
    "seconds": "s",
    "posterior_loc": "latent units",
    "posterior_scale": "latent units",
    "active_units": "1",
    "active_units_kl": "1",
    "code_counts": "positions",
    "used_codes": "codes",
    "perplexity": "codes",
}
DIMS = {
    "kl": ("step", "site"),
    "valid_kl": ("step", "site"),
    "posterior_loc": ("step", "site", "bound"),
    "posterior_scale": ("step", "site", "bound"),
    "active_units": ("step", "site"),
    "active_units_kl": ("step", "site"),
    "code_counts": ("step", "site", "code"),
    "used_codes": ("step", "site"),
    "perplexity": ("step", "site"),
}


def code_use(counts: dict[str, Any], sites: tuple[str, ...]) -> dict[str, np.ndarray]:
    """History's rows of {site: (K,) positions with each code}; NaN where a site has no such code.

    Nothing where no site is discrete.
    """
    if not counts:
        return {}
    table = np.full((len(sites), max(len(part) for part in counts.values())), np.nan)
    for site, part in counts.items():
        if site in sites:
            table[sites.index(site), : len(part)] = part
    used = np.where(np.isnan(table).all(1), np.nan, (table > 0).sum(1))
    shares = np.nan_to_num(table).T
    return {
        "code_counts": table,
        "used_codes": used,
        "perplexity": np.where(np.isnan(used), np.nan, perplexity(shares)),
    }


def history_of(rows: list[dict[str, Any]], sites: tuple[str, ...]) -> xr.Dataset:
    """The Dataset of epochs' rows.

    Args:
        rows: {"epoch" | "step" | a variable: value} of each epoch; NaN stands for a variable that
            some epochs lack, as those of a run that another version began.
        sites: latent ones, z1 first.

    Returns:
        See the module's docstring; each variable tells its unit.
    """
    names = [name for name in UNITS if any(name in row for row in rows)]
    data = {
        name: (
            DIMS.get(name, ("step",)),
            _column(rows, name),
            {"units": UNITS[name], "long_name": name.replace("_", " ")},
        )
        for name in names
    }
    coords = {
        "step": np.array([row["step"] for row in rows], dtype=np.int64),
        "epoch": ("step", np.array([row["epoch"] for row in rows], dtype=np.int64)),
        "site": list(sites),
        "bound": ["lowest", "highest"],
    }
    return xr.Dataset(data, coords)


def _column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    blank = next(np.full(np.shape(row[name]), np.nan) for row in rows if name in row)
    return np.array([row.get(name, blank) for row in rows])


def rows_of(history: xr.Dataset) -> list[dict[str, Any]]:
    """Rows {name: number or array}, one an epoch, that `history_of` makes this Dataset of."""
    names = ["epoch", *history.data_vars]
    return [
        {"step": int(step), **{name: history[name].values[i] for name in names}}
        for i, step in enumerate(history["step"].values)
    ]
