"""Check `gap`: what the ELBO falls short by, approximation against amortisation.

Each image's posterior is optimised for that image alone, in each family (`ppl_vae.<ppl>.local`),
and compared with the best bound of log p(x): L_K or annealed chains (Cremer et al. 2018, arXiv
1801.03558). With the default settings the nets pass an image, forwards and backwards, 60 thousand
times for the annealed chains (`gap.temperatures=0` leaves them out) and 4 thousand for each family;
a family with flows has nets for every image besides.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge", "ready"]

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import UsageError, nearest
from ppl_vae.judging.ais import annealing
from ppl_vae.judging.bounding import annealed, finite, fixed, importance, movable, number
from ppl_vae.judging.subject import Finding, Subject

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.page import Chapter

NAME = "gap"

_FAMILIES = {
    "mean_field": "one independent Normal for every unit of every latent site",
    "iaf": "inverse autoregressive flows of such Normals, at each site given the sites above it",
    "conditional": "the guide's own conditional posterior at each site, with a shift and a factor "
    "for every unit",
    "conditional_iaf": "such flows of the guide's own noise",
}


@dataclass(frozen=True)
class Settings:
    """What is optimised, and against which bound.

    Attributes:
        images: the first of those asked about.
        families: of the local posterior: any of mean_field, conditional, iaf, conditional_iaf.
        steps, draws, rate: of Adam: steps, samples an image and step, learning rate.
        flows, width: of the families with flows: steps at each site, units of a net's hidden layer.
        eval_samples: draws of the optimised ELBO.
        samples: K of the importance-weighted bound, and draws of the guide's ELBO.
        start, temperatures, chains, leapfrogs, pilot_temperatures, pilot_chains: of the annealed
            bound (`ppl_vae.annealing.AnnealingSettings`); no temperatures, no annealing.
    """

    images: int = 100
    families: tuple[str, ...] = ("mean_field", "conditional")
    steps: int = 500
    draws: int = 8
    rate: float = 0.05
    flows: int = 2
    width: int = 64
    eval_samples: int = 500
    samples: int = 5000
    start: str = "guide"
    temperatures: int = 500
    chains: int = 8
    leapfrogs: int = 10
    pilot_temperatures: int = 100
    pilot_chains: int = 8


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where a setting is out of range, or a site has no gradients."""
    for family in settings.families:
        if family not in _FAMILIES:
            raise UsageError(f"gap.families: unknown {family!r}: {nearest(family, _FAMILIES)}")
    if not settings.families:
        raise UsageError(f"gap.families: expected some of {', '.join(_FAMILIES)}, came none")
    if settings.temperatures:
        annealing(settings, settings.start)
    names = ("images", "samples", "steps", "draws", "eval_samples", "flows", "width")
    movable(subject, NAME, **{name: getattr(settings, name) for name in names})


def judge(subject: Subject, settings: Settings) -> Finding:
    """The gap's two parts for each local family."""
    from evaluation import annealed_bounds, gap_parts
    from evaluation.gaps import gap_figure

    path = annealing(settings, settings.start) if settings.temperatures else None
    images = fixed(subject, settings.images, NAME)
    local = {
        family: subject.programs.local_elbo(
            *subject.pair,
            images,
            family=family,
            num_steps=settings.steps,
            num_samples=settings.draws,
            learning_rate=settings.rate,
            eval_samples=settings.eval_samples,
            flows=settings.flows,
            width=settings.width,
            **subject.drawn,
        )["elbo"]
        for family in settings.families
    }
    weighted = importance(subject, images, settings.samples)
    bounds = {f"L_{settings.samples}": -weighted["nll"].values}
    if path is not None:
        forward = annealed(subject, images, path).forward
        bounds[f"AIS from the {settings.start}"] = annealed_bounds(forward)["lower"].values
    data = gap_parts(bounds, weighted["elbo"].values, local)
    picture = gap_figure(data, subject.figures / "gap.png")
    told: dict[str, Any] = {"images": len(images), "bound": data["log_likelihood"].attrs["bound"]}
    told |= {
        "elbo": float(data["elbo"].mean()),
        "log_likelihood": float(data["log_likelihood"].mean()),
    }
    told["total"] = float(data["total_mean"])
    for family in settings.families:
        one = data.sel(family=family)
        for part in ("approximation", "amortization"):
            told[f"{part}_{family}"] = float(one[f"{part}_mean"])
            told[f"{part}_{family}_se"] = float(one[f"{part}_se"])
    return Finding(NAME, data, _chapter(data, bounds, picture, settings), finite(told))


def _chapter(
    data: xr.Dataset, bounds: dict[str, Any], picture: Path, settings: Settings
) -> Chapter:
    from evaluation.comparison import Row
    from evaluation.gaps import family_label
    from evaluation.page import Chapter, Picture, Table

    rows: list[Row] = [
        {
            "family": family_label(family),
            "approximation": number(one["approximation_mean"], one["approximation_se"]),
            "amortisation": number(one["amortization_mean"], one["amortization_se"]),
            "local ELBO": number(one["local_elbo"].mean()),
        }
        for family, one in ((str(name), data.sel(family=name)) for name in data["family"].values)
    ]
    measured: list[Row] = [{"bound": "ELBO of the guide", "nats": number(data["elbo"].mean())}]
    measured += [{"bound": name, "nats": number(value.mean())} for name, value in bounds.items()]
    warnings = []
    for family in settings.families:
        one = data.sel(family=family)
        if float(one["approximation_mean"]) < -2 * float(one["approximation_se"]):
            warnings.append(
                f"The {family_label(family)} ELBO stands above every bound of log p(x): the "
                "bounds are loose; raise gap.samples or gap.temperatures."
            )
        surely = float(one["amortization_mean"]) < -2 * float(one["amortization_se"])
        if surely or float(one["amortization"].median()) < -1:  # a few images may differ wildly
            reason = "raise gap.steps, unless the guide's own family is wider"
            if family == "mean_field":
                reason += ": it knows how sites depend on each other, which this one does not"
            warnings.append(f"The {family_label(family)} ELBO is below the guide's: {reason}.")
    best = data["log_likelihood"].attrs["bound"]
    families = "; ".join(f"{family_label(name)}: {_FAMILIES[name]}" for name in settings.families)
    return Chapter(
        title="What the ELBO falls short by",
        text=(
            f"{data.sizes['image']} images, 0 and 1 drawn once for all. log p(x) by its best lower "
            f"bound, {best}, less the guide's ELBO: {float(data['total_mean']):.2f} nats. The best "
            "posterior of a family for each image alone divides it: what the family cannot do is "
            "approximation, what the network misses within it is amortisation.",
            f"Families: {families}. With one latent site and a diagonal Normal guide mean field "
            "and conditional are the same. A wider family leaves less to approximation.",
        ),
        tables=(
            Table(rows, "gaps in nats per image ± standard error over images, lower is better"),
            Table(measured, "log p(x) in nats per image, higher is better"),
        ),
        pictures=(Picture(picture, "Mean gap of each family, in its two parts"),),
        warnings=tuple(warnings),
    )
