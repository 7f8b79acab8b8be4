"""Check `ladder`: the importance-weighted bound at rising K, and where it leads.

Costs nothing beside the likelihood itself: it is read off the same samples. With
`ladder.samples=K` it draws K samples an image of its own.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "chapter", "judge", "ready"]

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import UsageError
from ppl_vae.judging.bounding import importance
from ppl_vae.judging.subject import Finding, Subject

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.page import Chapter

NAME = "ladder"


@dataclass(frozen=True)
class Settings:
    """How much is drawn.

    Attributes:
        samples: K of the highest rung; None takes the evaluation's own samples (--samples).
    """

    samples: int | None = None


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where there would be no samples."""
    if settings.samples is not None and settings.samples < 1:
        raise UsageError(f"ladder.samples: expected at least 1, came {settings.samples}")


def judge(subject: Subject, settings: Settings) -> Finding:
    """L_K at each rung, its extrapolation, and how far Pareto's k lets it be trusted."""
    from evaluation.ladder import ladder_figure

    ready(subject, settings)
    ladder = subject.likelihood
    if settings.samples is not None or ladder is None:
        ladder = importance(subject, subject.images, settings.samples or 5000)
    picture = ladder_figure(ladder, subject.figures / "ladder.png")
    bounds = zip(ladder["K"].values, ladder["bound_mean"].values, strict=True)
    told: dict[str, Any] = {"bounds": {f"L_{k}": _plain(value) for k, value in bounds}}
    for name in ("extrapolated", "extrapolated_gain", "extrapolated_gain_se", "pareto_k_bad"):
        told[name] = _plain(ladder[name])
    told["ess_mean"] = _plain(ladder["ess"].mean())
    return Finding(NAME, ladder, chapter(ladder, picture), told)


def chapter(ladder: xr.Dataset, picture: Path) -> Chapter:
    """The ladder in words, a table of its rungs, its figure, and Pareto's warning."""
    from evaluation.comparison import Number, Row
    from evaluation.page import Chapter, Picture, Table

    rows: list[Row] = []
    for i, k in enumerate(ladder["K"].values):
        mean, se = float(ladder["bound_mean"][i]), _plain(ladder["bound_se"][i])
        blocks = int(ladder["bound_blocks"][i])
        rows.append({"K": int(k), "L_K": Number(mean, se), "blocks an image": blocks})
    names = ("extrapolated", "extrapolated_gain", "extrapolated_gain_se")
    limit, gain, gain_se = (_plain(ladder[name]) for name in names)
    if limit is None or gain is None:
        further = "The rungs give no limit to extrapolate to."
    else:
        further = (
            f"A power law through the rungs above K = 1 leads to {limit:.2f} nats, {gain:.2f} "
            "above the highest rung"
            + ("" if gain_se is None else f" (± {gain_se:.2f}, jackknife over images)")
            + ". That is an extrapolation, not a measurement."
        )
    return Chapter(
        title="Likelihood by importance weights",
        text=(
            f"L_K of {int(ladder['num_images'])} images from one stream of "
            f"{int(ladder['num_samples'])} samples an image, cut into disjoint blocks of K. L_1 is "
            "the ELBO; every rung is a lower bound of log p(x) on average and rises with K.",
            further,
            f"Effective samples an image: median {float(ladder['ess'].median()):.0f} of "
            f"{int(ladder['num_samples'])}, lowest {float(ladder['ess'].min()):.1f}.",
        ),
        tables=(
            Table(rows, "L_K in nats per image ± standard error over images, higher is better"),
        ),
        pictures=(Picture(picture, "L_K against K; the dashed line is extrapolated"),),
        warnings=_warnings(ladder),
    )


def _warnings(ladder: xr.Dataset) -> tuple[str, ...]:
    bad = _plain(ladder["pareto_k_bad"])
    if bad is None:
        return ("Pareto's k needs 25 samples or more an image: how heavy the weights' tail is, is "
                "not known.",)  # fmt: skip
    if not bad:
        return ()
    return (
        f"Pareto's k is above 0.7 for {100 * bad:.1f} % of the images: their weights' tail is so "
        "heavy that L_K rests on a few samples and rises slowly; anneal (--bound ais) or improve "
        "the guide before trusting it.",
    )


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
