"""What the checks that bound the likelihood share: images fixed once, their weights, progress."""

from __future__ import annotations

__all__ = [
    "annealed",
    "check_starts",
    "describe_moves",
    "error",
    "finite",
    "fixed",
    "importance",
    "movable",
    "number",
    "simulated",
]

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.annealing import Annealed, AnnealingSettings, joined
from ppl_vae.errors import UsageError
from ppl_vae.judging.subject import Subject

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.comparison import Number
    from ppl_vae.data import Images


def check_starts(check: str, starts: Sequence[str]) -> None:
    """UsageError where there is no start of a path, or one of them twice."""
    if not starts or len(set(starts)) < len(starts):
        raise UsageError(
            f"{check}.starts: expected guide, prior, or both, came {list(starts)}: such as "
            f"--set {check}.starts=[guide]"
        )


def movable(subject: Subject, check: str, **least_one: int) -> None:
    """UsageError, before anything long, about a number below 1 or a site without gradients."""
    for name, value in least_one.items():
        if value < 1:
            raise UsageError(f"{check}.{name}: expected at least 1, came {value}")
    if subject.batch_norm != "running":
        raise UsageError(
            f"batch_norm: expected running for {check}, came {subject.batch_norm}: all of its "
            "bounds are of one and the same model"
        )
    if subject.params is None:  # a module; plain functions are looked at on the way
        subject.programs.check_moves(subject.model)


def fixed(subject: Subject, count: int, check: str) -> Images:
    """The first `count` images that are asked about, at most all: 0 and 1 drawn once for all.

    Bounds compare on one and the same binarisation alone; that of a position is `seed`'s.
    """
    if count < 1:
        raise UsageError(f"{check}.images: expected at least 1, came {count}")
    images = subject.images.take(min(count, len(subject.images)))
    return images.fixed(subject.seed) if images.binarization == "dynamic" else images


def simulated(subject: Subject, count: int, check: str) -> tuple[Any, dict[str, Any]]:
    """(images (n, c, h, w), {site: (n, …)}) from the model: each with its exact posterior draw."""
    if count < 1:
        raise UsageError(f"{check}.images: expected at least 1, came {count}")
    drawn = subject.programs.sample(subject.model, count, **subject.drawn)
    arrays = {name: np.asarray(value) for name, value in drawn.items()}
    x = arrays.pop("x")
    del arrays["x_mean"]
    return x, arrays


def importance(subject: Subject, images: Any, num_samples: int) -> xr.Dataset:
    """`evaluation.likelihood_ladder` of these images."""
    from evaluation import likelihood_ladder

    blocks = subject.programs.stream_log_weights(
        *subject.pair, images, num_samples, **subject.drawn
    )
    counted = _progress(blocks, len(images), f"L_{num_samples}", lambda block: block.shape[1])
    return likelihood_ladder(counted)


def annealed(
    subject: Subject,
    images: Any,
    settings: AnnealingSettings,
    latents: dict[str, Any] | None = None,
) -> Annealed:
    """Annealed chains of these images, with progress."""
    # A seed of its own: pilots and chains share no noise with what simulated the images.
    drawn = {**subject.drawn, "seed": subject.seed + 1}
    blocks = subject.programs.stream_annealed_log_weights(
        *subject.pair, images, settings, latents=latents, **drawn
    )
    what = f"annealing from the {settings.start}"
    return joined(_progress(blocks, len(images), what, lambda part: part.forward.shape[1]))


def describe_moves(data: xr.Dataset) -> None:
    """Units and meaning of how chains moved, in place."""
    data["acceptance"].attrs.update(units="1", long_name="mean acceptance of forward moves")
    data["step_size"].attrs.update(units="1", long_name="leapfrog step, in units of u, frozen")


def number(value: Any, of: Any = None) -> Number | None:
    """A table's cell: a value, and its error where there is one; nothing where it is NaN."""
    from evaluation.comparison import Number

    if np.isnan(value):
        return None
    return Number(float(value), None if of is None or not np.isfinite(of) else float(of))


def error(values: Any) -> float:
    """Standard error of the mean over images; NaN for one image."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan


def finite(told: dict[str, Any]) -> dict[str, Any]:
    """NaN and infinity as None: the JSON is strict."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in told.items()
    }


def _progress(parts: Iterable[Any], num_images: int, what: str, count: Any) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(total=num_images, desc=what, unit="image", delay=1.0) as bar:
        for part in parts:
            yield part
            bar.update(count(part))
