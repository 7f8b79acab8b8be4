"""Data sets of images: one file a source, one call to load any of them.

>>> digits = load("digits", binarization="dynamic", valid=200)
>>> len(digits.train), len(digits.valid), len(digits.test), digits.x_shape
(1300, 200, 297, (1, 8, 8))
>>> digits.train.binarization, digits.test.binarization
('dynamic', 'static')
"""

from __future__ import annotations

__all__ = ["Dataset", "Factors", "Images", "Source", "load", "names", "source"]

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppl_vae.data import (
    arrays,
    cifar10,
    colour,
    digits,
    dsprites,
    fashion_mnist,
    folder,
    mnist,
    omniglot,
    sprites,
)
from ppl_vae.data.conditions import conditioned
from ppl_vae.data.images import BINARIZATIONS, Dataset, Factors, Images, Source
from ppl_vae.data.masks import check_kinds, draw_mixed
from ppl_vae.data.splits import hold_out
from ppl_vae.errors import UsageError, nearest
from ppl_vae.seeds import check_seed

NUM_MASKS = 4096  # that training draws from

_READERS: dict[str, Any] = {
    "cifar10": cifar10,
    "digits": digits,
    "dsprites": dsprites,
    "fashion_mnist": fashion_mnist,
    "folder": folder,
    "hub": colour,
    "mnist": mnist,
    "npy": arrays,
    "npz": arrays,
    "omniglot": omniglot,
    "sprites": sprites,
    **colour.SETS,
}


def names() -> list[str]:
    """The names that `load` knows, in alphabetical order.

    >>> names()[:3]
    ['celeba64', 'celebahq256', 'cifar10']
    """
    return sorted(_READERS)


def source(name: str, binarization: str = "none") -> Source:
    """Title, split, size, range, licence and citation of a set, without loading it."""
    if name not in _READERS:
        raise UsageError(f"data: no set is called {name!r}: {nearest(str(name), _READERS)}")
    if (name, binarization) == ("mnist", "static"):
        return mnist.STATIC_SOURCE
    about: Source = _READERS[name].SOURCE
    return about


def load(
    name: str,
    *,
    binarization: Literal["none", "dynamic", "static"] = "none",
    valid: int = 0,
    path: str | Path | None = None,
    seed: int = 0,
    image_size: int | None = None,
    masks: Sequence[str] = (),
    repository: str | None = None,
    condition: str | Path | None = None,
) -> Dataset:
    """Load a set of images; the first time, and unless it is at hand, download it.

    Args:
        name: one of `names()`.
        binarization: "none", grey values; "dynamic", the training images are drawn anew at every
            use, those to validate and test with once; "static", all are drawn once (MNIST has
            Larochelle's published draw, dSprites is binary).
        valid: number of images held out from the end of the training images, 0 for none.
        path: for "folder", "npy" and "npz" what to read; for the others a folder that holds their
            files, searched in place of `PPL_VAE_DATA`, the cache and the network.
        seed: of the draws that are made once: test images take `seed`, the others `seed` + 1.
        image_size: for "folder" and "hub", the side in pixels to crop and rescale images to; for
            "sprites", the side to draw them at.
        masks: kinds of masks (`ppl_vae.data.masks`) that hide a part of each image, equally often;
            none hides nothing. Images then carry their mask as a last channel, 1 where a pixel is
            known: training images a fresh one at every use, out of `NUM_MASKS`, those to validate
            and test with one drawn once.
        repository: "owner/name" of one on the Hugging Face hub: for "hub" which; for the large
            colour sets one in place of the set's own. Or a folder that the package `datasets`
            reads as it does one, with Parquet files for instance.
        condition: gives each image a vector (`ppl_vae.data.conditions`): "label", its label
            one-hot, or a .npz file with arrays `train` (and `valid`) and `test`, a row an image.

    Raises:
        UsageError: unknown name, impossible request, missing or damaged files; one line with the
            way out.
    """
    about = source(name, binarization)
    _check_request(name, about, binarization, seed, image_size, masks)
    if repository is not None and name not in (known := ("hub", *colour.SETS)):
        raise UsageError(
            f"repository: expected none for {name!r}, came {repository!r}: leave it out, only "
            f"{', '.join(known)} come from the Hugging Face hub"
        )
    train, test = _read(name, binarization, path, image_size, repository)
    _check_grey(name, test.x_shape[0], binarization)
    found = _assemble(name, train, test, about, binarization, valid, seed)
    if condition is not None:
        found = conditioned(found, condition)
    return _masked(found, masks, seed) if masks else found


