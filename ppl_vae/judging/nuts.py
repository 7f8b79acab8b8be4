"""The guide's posterior beside that of Markov chains, for a few images.

Four images, four chains each of 1500 iterations: minutes for perceptrons in NumPyro, which the
zoo's Pyro runs are carried over to; the chains of a pair of the user's own in Pyro run one after
the other.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge", "ready"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.chains import check_chains
from ppl_vae.judging.bounding import finite
from ppl_vae.judging.choosing import chosen, once
from ppl_vae.judging.subject import Finding, Subject
from ppl_vae.typed import room

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.comparison import Number
    from evaluation.page import Chapter

NAME = "nuts"


@dataclass(frozen=True)
class Settings:
    """Args:
    images: places of the images among those asked about.
    chains, warmup, draws: for each image; draws are those kept of a chain.
    max_tree_depth: at most 2 to that power leapfrog steps an iteration.
    units: shown of an image, those that the guide misses by most.
    """

    images: tuple[int, ...] = (0, 1, 2, 3)
    chains: int = 4
    warmup: int = 500
    draws: int = 1000
    max_tree_depth: int = 8
    units: int = 12


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where there are no such images, or a site has no gradients."""
    check_chains(settings.chains, settings.warmup, settings.draws, subject.batch_norm)
    chosen(subject.images, settings.images, "nuts.images")
    if subject.params is None:  # a module; plain functions are looked at on the way
        subject.programs.check_moves(subject.model)


def judge(subject: Subject, settings: Settings) -> Finding:
    """Chains, their convergence, and the guide against those that have converged."""
    import xarray as xr

    from evaluation.posterior import agreement, convergence, plot_forests, posterior_tree

    programs, pair, ppl = subject.programs, subject.pair, subject.ppl
    if ppl == "pyro" and subject.twin is not None:
        programs, pair, ppl = room("numpyro"), subject.twin(), "numpyro"
    chains = programs.nuts(
        *pair,
        chosen(once(subject.images, subject.seed), settings.images, "nuts.images"),
        num_chains=settings.chains,
        num_warmup=settings.warmup,
        num_draws=settings.draws,
        max_tree_depth=settings.max_tree_depth,
        **subject.drawn,
    )
    tree = posterior_tree(chains, images=settings.images)
    gate = convergence(tree)
    apart = agreement(tree, gate["converged"])
    pictures = plot_forests(
        tree, subject.figures, converged=gate["converged"], limit=settings.units
    )
    tree["convergence"], tree["agreement"] = xr.DataTree(gate), xr.DataTree(apart)
    told = {
        "images": list(settings.images),
        "converged": [bool(good) for good in gate["converged"].values],
        "rhat": float(gate["rhat"].max(skipna=False)),
        "ess_bulk": float(gate["ess_bulk"].min(skipna=False)),
        "sampled_in": ppl,
        "shift": _means(apart["shift"]),
        "ratio": _means(apart["ratio"]),
    }
    return Finding(NAME, tree, _chapter(gate, apart, told, pictures, settings), finite(told))


def _means(values: xr.DataArray) -> dict[str, float | None]:
    """Mean over converged images by site; None where there is none."""
    mean = values.mean("image")
    return {
        str(site): float(v) if np.isfinite(v) else None
        for site, v in zip(mean["site"].values, mean.values, strict=True)
    }


def _cell(value: xr.DataArray, decimals: int) -> Number | None:
    """A number, or nothing where it is none."""
    from evaluation.comparison import Number

    return Number(float(value), decimals=decimals) if np.isfinite(value) else None


def _chapter(
    gate: xr.Dataset, apart: xr.Dataset, told: dict[str, Any], pictures: Any, settings: Settings
) -> Chapter:
    from evaluation.comparison import Number, Row
    from evaluation.page import Chapter, Picture, Table
    from evaluation.posterior import ESS_GATE, RHAT_GATE

    rows: list[Row] = []
    for image in gate["image"].values:
        one = gate.sel(image=image)
        row: Row = {
            "image": int(image),
            "verdict": "converged" if bool(one["converged"]) else "not converged",
            "R-hat": _cell(one["rhat"].max(skipna=False), decimals=3),
            "bulk ESS": _cell(one["ess_bulk"].min(skipna=False), decimals=0),
        }
        if "divergences" in one:
            row["divergences"] = int(one["divergences"])
        for site in apart["site"].values if bool(one["converged"]) else ():
            values = apart.sel(image=image, site=site)
            row[f"{site} shift"] = Number(float(values["shift"]))
            row[f"{site} ratio"] = Number(float(values["ratio"]))
        rows.append(row)
    stuck = [str(row["image"]) for row in rows if row["verdict"] == "not converged"]
    text = (
        f"NUTS on p(z | x): {settings.chains} chains an image from draws of the guide, "
        f"{settings.warmup} iterations of warm-up and {settings.draws} draws each, in "
        f"{told['sampled_in']}. Chains count as converged where every unit has rank-normalised "
        f"R-hat below {RHAT_GATE} and bulk effective sample size above {ESS_GATE:g}; others are "
        "compared with nothing.",
        "Shift: root mean square over units of the guide's mean less the chains', in the chains' "
        "standard deviations, 0 where exact. Ratio: median over units of the guide's standard "
        "deviation over the chains', 1 where exact.",
    )
    warnings = (
        [f"The chains of image {', '.join(stuck)} have not converged: nothing is said of them."]
        if stuck
        else []
    )
    caption = "Guide and chains, image {}: the units that the guide misses by most"
    shown = [Picture(path, caption.format(image)) for image, path in pictures.items()]
    note = "R-hat is the highest, bulk ESS the lowest over units; neither where a chain stood still"
    return Chapter("Guide against NUTS", text, [Table(rows, note)], shown, warnings)
