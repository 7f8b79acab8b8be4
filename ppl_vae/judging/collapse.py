"""Posterior collapse, named and measured: silent units, mutual information, and the code's books.

Asks the guide for n² densities (n = `images`): a second or so for a small net, a minute for 500
images through a large one.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge"]

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from evaluation import bits_back, mutual_information
from evaluation.comparison import Number, Row
from evaluation.latent_figures import side_by_side
from evaluation.page import Chapter, Picture, Table
from ppl_vae.checks import natural
from ppl_vae.errors import UsageError
from ppl_vae.judging.subject import Finding, Subject

NAME = "collapse"

REMEDIES = (
    "What the recipe could try where sites collapse: a warm-up of the divergence "
    "(objective.warmup_epochs; Bowman et al. 2016, Sønderby et al. 2016), held back at 0 for some "
    "epochs first (objective.delay_epochs), free bits (objective.free_bits, nats a site; Kingma et "
    "al. 2016), a smaller weight (objective.beta below 1), a guide that shares the model's way "
    "down (LadderGuide), batch norm in a hierarchy, or a decoder that cannot do without latents."
)


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Args:
        threshold: a unit whose divergence is below, nats, has collapsed.
        images: N of the mutual information, whose lower bound cannot exceed log N; the first test
            images, at most.
        draws: latents of other images that stand in for no information.
    """

    threshold: float = 0.01
    images: int = 500
    draws: int = 100

    def __post_init__(self) -> None:
        for name in ("images", "draws"):
            if getattr(self, name) < 2:
                raise UsageError(
                    f"{NAME}.{name}: expected at least 2, came {getattr(self, name)}: raise it"
                )


def judge(subject: Subject, settings: Settings) -> Finding:
    """Which sites and units say nothing, what the others say, and what that costs."""
    units = _units(subject, settings)
    information = _information(subject, settings)
    terms = subject.programs.site_terms(*subject.pair, subject.images, **subject.drawn)
    free = subject.programs.latent_free_log_prob(
        *subject.pair, subject.images, settings.draws, **subject.drawn
    )
    kl = {site: terms["kl"][site] for site in sorted(terms["kl"], key=natural)}
    books = bits_back(terms["log_likelihood"], free, kl)
    data = xr.DataTree.from_dict({"/units": units, "/information": information, "/books": books})
    told = _told(units, information, books, subject.history)
    unknown = [str(site) for site in units["site"].values if site not in told["collapsed"]]
    counts = len(subject.images), information.attrs["num_images"]
    chapter = Chapter(
        "Posterior collapse",
        [*_text(told, settings, unknown, *counts), REMEDIES],
        [_sites(units, information), _books(told)],
        _pictures(subject),
        _warnings(units, told, settings),
    )
    return Finding(NAME, data, chapter, told)


def _units(subject: Subject, settings: Settings) -> xr.Dataset:
    """Divergence by site, and how many of its units have none; z1 first."""
    programs, pair, drawn = subject.programs, subject.pair, subject.drawn
    whole = programs.site_terms(*pair, subject.images, **drawn)["kl"]
    by_unit = programs.unit_kl(*pair, subject.images, **drawn)
    sites = sorted(whole, key=natural)
    sizes = [np.size(by_unit[site]) if site in by_unit else np.nan for site in sites]
    silent = [
        float((np.asarray(by_unit[site]) < settings.threshold).sum()) if site in by_unit else np.nan
        for site in sites
    ]
    nats = {"units": "nats per image", "long_name": "divergence"}
    what = f"units whose divergence is below {settings.threshold:g} nats"
    return xr.Dataset(
        {
            "kl": ("site", [float(np.mean(whole[site])) for site in sites], nats),
            "num_units": ("site", sizes, {"units": "1", "long_name": "units"}),
            "collapsed": ("site", silent, {"units": "1", "long_name": what}),
        },
        coords={"site": sites},
        attrs={"threshold": settings.threshold, "num_images": len(subject.images)},
    )


def _information(subject: Subject, settings: Settings) -> xr.Dataset:
    """Bounds of the mutual information, by site as the guide samples them."""
    images = subject.images.take(min(settings.images, len(subject.images)))
    log_q = subject.programs.cross_log_prob(*subject.pair, images, **subject.drawn)
    kl = subject.programs.site_terms(*subject.pair, images, **subject.drawn)["kl"]
    return mutual_information(log_q, {site: kl.get(site, 0.0) for site in log_q})