def _check_request(
    name: str,
    about: Source,
    binarization: str,
    seed: int,
    image_size: int | None,
    masks: Sequence[str],
) -> None:
    """What can be refused before anything is read or downloaded."""
    if binarization not in BINARIZATIONS:
        raise UsageError(
            f"binarization: no such way, {binarization!r}: "
            f"{nearest(str(binarization), BINARIZATIONS)}"
        )
    check_seed(seed)
    if masks:
        check_kinds(masks)
    if image_size is not None and name not in ("folder", "hub", "sprites"):
        raise UsageError(
            f"image_size: expected none for {name!r}, came {image_size}: only 'folder' and 'hub' "
            "rescale, and 'sprites' are drawn at any size"
        )
    if about.size is not None:
        _check_grey(name, about.size[0], binarization)


def _read(
    name: str,
    binarization: str,
    path: str | Path | None,
    image_size: int | None,
    repository: str | None,
) -> tuple[Images, Images]:
    if name == "folder":
        return folder.read(path, image_size=image_size)
    if name == "hub":
        return colour.read(path, repository, image_size)
    if name == "sprites":
        return sprites.read(path, image_size=image_size)
    if (name, binarization) == ("mnist", "static"):
        return mnist.read_static(path)
    if name in colour.SETS:
        return colour.SETS[name].read(path, repository)
    found: tuple[Images, Images] = _READERS[name].read(path)
    return found


def _check_grey(name: str, channels: int, binarization: str) -> None:
    if binarization != "none" and channels != 1:
        raise UsageError(
            f"binarization: expected 'none' for {name!r}, whose images have {channels} channels, "
            f"came {binarization!r}: leave them as they are, or make them grey"
        )


def _assemble(
    name: str,
    train: Images,
    test: Images,
    about: Source,
    binarization: Literal["none", "dynamic", "static"],
    valid: int,
    seed: int,
) -> Dataset:
    """Hold out, then draw what is drawn once."""
    if binarization == "static":
        kept, held = hold_out(train.fixed(seed + 1), valid)
        return Dataset(name, kept, held, test.fixed(seed), about)
    kept, held = hold_out(_grey(train, binarization), valid)
    test = _grey(test, binarization)
    if binarization == "dynamic":
        held = None if held is None else held.fixed(seed + 1)
        test = test.fixed(seed)
    return Dataset(name, kept, held, test, about)


def _masked(data: Dataset, kinds: Sequence[str], seed: int) -> Dataset:
    """Test images take masks of `seed`, the others of `seed` + 1 and + 2."""
    size = data.x_shape[1:]

    def once(images: Images, seed: int) -> Images:
        return images.with_masks(draw_mixed(kinds, len(images), size, seed))

    return replace(
        data,
        train=data.train.with_fresh_masks(draw_mixed(kinds, NUM_MASKS, size, seed + 2)),
        valid=None if data.valid is None else once(data.valid, seed + 1),
        test=once(data.test, seed),
    )


def _grey(images: Images, binarization: Literal["none", "dynamic", "static"]) -> Images:
    """Binary images as 0 and 255, in place where possible: dSprites takes 3 GB once, not twice."""
    values = images.images
    if images.binarization == "static":
        target = values if isinstance(values, np.ndarray) and values.flags.writeable else None
        values = np.multiply(values, np.uint8(255), out=target)
    return Images(values, images.labels, binarization, images.factors)
