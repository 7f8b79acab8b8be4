"""How far single units hold single factors of the data, by six published metrics.

Codes are the posterior means of the units asked for. Those of a site below others hang on the draws
above it, so they are averaged over a few. Images are drawn from the whole test split, because the
first ones of a set in its grid's order share their factors. Needs a data set with true factors.
With the default settings, 10,000 images and ten units it takes about 20 s of one core.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Factors, Images
from ppl_vae.errors import UsageError, nearest
from ppl_vae.judging.subject import Finding, Subject

if TYPE_CHECKING:
    import xarray as xr

NAME = "disentanglement"

Codes = Any  # (images, units) float64


@dataclass(frozen=True)
class Settings:
    """How it is measured.

    Args:
        sites: "all", or names with commas between, such as "z1".
        images: of the test split, at most so many, drawn at random.
        passes: draws of the sites above that means are averaged over; one where there is one site.
        shuffles: orders of the images that the chance level is averaged over.
    """

    sites: str = "all"
    images: int = 10_000
    passes: int = 4
    shuffles: int = 3

    def __post_init__(self) -> None:
        for name, least in (("images", 20), ("passes", 1), ("shuffles", 0)):
            if (came := getattr(self, name)) < least:
                raise UsageError(f"{NAME}.{name}: expected at least {least}, came {came}")


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where the data set has no factors."""
    if _images(subject, settings.images).factors is None:
        name = subject.data.name if subject.data else "this one"
        raise UsageError(
            f"{NAME}: expected a data set with true factors, came {name}, which has none: "
            "train and evaluate on sprites (drawn here) or dsprites (downloaded)"
        )


def judge(subject: Subject, settings: Settings) -> Finding:
    """Scores with their chance levels, and the units that know each factor.

    Raises:
        UsageError: a data set without factors, an unknown site, fewer than two units.
    """
    from evaluation.disentanglement import disentanglement_scores

    ready(subject, settings)
    images = _images(subject, settings.images)
    factors: Any = images.factors
    codes, units = _codes(subject, images, settings)
    varying = [k for k in range(len(factors.names)) if np.ptp(factors.classes[:, k]) > 0]
    names = [factors.names[k] for k in varying]
    found = disentanglement_scores(
        codes,
        factors.classes[:, varying],
        names=names,
        categorical=[k for k, name in enumerate(names) if name in factors.categorical],
        units=units,
        num_shuffles=settings.shuffles,
        seed=subject.seed,
    )
    told = {str(name): float(found.score.sel(metric=name)) for name in found.metric.values}
    return Finding(NAME, found, _chapter(subject, settings, found, factors), told)


def _images(subject: Subject, most: int) -> Images:
    every = subject.data.test if subject.data else subject.images
    if len(every) <= most:
        return every
    return every[np.sort(np.random.default_rng(subject.seed).permutation(len(every))[:most])]


def _codes(subject: Subject, images: Images, settings: Settings) -> tuple[Codes, list[str]]:
    """(images, units) posterior means of the sites asked for, and the units' names."""
    programs, drawn = subject.programs, subject.drawn
    seeds = range(subject.seed, subject.seed + settings.passes)
    moments = programs.posterior_moments(*subject.pair, images, **{**drawn, "seed": seeds[0]})
    sites = _sites(settings.sites, moments)
    means = {site: np.asarray(moments[site][0], dtype=np.float64) for site in sites}
    if len(moments) > 1:
        for seed in seeds[1:]:
            again = programs.posterior_moments(*subject.pair, images, **{**drawn, "seed": seed})
            means = {site: mean + np.asarray(again[site][0]) for site, mean in means.items()}
        means = {site: mean / len(seeds) for site, mean in means.items()}
    flat = {site: mean.reshape(len(mean), -1) for site, mean in means.items()}
    units = [f"{site}.{i + 1}" for site, mean in flat.items() for i in range(mean.shape[1])]
    return np.concatenate(list(flat.values()), axis=1), units


def _sites(asked: str, known: dict[str, Any]) -> list[str]:
    """Sites from z1 up; UsageError where one is not there."""
    if asked == "all":
        return sorted(known, key=lambda site: (len(site), site))
    names = [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(
                f"{NAME}.sites: no site {name!r} with a mean: {nearest(name, [*known, 'all'])}"
            )
    return names


def _chapter(subject: Subject, settings: Settings, found: xr.Dataset, factors: Factors) -> Any:
    from evaluation.comparison import Number, Row
    from evaluation.disentanglement import METRICS
    from evaluation.disentanglement_figures import TITLES, units_by_factor
    from evaluation.page import Chapter, Picture, Table

    path = units_by_factor(found, subject.figures / "disentanglement.png")
    rows: list[Row] = []
    for name in found.metric.values:
        score, chance, sd = (
            float(found[key].sel(metric=name)) for key in ("score", "chance", "chance_sd")
        )
        by_chance = Number(chance, None if np.isnan(sd) else sd, 3)
        cell = None if np.isnan(chance) else by_chance
        rows.append(
            {"metric": TITLES[name], "score": Number(score, None, 3), "chance": cell,
             "published by": METRICS[name]}
        )  # fmt: skip
    which = "all sites" if settings.sites == "all" else settings.sites
    text = (
        f"Codes are the posterior means of {which}, {found.sizes['unit']} units, for "
        f"{found.attrs['num_images']} images; the true factors are "
        f"{', '.join(map(str, found.factor.values))}"
        + (f" (without order: {', '.join(factors.categorical)})." if factors.categorical else "."),
        "Each metric is 1 at best. Chance is the same metric of the same codes, handed to the "
        "images in another order: a score means as much as it lies above that.",
    )
    note = f"± : standard deviation over {settings.shuffles} orders of the images"
    caption = "Mutual information of unit and factor as a share of the factor's entropy."
    return Chapter("Disentanglement", text, [Table(rows, note)], [Picture(path, caption)])
