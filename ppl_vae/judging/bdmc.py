"""Check `bdmc`: log p(x) of simulated images between a lower and an upper bound.

Images are drawn from the model with their latents, which are exact posterior draws: chains run from
the start to them bound log p(x) from below, chains back from them from above (Grosse et al. 2015,
arXiv 1511.02543). Twice the cost of `ais` for as many images.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge", "ready"]

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.judging.ais import annealing
from ppl_vae.judging.bounding import (
    annealed,
    check_starts,
    describe_moves,
    error,
    finite,
    importance,
    movable,
    number,
    simulated,
)
from ppl_vae.judging.subject import Finding, Subject

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.page import Chapter

NAME = "bdmc"


@dataclass(frozen=True)
class Settings:
    """How long the chains are, and how many.

    Attributes:
        images: simulated.
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


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where a setting is out of range, no start given, or a site without gradients."""
    check_starts(NAME, settings.starts)
    for start in settings.starts:
        annealing(settings, start)
    movable(subject, NAME, images=settings.images, samples=settings.samples)


def judge(subject: Subject, settings: Settings) -> Finding:
    """Bounds from each start, the gap between them, and how far L_K is below the upper one."""
    from evaluation import annealed_bounds
    from evaluation.annealing import bracket_figure, joined_starts

    paths = [annealing(settings, start) for start in settings.starts]
    x, latents = simulated(subject, settings.images, NAME)
    weighted = importance(subject, x, settings.samples)
    found: list[xr.Dataset] = []
    pictures: list[Path] = []
    for path in paths:
        chains = annealed(subject, x, path, latents)
        bounds = annealed_bounds(chains.forward, chains.reverse)
        bounds["acceptance"] = "image", chains.acceptance
        bounds["step_size"] = ("temperature", "image"), chains.step_size
        found.append(bounds)
        title = f"Bounds by chains from the {path.start}"
        file = subject.figures / f"bdmc-{path.start}.png"
        pictures.append(bracket_figure(bounds, file, title=title))
    data = joined_starts(found, settings.starts)
    describe_moves(data)
    data["importance_weighted"] = "image", -weighted["nll"].values
    data["importance_weighted"].attrs.update(
        units="nats per image", long_name=f"L_{settings.samples} of the same images"
    )
    told: dict[str, Any] = {"images": settings.images, "elbo": float(weighted["elbo_mean"])}
    told[f"L_{settings.samples}"] = -float(weighted["nll_mean"])
    for start, bounds in zip(settings.starts, found, strict=True):
        for name in ("lower", "upper", "gap"):
            told[f"{name}_{start}"] = float(bounds[f"{name}_mean"])
            told[f"{name}_{start}_se"] = float(bounds[f"{name}_se"])
    return Finding(NAME, data, _chapter(data, weighted, settings, pictures), finite(told))


def _chapter(
    data: xr.Dataset, weighted: xr.Dataset, settings: Settings, pictures: list[Path]
) -> Chapter:
    from evaluation.comparison import Row
    from evaluation.page import Chapter, Picture, Table

    rows: list[Row] = [
        {
            "chains from": f"none (L_{settings.samples})",
            "lower": number(-weighted["nll_mean"], weighted["nll_se"]),
        }
    ]
    for start in settings.starts:
        one = data.sel(start=start)
        less = (one["upper"] - data["importance_weighted"]).values
        rows.append(
            {
                "chains from": f"the {start}",
                **{
                    name: number(one[f"{name}_mean"], one[f"{name}_se"])
                    for name in ("lower", "upper", "gap")
                },
                "widest gap": number(one["gap"].max()),
                f"upper less L_{settings.samples}": number(less.mean(), error(less)),
                "acceptance": number(one["acceptance"].mean()),
            }
        )
    return Chapter(
        title="Likelihood between bounds, on simulated images",
        text=(
            f"{settings.images} images drawn from the model with their latents. Forward chains end "
            "near the posterior and bound log p(x) from below, chains back from the latents that "
            "the image was drawn from bound it from above, each on average; both use the same "
            "frozen step sizes.",
            "The gap is measured where the model made the images. It tells how good these chains "
            "are for real images as far as those are like simulated ones.",
        ),
        tables=(Table(rows, "nats per image, ± standard error over images; a small gap is good"),),
        pictures=tuple(
            Picture(file, f"Each image's bounds, chains from the {start}")
            for file, start in zip(pictures, settings.starts, strict=True)
        ),
        warnings=_warnings(data, settings),
    )


def _warnings(data: xr.Dataset, settings: Settings) -> tuple[str, ...]:
    """What says that the bracket is wide, or no bracket."""
    gaps = {start: float(data.sel(start=start)["gap_mean"]) for start in settings.starts}
    told = []
    tightest = min(gaps.values(), key=abs)
    if abs(tightest) > 1.0:
        told.append(
            f"The tightest bounds are {abs(tightest):.2f} nats apart: log p(x) is not known better "
            "than that on simulated images; raise bdmc.temperatures."
        )
    for start, gap in gaps.items():
        if gap < -2 * float(data.sel(start=start)["gap_se"]):
            told.append(
                f"Bounds by chains from the {start} have crossed by {-gap:.2f} nats, which noise "
                "does not explain: their weights are too uneven; raise bdmc.temperatures and "
                "bdmc.chains."
            )
    return tuple(told)
