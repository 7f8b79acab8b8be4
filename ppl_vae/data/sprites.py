r"""Sprites: binary images drawn from five known factors, after dSprites and without a download.

Matthey, Higgins, Hassabis & Lerchner 2017 (dSprites) has 737,280 images of 64 x 64; this smaller
set of the same kind is drawn by the code below. With (u, v) a pixel's centre in the sprite's own
frame (turned by `orientation` about the centre (x, y), in units of the sprite's radius), the pixel
is white where

.. math::
    \text{square}&: \max(|u|, |v|) \le 1/\sqrt2 \\
    \text{ellipse}&: u^2 + 4 v^2 \le 1 \\
    \text{heart}&: (a^2 + b^2 - 1)^3 \le a^2 b^3, \quad (a, b) = (1.25 u, 1.25 v + 0.25)

so every sprite lies within its radius, `scale` / 4 of the image's side, and the centre keeps a
quarter of the side from every edge: no sprite is cut. No pixel is smoothed. Unlike in dSprites the
orientation covers a quarter turn only: over a full one, a square looks the same four times and an
ellipse twice, and no encoder could tell which. The split is drawn once and for all; nothing here is
random otherwise.
"""

from __future__ import annotations

__all__ = ["GRID", "NAMES", "SHAPES", "SOURCE", "factors", "read", "render"]

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppl_vae.data.images import Array, Factors, Images, Source
from ppl_vae.data.splits import split_positions
from ppl_vae.errors import UsageError

Values = npt.NDArray[np.float64]

SHAPES = ("square", "ellipse", "heart")
NAMES = ("shape", "scale", "orientation", "x", "y")
GRID = (3, 5, 8, 12, 12)
"""Values that each factor takes: 17,280 images in all."""

SIZE = 32
"""Side of the images, unless another is asked for."""

SOURCE = Source(
    title="Sprites",
    url="ppl_vae/data/sprites.py",
    licence="Apache-2.0 (this project)",
    citation="this project, after Matthey, Higgins, Hassabis & Lerchner 2017, dSprites",
    split="15,552 / 1,728 (ours, drawn once)",
    size=(1, SIZE, SIZE),
    num_levels=2,
    checksum="none needed: drawn by the code",
)

_SMALLEST = 8
_ROWS = 512


def read(path: str | Path | None = None, *, image_size: int | None = None) -> tuple[Images, Images]:
    """Images of 0 and 1 to train and to test with, with their factors and the shape as label.

    Args:
        path: must be None.
        image_size: side in pixels; None takes 32, 64 is dSprites'.
    """
    if path is not None:
        raise UsageError(
            f"path: expected none for sprites, which are drawn, came {path}: leave it out, "
            "or take 'dsprites' for the files of that set"
        )
    every = factors()
    pixels = render(every.values, SIZE if image_size is None else image_size)
    images = Images(pixels[:, None], every.classes[:, 0], "static", every)
    train, test = split_positions(len(images), len(images) // 10)
    # In the grid's order the first test images would all be squares.
    return images[train], images[np.random.RandomState(1).permutation(test)]


def factors(grid: tuple[int, ...] = GRID) -> Factors:
    """The whole grid of factors, the last one fastest.

    Args:
        grid: how many values shape, scale, orientation, x and y take: shapes as in `SHAPES`; scales
            from 1/2 to 1; orientations from 0 in equal steps of a quarter turn, in radians; x (to
            the right) and y (down) from 0 to 1.

    >>> factors((3, 2, 1, 1, 1)).values[:2].tolist()
    [[0.0, 0.5, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]]
    """
    if len(grid) != len(NAMES) or min(grid) < 1 or grid[0] > len(SHAPES):
        raise UsageError(
            f"grid: expected five numbers of values, of shapes at most {len(SHAPES)}, came {grid}"
        )
    classes = np.stack(np.unravel_index(np.arange(math.prod(grid)), grid), axis=1)
    values = [
        np.arange(grid[0], dtype=np.float64),
        np.linspace(0.5, 1.0, grid[1]),
        np.arange(grid[2]) * (math.pi / 2 / grid[2]),
        np.linspace(0.0, 1.0, grid[3]),
        np.linspace(0.0, 1.0, grid[4]),
    ]
    columns = [value[classes[:, i]] for i, value in enumerate(values)]
    return Factors(NAMES, classes.astype(np.int64), np.stack(columns, axis=1), ("shape",))


def render(values: Values, size: int = SIZE) -> Array:
    """Images (n, size, size) of 0 and 1 from factor values (n, 5) in the order of `NAMES`.

    Args:
        values: shape (its position in `SHAPES`), scale in (0, 1], orientation in radians, x and y
            in [0, 1].
        size: side in pixels, at least 8.

    >>> low_on_the_left = render(np.array([[0, 1.0, 0, 0, 1]]), size=8)[0]
    >>> low_on_the_left.sum(axis=1).tolist(), low_on_the_left.sum(axis=0).tolist()
    ([0, 0, 0, 0, 0, 2, 2, 0], [0, 2, 2, 0, 0, 0, 0, 0])
    """
    if isinstance(size, bool) or size < _SMALLEST:
        raise UsageError(
            f"image_size: expected at least {_SMALLEST} pixels for sprites, came {size}"
        )
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(NAMES):
        raise UsageError(f"values: expected (n, 5) of {', '.join(NAMES)}, came {values.shape}")
    if not np.isin(values[:, 0], np.arange(len(SHAPES))).all() or not (values[:, 1] > 0).all():
        raise UsageError("values: expected shapes 0, 1 or 2 and scales above 0")
    pixels = np.empty((len(values), size, size), np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        pixels[rows] = _drawn(values[rows], size)
    return pixels


def _drawn(values: Values, size: int) -> npt.NDArray[np.bool_]:
    shape, scale, orientation, x, y = (column[:, None, None] for column in values.T)
    centres = (np.arange(size) + 0.5) / size
    right = (centres[None, None, :] - 0.25 - 0.5 * x) * (4 / scale)
    up = (0.25 + 0.5 * y - centres[None, :, None]) * (4 / scale)
    cos, sin = np.cos(orientation), np.sin(orientation)
    u, v = cos * right + sin * up, cos * up - sin * right
    white = np.zeros(u.shape, np.bool_)
    for kind, inside in enumerate((_square, _ellipse, _heart)):
        rows = shape[:, 0, 0] == kind
        white[rows] = inside(u[rows], v[rows])
    return white


def _square(u: Values, v: Values) -> npt.NDArray[np.bool_]:
    return np.maximum(np.abs(u), np.abs(v)) <= math.sqrt(0.5)


def _ellipse(u: Values, v: Values) -> npt.NDArray[np.bool_]:
    return u * u + 4 * v * v <= 1


def _heart(u: Values, v: Values) -> npt.NDArray[np.bool_]:
    a, b = 1.25 * u, 1.25 * v + 0.25
    square = a * a + b * b - 1
    return square * square * square <= a * a * b * b * b