def _told(
    units: xr.Dataset, information: xr.Dataset, books: xr.Dataset, history: xr.Dataset | None
) -> dict[str, Any]:
    last = information.isel(site=-1)
    measured = bool(np.isfinite(units["num_units"]).any())
    silent, every = float(units["collapsed"].sum()), float(units["num_units"].sum())
    told = {
        "share_collapsed": silent / every if measured else None,
        "active": int(every - silent) if measured else None,
        "collapsed": _by_site(units["collapsed"]),
        "information_lower": float(last["lower"]),
        "information_upper": float(last["upper"]),
        "information_ceiling": float(information["ceiling"]),
        "latent_free": float(books["latent_free"].mean()),
        "reconstruction": float(books["reconstruction"].mean()),
        "saved": float(books["saved"].mean()),
        "cost": float(books["cost"].mean()),
        "net": float(books["net"].mean()),
    }
    for name in ("posterior_loc", "posterior_scale"):
        if history is not None and name in history and history.sizes["step"]:
            bounds = history[name].isel(step=-1)
            told[f"{name}_lowest"] = float(bounds.sel(bound="lowest").min())
            told[f"{name}_highest"] = float(bounds.sel(bound="highest").max())
    return told


def _sites(units: xr.Dataset, information: xr.Dataset) -> Table:
    rows: list[Row] = []
    for site in map(str, units["site"].values):
        one = units.sel(site=site)
        known = np.isfinite(float(one["num_units"]))
        row: Row = {"site": site, "KL": Number(float(one["kl"]), decimals=3)}
        row["units"] = int(one["num_units"]) if known else None
        row["collapsed"] = int(one["collapsed"]) if known else None
        if known:
            share = float(one["collapsed"]) / float(one["num_units"])
            row["collapsed, %"] = Number(100 * share, decimals=1)
        if site in information["site"]:
            row["I(x; z) so far"] = Number(float(information["lower"].sel(site=site)))
            row["site adds"] = Number(float(information["gain"].sel(site=site)))
        rows.append(row)
    order = ", ".join(map(str, information["site"].values))
    return Table(
        rows,
        "KL and I: nats per image. I(x; z) so far: lower bound of the information in this site and "
        f"those that the guide samples before it ({order}); site adds: its own part of that.",
    )


def _books(told: dict[str, Any]) -> Table:
    row: Row = {
        "-log p(x) without latents": Number(told["latent_free"]),
        "-log p(x | z)": Number(told["reconstruction"]),
        "saved": Number(told["saved"]),
        "cost, KL": Number(told["cost"]),
        "net": Number(told["net"]),
    }
    return Table(
        [row],
        "Nats per image. Without latents: the product of the model's own pixel marginals, over the "
        "latents of other images. Net is saved less cost: what a bits-back code gains by them.",
    )


def _text(
    told: dict[str, Any], settings: Settings, unknown: list[str], num_images: int, few: int
) -> list[str]:
    share = told["share_collapsed"]
    silent = "Divergence by unit is not known here" if share is None else (
        f"{100 * share:.0f} % of the units have a divergence below {settings.threshold:g} nats: "
        "for them posterior and prior are the same, whatever the image"
    )  # fmt: skip
    if unknown:
        silent += (
            f"; not counted are those of {', '.join(unknown)}, which have no divergence of their "
            "own (they are not factorised, or the guide samples them before sites that the model "
            "samples first)"
        )
    low, high, top = (told[f"information_{n}"] for n in ("lower", "upper", "ceiling"))
    return [
        f"{silent} ({num_images} test images).",
        f"The latents tell between {low:.2f} and {high:.2f} nats of which image it is, I(x; z) "
        f"under the guide (Hoffman & Johnson 2016), from a stratified sample of {few} images: the "
        "lower bound holds each image's own posterior in the aggregate and cannot exceed "
        f"log {few} = {top:.2f}; the upper one leaves it out, and is not above the divergence "
        "(Poole et al. 2019).",
        "Bits back (Hinton & van Camp 1993; Chen et al. 2017): sending z costs its divergence, and "
        "saves what the image then costs less.",
    ]


def _warnings(units: xr.Dataset, told: dict[str, Any], settings: Settings) -> list[str]:
    found = [
        f"{site} has collapsed: none of its {int(size)} units has a divergence of "
        f"{settings.threshold:g} nats."
        for site, size, silent in zip(
            units["site"].values, units["num_units"].values, units["collapsed"].values, strict=True
        )
        if silent == size
    ]
    if told["information_lower"] > told["information_ceiling"] - 0.5:
        found.append(
            "The lower bound of I(x; z) is at its ceiling: it says little more than that the "
            f"images can be told apart; raise {NAME}.images."
        )
    if told["net"] < 0:
        found.append(
            "The latents cost more than they save: as a code, and as a generative model, this is "
            "worse than independent pixels."
        )
    return found


def _pictures(subject: Subject) -> list[Picture]:
    history = subject.history
    if history is None or "posterior_loc" not in history or not history.sizes["step"]:
        return []
    path = side_by_side({"this run": history}, subject.figures / "collapse.png")
    caption = (
        "Through training: lowest and highest posterior mean and deviation over all sites, the "
        "divergence, and the active units (variance of means)."
    )
    return [Picture(path, caption)]


def _by_site(values: xr.DataArray) -> dict[str, int]:
    numbers = zip(map(str, values["site"].values), values.values.tolist(), strict=True)
    return {site: int(value) for site, value in numbers if np.isfinite(value)}
