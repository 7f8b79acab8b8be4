"""Predictive checks: pixel mean, stroke width and connected components of replicated images.

A hundred images with a hundred replicas each, and as many images from the prior: half a minute,
most of it for the statistics.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge", "ready"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.errors import UsageError
from ppl_vae.judging.choosing import once
from ppl_vae.judging.subject import Finding, Subject

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.page import Chapter

NAME = "predictive"


@dataclass(frozen=True)
class Settings:
    """Args:
    images: the first of those asked about, at most.
    draws: replicated sets of them.
    """

    images: int = 100
    draws: int = 100


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where there would be nothing to compare."""
    for name, value in (("images", settings.images), ("draws", settings.draws)):
        if value < 2:
            raise UsageError(f"predictive.{name}: expected at least 2, came {value}")


def judge(subject: Subject, settings: Settings) -> Finding:
    """Replicas from the posterior and from the prior against the data."""
    import xarray as xr

    from evaluation.predictive import plot_predictive, predictive_p_values, predictive_tree

    ready(subject, settings)
    images = once(subject.images, subject.seed)
    images = images.take(min(settings.images, len(images)))
    programs, drawn = subject.programs, subject.drawn
    posterior = programs.replicates(*subject.pair, images, settings.draws, **drawn)
    prior = programs.simulate(subject.model, settings.draws * len(images), **drawn)["x"]
    prior = np.asarray(prior).reshape(settings.draws, *images.images.shape)
    tree = predictive_tree(images.images, posterior, prior)
    p = predictive_p_values(tree)
    picture = plot_predictive(tree, subject.figures / "predictive.png")
    tree["p_values"] = xr.DataTree(p)
    names = [str(name) for name in p["statistic"].values]
    told = {
        "images": len(images),
        "draws": settings.draws,
        "extreme": {name: float(p["extreme"].sel(statistic=name)) for name in names},
        "p_mean": {
            source: {
                name: float(p["p_set"].sel(source=source, moment="mean", statistic=name))
                for name in names
            }
            for source in ("posterior", "prior")
        },
        "p_same": {name: float(p["p_same"].sel(statistic=name)) for name in names},
    }
    return Finding(NAME, tree, _chapter(tree, p, told, picture), told)


def _chapter(tree: xr.DataTree, p: xr.Dataset, told: dict[str, Any], picture: Any) -> Chapter:
    from evaluation.comparison import Number, Row
    from evaluation.page import Chapter, Picture, Table
    from evaluation.predictive import TAIL

    rows: list[Row] = []
    for name in told["extreme"]:
        one = p.sel(statistic=name)
        values = {
            group: tree[group][name]
            for group in ("observed_data", "posterior_predictive", "prior_predictive")
        }
        rows.append(
            {
                "statistic": name,
                **{
                    column: Number(float(value.mean()), float(value.std()), decimals=3)
                    for column, value in zip(
                        ("data", "posterior", "prior"), values.values(), strict=True
                    )
                },
                "% images extreme": Number(100 * float(one["extreme"]), decimals=1),
                "p of mean, posterior": Number(
                    float(one["p_set"].sel(source="posterior", moment="mean"))
                ),
                "p of mean, prior": Number(float(one["p_set"].sel(source="prior", moment="mean"))),
                "p data = prior": _p(float(one["p_same"])),
            }
        )
    text = (
        f"{told['images']} images, and {told['draws']} sets of as many replicated ones: from "
        "p(x | z) with z from the guide's posterior of each image, and from the model's prior. A "
        "p-value is the share of replicas above the data, ties by half: near 0 or 1 the replicas "
        "miss. Posterior ones crowd around one half where all is well; of the prior's, those of "
        "single images are uniform.",
    )
    note = (
        f"mean ± standard deviation over images; extreme: posterior p within {TAIL} of 0 or 1; "
        "p data = prior: Kolmogorov-Smirnov"
    )
    shown = [Picture(picture, "Statistics over images: the data, and sets replicated by the guide")]
    return Chapter("Predictive checks", text, [Table(rows, note)], shown)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
