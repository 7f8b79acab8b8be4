"""Check `ais`: log p(x) of test images bounded from below by annealed importance sampling.

Each chain passes the nets temperatures × (leapfrogs + 1) times, forwards and backwards: with the
default settings 200 thousand passes an image and start, where L_1000 takes a thousand.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "annealing", "judge", "ready"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.annealing import AnnealingSettings
from ppl_vae.judging.bounding import (
    annealed,
    check_starts,
    describe_moves,
    error,
    finite,
    fixed,
    importance,
    movable,
    number,
)
from ppl_vae.judging.subject import Finding, Subject

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.page import Chapter

NAME = "ais"


@dataclass(frozen=True)
class Settings:
    """How long the chains are, and how many.

    Attributes:
        images: the first of those asked about.
        starts: of the path: prior, guide, or both.
        temperatures, chains, leapfrogs: see `ppl_vae.annealing.AnnealingSettings`.
        pilot_temperatures, pilot_chains: of the run that finds the step sizes.
        samples: K of the importance-weighted bound beside them, of the same images.
    """

    images: int = 100
    starts: tuple[str, ...] = ("guide", "prior")
    temperatures: int = 1000
    chains: int = 16
    leapfrogs: int = 10
    pilot_temperatures: int = 200
    pilot_chains: int = 8
    samples: int = 1000


def annealing(settings: Any, start: Any) -> AnnealingSettings:
    """The chains that a check's settings ask for."""
    return AnnealingSettings(
        start=start,
        num_temperatures=settings.temperatures,
        num_chains=settings.chains,
        num_leapfrogs=settings.leapfrogs,
        pilot_chains=settings.pilot_chains,
        pilot_temperatures=settings.pilot_temperatures,
    )


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where a setting is out of range, no start given, or a site without gradients."""
    check_starts(NAME, settings.starts)
    for start in settings.starts:
        annealing(settings, start)
    movable(subject, NAME, images=settings.images, samples=settings.samples)


def judge(subject: Subject, settings: Settings) -> Finding:
    """Lower bounds by chains from each start, beside ELBO and L_K of the same images."""
    from evaluation import annealed_bounds
    from evaluation.annealing import joined_starts

    paths = [annealing(settings, start) for start in settings.starts]
    images = fixed(subject, settings.images, NAME)
    weighted = importance(subject, images, settings.samples)
    found: list[xr.Dataset] = []
    for path in paths:
        chains = annealed(subject, images, path)
        bounds = annealed_bounds(chains.forward)
        bounds["acceptance"] = "image", chains.acceptance
        bounds["step_size"] = ("temperature", "image"), chains.step_size
        found.append(bounds)
    data = joined_starts(found, settings.starts)
    describe_moves(data)
    data["importance_weighted"] = "image", -weighted["nll"].values
    data["importance_weighted"].attrs.update(
        units="nats per image", long_name=f"L_{settings.samples} of the same images"
    )
    told = {
        "images": len(images),
        "elbo": float(weighted["elbo_mean"]),
        f"L_{settings.samples}": -float(weighted["nll_mean"]),
    }
    for start, bounds in zip(settings.starts, found, strict=True):
        told[f"ais_{start}"] = float(bounds["lower_mean"])
        told[f"ais_{start}_se"] = float(bounds["lower_se"])
        told[f"ais_{start}_acceptance"] = float(bounds["acceptance"].mean())
    return Finding(NAME, data, _chapter(data, weighted, settings), finite(told))


def _chapter(data: xr.Dataset, weighted: xr.Dataset, settings: Settings) -> Chapter:
    from evaluation.comparison import Row
    from evaluation.page import Chapter, Table

    rows: list[Row] = [
        {"bound": "ELBO", "nats": number(weighted["elbo_mean"], weighted["elbo_se"])},
        {
            "bound": f"L_{settings.samples}",
            "nats": number(-weighted["nll_mean"], weighted["nll_se"]),
        },
    ]
    for start in settings.starts:
        one = data.sel(start=start)
        less = (one["lower"] - data["importance_weighted"]).values
        rows.append(
            {
                "bound": f"AIS from the {start}",
                "nats": number(one["lower_mean"], one["lower_se"]),
                f"above L_{settings.samples}": number(less.mean(), error(less)),
                "chains' error": number(one["lower_chain_se"].mean()),
                "acceptance": number(one["acceptance"].mean()),
            }
        )
    return Chapter(
        title="Likelihood by annealing",
        text=(
            f"{data.sizes['image']} images, 0 and 1 drawn once for all bounds. "
            f"{settings.chains} chains an image, {settings.temperatures} temperatures with one "
            f"Hamiltonian move of {settings.leapfrogs} leapfrogs each, on a sigmoidal schedule; "
            "step sizes found for each image and temperature by pilot chains at 65 % acceptance, "
            "then frozen. Every figure is a lower bound of log p(x) on average: the highest is "
            "the closest.",
        ),
        tables=(
            Table(
                rows,
                "log p(x), nats per image, higher is better, ± standard error over images; "
                "chains' error: mean over images of the standard error over an image's chains",
            ),
        ),
        warnings=_warnings(data, settings),
    )


def _warnings(data: xr.Dataset, settings: Settings) -> tuple[str, ...]:
    told = []
    for start in settings.starts:
        one = data.sel(start=start)
        less = (one["lower"] - data["importance_weighted"]).values
        if less.mean() < -2 * error(less):
            told.append(
                f"Chains from the {start} stay {-less.mean():.2f} nats below L_{settings.samples}: "
                "they are too short to be of use; raise ais.temperatures."
            )
        acceptance = float(one["acceptance"].mean())
        if not 0.4 < acceptance < 0.9 and np.isfinite(acceptance):
            told.append(
                f"Moves from the {start} were accepted {100 * acceptance:.0f} % of the time, "
                "where 65 % was aimed at: raise ais.pilot_temperatures."
            )
    return tuple(told)
