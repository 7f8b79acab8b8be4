r"""What the ELBO falls short by, taken apart (Cremer, Li & Duvenaud 2018, arXiv 1801.03558).

.. math:: \log p(x) - L[q] = \underbrace{\log p(x) - L[q^*]}_{\text{approximation}} +
    \underbrace{L[q^*] - L[q]}_{\text{amortisation}}

q is the guide's answer for an image, q* the best of its family for that image alone. In place of
log p(x) stands the best lower bound that is at hand, so the approximation part is one from below.
"""

from __future__ import annotations

__all__ = ["family_label", "gap_figure", "gap_parts"]

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from evaluation._canvas import BLUE, ORANGE, drawing, save
from ppl_vae.errors import UsageError


def gap_parts(bounds: Mapping[str, Any], elbo: Any, local: Mapping[str, Any]) -> xr.Dataset:
    """Approximation and amortisation gap of each image, for each local family.

    Args:
        bounds: {name: (image,)}, nats: lower bounds of log p(x). The one with the highest mean
            stands for log p(x): one bound for all images, since a choice for each image would
            choose by chance.
        elbo: (image,), nats, of the guide.
        local: {family: (image,)}, nats: ELBO of the guide's answer optimised for the image.

    Returns:
        `approximation`, `amortization`, `local_elbo` (family, image), `log_likelihood`, `elbo`,
        `total` (image,); `…_mean` and `…_se` of the gaps over images (ddof = 1). The bound
        chosen is the attribute `bound` of `log_likelihood`.

    Raises:
        UsageError: no bound, no family, or arrays of different length.
    """
    if not bounds or not local:
        raise UsageError("gap_parts: expected one bound and one family or more, came none")
    elbo = np.asarray(elbo, dtype=np.float64)
    given = {"elbo": elbo, **bounds, **local}
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in given.items()}
    for name, array in arrays.items():
        if array.shape != elbo.shape or elbo.ndim != 1 or not len(elbo):
            raise UsageError(
                f"{name}: expected (image,), as many as elbo has, came {array.shape} and "
                f"{elbo.shape}"
            )
    best = max(bounds, key=lambda name: arrays[name].mean())
    log_p, q_star = arrays[best], np.stack([arrays[name] for name in local])
    result = xr.Dataset(
        {
            "approximation": (("family", "image"), log_p - q_star),
            "amortization": (("family", "image"), q_star - elbo),
            "local_elbo": (("family", "image"), q_star),
            "log_likelihood": ("image", log_p, {"bound": best}),
            "elbo": ("image", elbo),
            "total": ("image", log_p - elbo),
        },
        coords={"family": list(local), "image": np.arange(len(elbo))},
        attrs={"reference": "Cremer et al. 2018, arXiv 1801.03558"},
    )
    for name, tells in _TELLS.items():
        result[name].attrs.update(units="nats per image", long_name=tells)
    for name in ("approximation", "amortization", "total"):
        gap = result[name]
        result[f"{name}_mean"] = gap.mean("image")
        result[f"{name}_se"] = (
            gap.std("image", ddof=1) / math.sqrt(len(elbo))
            if len(elbo) > 1
            else xr.full_like(gap.mean("image"), math.nan)
        )
        for kind, of in (("mean", f"mean over images of {name}"), ("se", "its standard error")):
            result[f"{name}_{kind}"].attrs = {"units": "nats per image", "long_name": of}
    return result


def family_label(family: str) -> str:
    """A family's name in words."""
    return family.replace("_", " ").replace("iaf", "IAF")


def gap_figure(gaps: xr.Dataset, path: str | Path, *, title: str = "") -> Path:
    """Mean gap of each family as a bar of its two parts."""
    families = [str(name) for name in gaps["family"].values]
    first, second = gaps["approximation_mean"].values, gaps["amortization_mean"].values
    with drawing(6.4, 1.3 + 0.6 * len(families)) as figure:
        ax = figure.subplots()
        at = np.arange(len(families))
        ax.barh(at, first, 0.55, color=BLUE, label="approximation", xerr=gaps["approximation_se"])
        ax.barh(
            at,
            second,
            0.55,
            np.maximum(first, 0.0),
            color=ORANGE,
            label="amortisation",
            xerr=gaps["amortization_se"],
        )
        ax.set_yticks(at, [family_label(name) for name in families])
        ax.invert_yaxis()
        ax.set_xlabel("nats per image below the best bound of log p(x)")
        ax.set_title(title or "What the ELBO falls short by")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.12), ncols=2)
        return save(figure, path)


_TELLS = {
    "approximation": "log p(x) by its best bound, less the locally optimised ELBO",
    "amortization": "locally optimised ELBO less the guide's",
    "local_elbo": "ELBO of the guide's answer optimised for each image, higher is better",
    "log_likelihood": "log p(x) by its best lower bound, higher is better",
    "elbo": "ELBO of the guide, higher is better",
    "total": "log p(x) by its best bound, less the guide's ELBO",
}
