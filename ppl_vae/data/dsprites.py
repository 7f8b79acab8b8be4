"""dSprites: 737,280 binary images of 64 x 64, every combination of five factors.

Matthey, Higgins, Hassabis & Lerchner 2017. Shape (3), scale (6), orientation (40), x (32) and
y (32) vary; colour is always white. The authors give no split: 73,728 images, drawn once and for
all, are kept to test with, and both parts stay in the file's order. Images take 3 GB of memory.

No checksum is published for the .npz: shapes, types and range are checked, that the factors are the
whole grid in its order, and the zip format's own checksum of each array. The archive's pickled
`metadata` is not read.
"""

from __future__ import annotations

__all__ = ["SOURCE", "read"]

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ppl_vae.data.fetching import LocalFile, RemoteFile, fetch
from ppl_vae.data.images import Factors, Images, Source
from ppl_vae.data.problems import READ_ERRORS, bad_file
from ppl_vae.data.splits import split_positions

SOURCE = Source(
    title="dSprites",
    url="https://github.com/google-deepmind/dsprites-dataset",
    licence="Apache-2.0 (the repository)",
    citation="Matthey, Higgins, Hassabis & Lerchner 2017, dSprites: disentanglement testing "
    "sprites dataset",
    split="663,552 / 73,728 (ours, drawn once)",
    size=(1, 64, 64),
    num_levels=2,
    checksum="none published: shapes, types, range and the grid of factors are checked",
)

_FILE = RemoteFile(
    "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
    (
        "https://github.com/google-deepmind/dsprites-dataset/raw/master/"
        "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
    ),
    None,
)
FACTORS = ("color", "shape", "scale", "orientation", "x", "y")
GRID = (1, 3, 6, 40, 32, 32)
_ROWS = 4096


def read(path: str | Path | None = None, *, grid: tuple[int, ...] = GRID) -> tuple[Images, Images]:
    """Images of 0 and 1 to train and to test with, with their factors and the shape as label.

    Args:
        path: the user's folder, or None.
        grid: values that each factor takes.
    """
    file = fetch("dsprites", _FILE, path=path)
    count = math.prod(grid)
    classes = _array(file, "latents_classes", (count, len(grid)), np.int64)
    if not np.array_equal(classes, np.stack(np.unravel_index(np.arange(count), grid), axis=1)):
        raise bad_file(
            file.path,
            "the whole grid of factors, last factor fastest",
            "another order",
            file.remedy,
        )
    values = _array(file, "latents_values", (count, len(grid)), np.float64)
    pixels = _array(file, "imgs", (count, 64, 64), np.uint8)
    if pixels.max() > 1:
        raise bad_file(file.path, "pixels of 0 and 1", int(pixels.max()), file.remedy)
    train, test = split_positions(count, count // 10)
    train.sort()  # so that they can be moved together where they stand
    # In the grid's order the first test images would all be squares.
    test = np.random.RandomState(1).permutation(test)
    factors = Factors(FACTORS, classes, values, ("color", "shape"))
    kept = pixels[test][:, None]
    return (
        Images(_compact(pixels, train)[:, None], classes[train, 1], "static", factors[train]),
        Images(kept, classes[test, 1], "static", factors[test]),
    )


def _array(file: LocalFile, name: str, shape: tuple[int, ...], dtype: type[Any]) -> Any:
    try:
        with file.path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            array = archive[name]
    except READ_ERRORS as error:
        raise bad_file(file.path, f"an array {name!r}", error, file.remedy) from error
    if array.shape != shape or array.dtype != dtype:
        raise bad_file(
            file.path,
            f"{name!r} as {np.dtype(dtype)} of shape {shape}",
            f"{array.dtype} of shape {array.shape}",
            file.remedy,
        )
    return array


def _compact(pixels: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The given rows, in rising order, moved to the front in place: no second 3 GB."""
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        pixels[start : start + len(part)] = pixels[part]
    return pixels[: len(rows)]
