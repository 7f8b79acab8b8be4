"""Pareto k of each image's importance weights, the worst images shown; pixels left out if wanted.

A thousand samples an image, as the likelihood's; leaving pixels out takes seconds an image.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge", "ready"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.errors import UsageError
from ppl_vae.judging.choosing import chosen, once
from ppl_vae.judging.subject import Finding, Subject

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.page import Chapter
    from ppl_vae.data import Images

NAME = "psis"


@dataclass(frozen=True)
class Settings:
    """Args:
    samples: importance samples an image, from 25 on; k is reliable from 1000 on.
    worst: images shown.
    pixels: places of images whose pixels are left out one at a time.
    """

    samples: int = 1000
    worst: int = 20
    pixels: tuple[int, ...] = ()


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where there are no such images, or no samples."""
    if settings.samples < 1:
        raise UsageError(f"psis.samples: expected at least 1, came {settings.samples}")
    if settings.pixels:
        chosen(subject.images, settings.pixels, "psis.pixels")


def judge(subject: Subject, settings: Settings) -> Finding:
    """k by image, and leave-one-pixel-out of the images asked for."""
    import xarray as xr

    from evaluation import importance_weighted_nll
    from evaluation.pictures import worst_images

    images = once(subject.images, subject.seed)
    left_out = _pixels(subject, images, settings) if settings.pixels else None
    blocks = subject.programs.stream_log_weights(
        *subject.pair, images, settings.samples, **subject.drawn
    )
    data = importance_weighted_nll(blocks)[["pareto_k", "ess", "pareto_k_bad", "num_samples"]]
    k = data["pareto_k"].values
    order = np.argsort(-k, kind="stable")
    order = order[~np.isnan(k[order])][: settings.worst]
    picture = None
    if len(order):
        shown = images[order]
        means = subject.programs.reconstruct(*subject.pair, shown, **subject.drawn)
        picture = worst_images(
            shown.images, np.asarray(means), k[order], subject.figures / "psis.png", places=order
        )
    told: dict[str, Any] = {
        "samples": settings.samples,
        "pareto_k_bad": _plain(data["pareto_k_bad"]),
        "highest": _plain(k[order[0]]) if len(order) else None,
        "median": _plain(np.nanmedian(k)) if len(order) else None,
        "worst": order.tolist(),
    }
    tree = xr.DataTree.from_dict({"weights": data})
    if left_out is not None:
        tree["pixels"] = xr.DataTree(left_out)
        told["elpd_pixels"] = [float(v) for v in left_out["elpd"].values]
    return Finding(NAME, tree, _chapter(data, left_out, told, picture), told)


def _pixels(subject: Subject, images: Images, settings: Settings) -> xr.Dataset:
    """Leave-one-pixel-out by weighted draws from the guide."""
    from evaluation.pixelwise import leave_one_pixel_out

    some = chosen(images, settings.pixels, "psis.pixels")
    latents, log_weights = subject.programs.weighted_draws(
        *subject.pair, some, settings.samples, **subject.drawn
    )
    pixels = subject.programs.pixel_log_likelihood(*subject.pair, some, latents, **subject.drawn)
    left_out = leave_one_pixel_out(pixels, log_weights)
    return left_out.assign_coords(image=list(settings.pixels))


def _chapter(
    data: xr.Dataset, left_out: xr.Dataset | None, told: dict[str, Any], picture: Any
) -> Chapter:
    from evaluation.comparison import Number, Row
    from evaluation.likelihood import K_BAD
    from evaluation.page import Chapter, Picture, Table

    bad = told["pareto_k_bad"]
    row: Row = {
        "samples": told["samples"],
        "% k > 0.7": None if bad is None else Number(100 * bad, decimals=1),
        "median k": None if told["median"] is None else Number(told["median"]),
        "highest k": None if told["highest"] is None else Number(told["highest"]),
        "median ESS": Number(float(data["ess"].median()), decimals=1),
    }
    tables = [Table([row], "k of the importance weights p(x, z) / q(z | x), image by image")]
    if left_out is not None:
        rows: list[Row] = []
        for i in left_out["image"].values:
            one = left_out.sel(image=i)
            rows.append(
                {
                    "image": int(i),
                    "elpd of pixels": Number(float(one["elpd"]), float(one["elpd_se"])),
                    "p_loo": Number(float(one["p_loo"])),
                    "% pixels k > 0.7": Number(100 * float(one["pareto_k_bad"]), decimals=1),
                }
            )
        tables.append(Table(rows, "nats, ± standard error over pixels; higher is better"))
    text = (
        "Pareto k says how heavy the tail of an image's importance weights is, and so how far the "
        f"guide is from its posterior there. Above {K_BAD} the likelihood's estimate rests on a "
        "few samples. Leaving out one image has no meaning here: its latent is its own.",
    )
    warnings = [f"{100 * bad:.2g} % of images have Pareto k above {K_BAD}."] if bad else []
    pictures = [Picture(picture, "Highest k first, each image above its reconstruction")]
    return Chapter(
        "Pareto k by image", text, tables, pictures if picture is not None else (), warnings
    )


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(float(value)) else None
