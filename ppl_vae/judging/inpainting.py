"""How well missing parts of test images are filled in, beside fillings that need no training.

For each kind of mask: log p(missing | known) by importance weighting, PSNR and SSIM of the mean and
of the best of a few completions, their diversity; and the same for the mean of the training
images, the training image nearest on the known pixels, and the biharmonic equation. Completions are
means of the likelihood for one draw of the latents each.

A model that was trained on whole images fills in by inference (`infer_missing`), and its log
probability is a difference, log p(image) - log p(known): two bounds from below, so an estimate and
no bound. The second draws from the guide's answers to the completions (`known_log_weights`).
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge", "ready"]

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data import Images
from ppl_vae.data.masks import KINDS, check_kinds, draw_masks
from ppl_vae.errors import UsageError
from ppl_vae.judging.bounding import movable
from ppl_vae.judging.subject import Finding, Subject

if TYPE_CHECKING:
    import xarray as xr

NAME = "inpainting"
SHOWN = 6  # images of a sheet


@dataclass(frozen=True)
class Settings:
    """How it is measured.

    Args:
        kinds: of masks, with commas between (`ppl_vae.data.masks`).
        images: the first so many of those asked about.
        samples: importance samples an image; of a model of whole images the multiple of `count`
            below.
        count: completions an image.
    """

    kinds: str = "centre,half,strokes"
    images: int = 500
    samples: int = 100
    count: int = 8

    def __post_init__(self) -> None:
        for name in ("images", "samples", "count"):
            if (came := getattr(self, name)) < 1:
                raise UsageError(f"{NAME}.{name}: expected at least 1, came {came}")
        check_kinds(self.names, f"{NAME}.kinds")
        if "nothing" in self.names:
            known = ", ".join(kind for kind in KINDS if kind != "nothing")
            raise UsageError(
                f"{NAME}.kinds: expected masks that leave something known, came 'nothing': "
                f"take some of {known}"
            )

    @property
    def names(self) -> list[str]:
        return [kind.strip() for kind in self.kinds.split(",")]


def ready(subject: Subject, settings: Settings) -> None:
    """UsageError where there are no training images, or chains cannot fill in."""
    if subject.data is None:
        raise UsageError(f"{NAME}: expected a data set with training images, came none: give one")
    if not subject.images.masked:  # trained on whole images: by `infer_missing`
        movable(subject, NAME)


def judge(subject: Subject, settings: Settings) -> Finding:
    """Scores by kind of mask and filling.

    Raises:
        UsageError: no training images at hand.
    """
    import xarray as xr

    ready(subject, settings)
    plain = subject.images[: settings.images].without_masks()
    found, pictures, told = [], [], {}
    for kind in settings.names:
        masks = draw_masks(kind, len(plain), plain.x_shape[1:], subject.seed)
        scores, sheet = _of_kind(subject, settings, plain, masks, kind)
        found.append(scores)
        pictures.append(sheet)
        means = scores.mean("image")
        told[kind] = {
            str(filling): {
                str(name): round(float(means[name].sel(filling=filling)), 4)
                for name in means
                if np.isfinite(means[name].sel(filling=filling))
            }
            for filling in means.filling.values
        }
    data = xr.concat(found, xr.DataArray(settings.names, dims="mask", name="mask"))
    return Finding(NAME, data, _chapter(data, pictures, settings), told)


def _of_kind(
    subject: Subject, settings: Settings, plain: Images, masks: Any, kind: str
) -> tuple[xr.Dataset, Path]:
    """Scores over (filling, image), and the sheet of the first images."""
    import xarray as xr

    from evaluation.completions import completion_sheet, save_sheet
    from evaluation.inpainting import completion_scores

    asked = plain.with_masks(masks)
    known = masks.astype(bool)
    log_prob, draws = _filled(subject, settings, plain, asked)
    nan = np.full(len(plain), np.nan)
    values = plain.images / (1.0 if plain.binarization == "static" else 255.0)
    scores = completion_scores(values, known, draws)
    rows = {
        "model, mean": {
            "log_prob": log_prob,
            "psnr": scores.psnr_mean.values,
            "ssim": scores.ssim_mean.values,
            "diversity": scores.diversity.values,
        },
        f"model, best of {settings.count}": {
            "psnr": scores.psnr_best.values,
            "ssim": scores.ssim_best.values,
        },
        **_baselines(subject, plain, values, known),
    }
    names = ("log_prob", "psnr", "ssim", "diversity")
    table = xr.Dataset(
        {
            name: (("filling", "image"), [row.get(name, nan) for row in rows.values()])
            for name in names
        },
        coords={"filling": list(rows)},
    )
    grey = np.round(values * 255).astype(np.uint8)[:SHOWN]
    shown = np.round(draws[:, :SHOWN] * 255).clip(0, 255).astype(np.uint8)
    sheet = completion_sheet(grey, known[:SHOWN], shown, subject.train.pixels)
    return table, save_sheet(sheet, subject.figures / f"inpainting_{kind}.png")


def _filled(subject: Subject, settings: Settings, plain: Images, asked: Images) -> Any:
    """(log p(missing | known) (n,), completions (count, n, c, h, w))."""
    from evaluation import importance_weighted_nll

    programs, pair, drawn = subject.programs, subject.pair, subject.drawn

    def log_mean(weights: Any) -> Any:
        return -importance_weighted_nll(weights).nll.values

    if subject.images.masked:
        weights = programs.log_weights(*pair, asked, settings.samples, **drawn)
        return log_mean(weights), programs.complete(pair[0], asked, settings.count, **drawn)
    draws = programs.infer_missing(*pair, asked, settings.count, **drawn)
    samples = max(1, settings.samples // settings.count) * settings.count
    whole = programs.log_weights(*pair, plain, samples, **drawn)
    known = programs.known_log_weights(*pair, asked, draws, samples, **drawn)
    return log_mean(whole) - log_mean(known), draws


def _baselines(subject: Subject, plain: Images, values: Any, known: Any) -> dict[str, Any]:
    from evaluation.inpainting import (
        biharmonic_fill,
        mean_fill,
        nearest_fill,
        pixelwise_log_prob,
        psnr,
        ssim,
    )

    train = subject.train.pixels
    mean = train.mean(axis=0) / (1.0 if subject.train.binarization == "static" else 255.0)
    fillings = {
        "training mean": mean_fill(mean, values, known),
        "nearest training image": nearest_fill(train, values, known),
        "biharmonic": biharmonic_fill(values, known),
    }
    rows = {
        name: {"psnr": psnr(values, known, filled), "ssim": ssim(values, known, filled)}
        for name, filled in fillings.items()
    }
    if plain.binarization == "static":
        log_prob = pixelwise_log_prob(mean, len(train), values, known)
        rows["training mean"]["log_prob"] = log_prob
    return rows


def _chapter(data: xr.Dataset, pictures: list[Path], settings: Settings) -> Any:
    from evaluation.comparison import Number, Row
    from evaluation.page import Chapter, Picture, Table

    def cell(name: str, places: int, kind: str, filling: str) -> Any:
        values = data[name].sel(mask=kind, filling=filling).values
        if not np.isfinite(values).all():
            return None
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
        return Number(float(values.mean()), error, places)

    rows: list[Row] = [
        {
            "mask": str(kind),
            "filling": str(filling),
            "log p(missing | known)": cell("log_prob", 2, kind, filling),
            "PSNR, dB": cell("psnr", 2, kind, filling),
            "SSIM": cell("ssim", 3, kind, filling),
            "diversity": cell("diversity", 3, kind, filling),
        }
        for kind in data.mask.values
        for filling in data.filling.values
    ]
    text = (
        f"{data.sizes['image']} test images, {settings.samples} importance samples and "
        f"{settings.count} completions an image. Log probabilities are nats an image, of the "
        "missing pixels alone; PSNR is over missing pixels, SSIM over the completed image. All "
        "are higher for better. The best of several is picked with the original at hand.",
    )
    note = "± : standard error over images"
    caption = "Image, what is known of it, completions; below each the nearest training image."
    return Chapter("Inpainting", text, [Table(rows, note)], [Picture(p, caption) for p in pictures])
