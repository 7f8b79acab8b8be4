"""`ppl-vae inpaint RUN IMAGE... --mask MASK`: what could stand where an image is missing.

An image is a file of the run's size, or a number: that image of the test split. A mask is a kind
(`ppl_vae.data.masks.KINDS`) or a picture, bright where the image is known. The sheet has a row an
image: itself, what is known of it, its completions, and below each the nearest training image.
Where the run's images are binary the image is binarised once for the program; what is written shows
the image's own bytes wherever it is known. A run that was trained on whole images fills in too, by
chains of moves on its latents (`infer_missing`), at temperature 1. Where a run's images come with
vectors, a test image has its own unless --label or --condition says what to take.
"""

from __future__ import annotations

__all__ = ["inpaint"]

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae import experiment
from ppl_vae.data import Dataset, Images
from ppl_vae.data.conditions import one_hot, read_vector
from ppl_vae.data.folder import read_image
from ppl_vae.data.masks import KINDS, check_masks, draw_masks, read_mask
from ppl_vae.errors import UsageError, nearest
from ppl_vae.recipes import Recipe
from ppl_vae.runs import Run, load
from ppl_vae.temperatures import check_factor
from ppl_vae.typed import room


def inpaint(args: Namespace) -> None:
    """Completions of images, as one sheet or a file of numbers."""
    from evaluation.completions import completion_sheet, save_sheet

    run = Run.open(args.run)
    recipe = Recipe.from_dict(run.recipe)
    out = args.out or run.figures / "inpainted.png"
    if out.suffix not in (".png", ".npz"):
        raise UsageError(f"--out: expected a .png or .npz file, came {out}: change its ending")
    check_factor(args.temperature)
    ppl = args.ppl or run.ppl
    data = experiment.data_of(run, recipe)
    grey = np.stack([_image(given, data) for given in args.images])
    masks = _masks(args.mask, len(grey), data.x_shape[1:], args.seed)
    vectors = _vectors(args, data, recipe.data.condition)
    drawn = _completed(args, run, ppl, grey, masks, vectors, data)
    if out.suffix == ".npz":
        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out, x=grey, known=masks, completions=drawn)
    else:
        save_sheet(completion_sheet(grey, masks, drawn, data.train.pixels), out)
    print(out)


def _completed(
    args: Namespace, run: Run, ppl: str, grey: Any, masks: Any, vectors: Any, data: Dataset
) -> np.ndarray:
    """(count, n, c, h, w) uint8, the known pixels those of `grey`."""
    images = Images(grey)
    if data.test.binarization == "static":  # as test images are, once
        images = images.fixed(args.seed)
    if vectors is not None:
        images = images.with_vectors(vectors)
    model, guide = load(run, ppl, args.weights)
    asked = images.with_masks(masks)
    drawn = {"seed": args.seed, "batch_norm": args.batch_norm}
    if data.test.masked:
        means = room(ppl).complete(model, asked, args.count, temperature=args.temperature, **drawn)
    else:
        means = room(ppl).infer_missing(model, guide, asked, args.count, **drawn)
    shown = np.round(np.asarray(means) * 255).clip(0, 255).astype(np.uint8)
    return np.where(masks.astype(bool), grey, shown)


def _vectors(args: Namespace, data: Dataset, condition: str | None) -> Any:
    """(n, d): the vector of each image; None where the run takes none."""
    asked = "--label" if args.label is not None else "--condition"
    given = args.label is not None or args.condition is not None
    size, count = data.test.condition, len(args.images)
    if not size:
        if given:
            raise UsageError(
                f"{asked}: expected none, for a run without a condition: train one with "
                "data.condition and model.init_args.condition"
            )
        return None
    if args.label is not None:
        if args.condition is not None or condition != "label":
            raise UsageError(
                f"--label: expected --condition FILE alone, for a run on the vectors of {condition}"
                if condition != "label"
                else "--label: expected it or --condition, came both: leave one out"
            )
        return np.repeat(one_hot([args.label], size, "--label"), count, axis=0)
    if args.condition is not None:
        return np.repeat(read_vector(args.condition, size), count, axis=0)
    own = data.test.vectors
    if own is None or not all(image.isdecimal() for image in args.images):
        raise UsageError(
            "IMAGE: a file comes without a vector, which this run takes: add --label or --condition"
        )
    return own[[int(image) for image in args.images]]


def _image(given: str, data: Dataset) -> Any:
    """(c, h, w) uint8 grey values of a file or of a test image."""
    channels, height, width = data.test.pixels.shape[1:]
    if given.isdecimal():
        if int(given) >= len(data.test):
            raise UsageError(
                f"IMAGE: expected 0 to {len(data.test) - 1}, the test images' numbers, came {given}"
            )
        image = data.test.pixels[int(given)]
        return image * np.uint8(255) if data.test.binarization == "static" else image
    _check_file("IMAGE", given, "an image's path, or a test image's number")
    image = read_image(Path(given), channels)
    if image.shape != (channels, height, width):
        raise UsageError(
            f"{given}: expected an image of {height} x {width} pixels (height x width), as the run "
            f"was trained on, came {image.shape[1]} x {image.shape[2]}: rescale it"
        )
    return image


def _masks(given: str, count: int, size: Sequence[int], seed: int) -> Any:
    """(n, 1, h, w) of a kind, or of a picture; neither all known nor all missing."""
    shape = (size[0], size[1])
    if given in KINDS:
        masks = draw_masks(given, count, shape, seed)
        check_masks(masks, shape, f"--mask {given}")
        return masks
    if not Path(given).suffix and not Path(given).exists():
        raise UsageError(
            f"--mask: no kind {given!r}: {nearest(given, KINDS)}; or give a picture's path"
        )
    _check_file("--mask", given, "a picture's path, or a kind of mask")
    return np.repeat(read_mask(given, shape), count, axis=0)


def _check_file(what: str, given: str, remedy: str) -> None:
    if not Path(given).is_file():
        came = "a folder" if Path(given).is_dir() else "no such file"
        raise UsageError(f"{what}: expected a picture, came {given}, {came}: give {remedy}")
