"""A sheet of completions, pixel for pixel: no text, no smoothing, no change of colours.

Each image is a row: the image, what is known of it (missing pixels grey), its completions; below
them, if training images are given, the training image nearest to each completion.
"""

from __future__ import annotations

__all__ = ["completion_sheet", "save_sheet"]

import io
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluation.pictures import nearest_images

Array: TypeAlias = npt.NDArray[Any]

GAP, PAPER, HIDDEN = 2, 205, 128  # pixels between tiles; grey of the paper; of what is missing
TILE = 64  # pixels a tile is enlarged to, by whole factors, and at least as it is


def completion_sheet(
    images: Array, known: Array, completions: Array, train_images: Array | None = None
) -> Array:
    """(height, width, c) uint8 of images (n, c, h, w) uint8 and completions (count, n, c, h, w).

    Args:
        known: (n, 1, h, w), true where known; there each completion shows the image's own bytes.
        train_images: (m, c, h, w) uint8, in which the nearest are looked for (Euclidean, whole
            image).
    """
    known = known.astype(bool)
    blank = np.full_like(images[0], PAPER)
    rows = []
    for i, image in enumerate(images):
        draws = [np.where(known[i], image, one[i]) for one in completions]
        rows.append([image, np.where(known[i], image, HIDDEN).astype(np.uint8), *draws])
        if train_images is not None:
            index, _ = nearest_images(np.stack(draws) / 255.0, train_images)
            nearest = train_images[index]
            top = np.uint8(255 if train_images.max() <= 1 else 1)
            rows.append([blank, blank, *(nearest * top)])
    return _tiled(rows)


def save_sheet(sheet: Array, path: str | Path) -> Path:
    """Write it as PNG, without loss, whole or not at all."""
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet).save(buffer, format="png")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(buffer.getvalue())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _tiled(rows: list[list[Array]]) -> Array:
    channels, height, width = rows[0][0].shape
    factor = max(1, TILE // max(height, width))
    tall, wide = height * factor + GAP, width * factor + GAP
    shape = (len(rows) * tall + GAP, len(rows[0]) * wide + GAP, channels)
    sheet = np.full(shape, PAPER, np.uint8)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            large = tile.transpose(1, 2, 0).repeat(factor, axis=0).repeat(factor, axis=1)
            top, left = GAP + i * tall, GAP + j * wide
            sheet[top : top + height * factor, left : left + width * factor] = large
    return sheet
