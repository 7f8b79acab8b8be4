"""Simulation-based calibration of the guide: a verdict for each site.

Nothing of the test split enters: latents and images come from the model. A thousand simulations of
99 draws each are 100,000 passes of the nets: seconds for perceptrons, minutes for deep ones.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge", "ready"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import UsageError
from ppl_vae.judging.subject import Finding, Subject

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.page import Chapter

NAME = "calibration"


@dataclass(frozen=True)
class Settings:
    """Args:
    simulations: S, 500 or more.
    draws: D, from the guide for each.
    level: probability that a calibrated guide fails anywhere.
    panels: quantities drawn beside log p(x | z).
    """

    simulations: int = 1000
    draws: int = 99
    level: float = 0.01
    panels: int = 8


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where there are too few simulations or draws, or the level is none."""
    from evaluation.calibration import MIN_SIMULATIONS

    if settings.simulations < MIN_SIMULATIONS:
        raise UsageError(
            f"calibration.simulations: expected {MIN_SIMULATIONS} or more, came "
            f"{settings.simulations}: fewer would miss what is wrong"
        )
    if settings.draws < 1:
        raise UsageError(f"calibration.draws: expected at least 1, came {settings.draws}")
    if not 0 < settings.level < 1:
        raise UsageError(
            f"calibration.level: expected a probability between 0 and 1, came {settings.level:g}: "
            "such as 0.01"
        )


def judge(subject: Subject, settings: Settings) -> Finding:
    """Ranks of simulated latents, units and log densities, under the guide."""
    from evaluation.calibration import (
        LOG_LIKELIHOOD,
        calibration,
        plot_calibration,
    )

    ready(subject, settings)
    ranks = subject.programs.calibration_ranks(
        *subject.pair, settings.simulations, settings.draws, **subject.drawn
    )
    data = calibration(ranks, settings.draws, level=settings.level)
    picture = plot_calibration(data, subject.figures / "calibration.png", limit=settings.panels)
    likelihood = data.sel(quantity=LOG_LIKELIHOOD)
    units = data.sel(quantity=data["unit"] >= 0)
    told = {
        "simulations": settings.simulations,
        "draws": settings.draws,
        "level": settings.level,
        "calibrated": {str(s): bool(data["calibrated"].sel(site=s)) for s in data["site"].values},
        "lowest_p": {str(s): float(data["lowest_p"].sel(site=s)) for s in data["site"].values},
        "log_likelihood_p": float(likelihood["p_holm"]),
        "units_rejected": {
            str(site): int((units["rejected"] & (units["of_site"] == site)).sum())
            for site in data["site"].values
        },
    }
    return Finding(NAME, data, _chapter(data, told, picture), told)


def _chapter(data: xr.Dataset, told: dict[str, Any], picture: Any) -> Chapter:
    from evaluation.comparison import Number, Row
    from evaluation.page import Chapter, Picture, Table

    rows: list[Row] = []
    for site, passed in told["calibrated"].items():
        of_site = data.sel(quantity=data["of_site"] == site)
        units = of_site.sel(quantity=of_site["unit"] >= 0)
        rows.append(
            {
                "site": site,
                "verdict": "calibrated" if passed else "not calibrated",
                "units rejected": f"{int(units['rejected'].sum())} of {units.sizes['quantity']}",
                "lowest p": _p(told["lowest_p"][site]),
                "p of log p(x | z)": _p(told["log_likelihood_p"]),
                "rank mean": Number(float(units["rank_mean"].mean())),
                "rank spread": Number(float(units["rank_spread"].mean())),
            }
        )
    failed = [site for site, passed in told["calibrated"].items() if not passed]
    text = (
        f"{told['simulations']} latents and images drawn from the model, and the place of each "
        f"true latent among {told['draws']} draws from the guide: where the guide is the exact "
        "posterior, every place is as likely. A unit's p-value is exact for discrete ranks; "
        "Holm's correction runs over all units of all sites and the log densities, and every "
        "site's verdict includes log p(x | z), without which a guide that ignores the image would "
        f"pass. A calibrated guide fails anywhere with probability {told['level']:g} at most.",
        "Rank spread below 1: draws are too wide; above 1: too narrow. Rank mean above 0.5: draws "
        "are too low; below: too high. This judges the guide on the model's own images, not on "
        "the test split.",
    )
    warnings = (
        [f"The guide is not calibrated at {', '.join(failed)} (level {told['level']:g})."]
        if failed
        else []
    )
    note = (
        "p after Holm's correction; rank mean and spread are means over units, 0.5 and 1 if exact"
    )
    caption = (
        "ECDF of the ranks less the uniform one, log p(x | z) first, then the lowest p-values "
        f"(uncorrected); each band holds a uniform curve whole with probability "
        f"{1 - told['level']:g}"
    )
    return Chapter(
        "Calibration of the guide", text, [Table(rows, note)], [Picture(picture, caption)], warnings
    )


def _p(value: float) -> str:
    if value < 1e-99:
        return "< 1e-99"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
