"""Figures made of images: grids, reconstructions, samples beside their nearest training images.

Images are (n, channels, height, width): uint8 in 0..255, uint8 in 0..1 where no value exceeds 1
(binary), or floats in [0, 1] (clipped). One channel is drawn grey, three in colour, any other
number as the mean over channels. Small images are enlarged by whole factors, so that every pixel
stays a square. Each function returns the path it wrote.
"""

from __future__ import annotations

__all__ = [
    "image_grid",
    "nearest_images",
    "reconstructions",
    "samples_over_time",
    "samples_with_neighbours",
    "worst_images",
]

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from evaluation._canvas import GREY, drawing, save
from ppl_vae.data.reading import on_disk
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

_DPI = 100
_HELD = 2**25  # training values compared at a time
_WIDTH = 880  # pixels that the tiles may take
_MIN_WIDTH = 240
_GAP, _MARGIN, _CAPTION = 4, 14, 17  # pixels: between tiles, around all, a line of text
_TILE = (16, 72)  # pixels a tile: least, most


def image_grid(
    images: Array,
    path: str | Path,
    *,
    columns: int | None = None,
    limit: int = 100,
    title: str = "",
) -> Path:
    """The first `limit` images in rows of `columns` (left out: wider than high, full rows)."""
    tiles = _tiles(images, "images", limit)
    columns = columns or _columns(len(tiles))
    rows = [_Row(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return _draw(rows, path, title or f"{len(tiles)} images")


def reconstructions(
    originals: Array,
    reconstructed: Array,
    path: str | Path,
    *,
    columns: int = 10,
    limit: int = 20,
    title: str = "",
) -> Path:
    """The first `limit` originals, (n, c, h, w), each above its reconstruction."""
    if np.shape(originals) != np.shape(reconstructed):
        raise UsageError(
            f"reconstructed: expected the originals' shape {np.shape(originals)}, "
            f"came {np.shape(reconstructed)}"
        )
    above, below = (
        _tiles(originals, "originals", limit),
        _tiles(reconstructed, "reconstructed", limit),
    )
    rows = _pairs(above, below, ("original", "reconstruction"), columns)
    return _draw(rows, path, title or "Originals and their reconstructions")


def samples_with_neighbours(
    samples: Array,
    train_images: Array,
    path: str | Path,
    *,
    columns: int = 10,
    limit: int = 20,
    title: str = "",
) -> Path:
    """The first `limit` prior samples, each above its nearest training image and their distance.

    A sample that *is* a training image shows memorisation. Distances are Euclidean over all grey
    values in [0, 1], and cover the whole training set.
    """
    samples = _checked(samples, "samples")[:limit]
    index, distance = nearest_images(samples, train_images)
    above, below = (
        _tiles(samples, "samples", limit),
        _tiles(np.asarray(train_images)[index], "train_images", limit),
    )
    rows = _pairs(above, below, ("sample", "nearest"), columns, [f"{d:.1f}" for d in distance])
    lowest, median = distance.min(), np.median(distance)
    subtitle = f"Euclidean distance below each pair; median {median:.2f}, lowest {lowest:.2f}"
    return _draw(rows, path, title or "Prior samples and their nearest training images", subtitle)


def samples_over_time(
    history: Sequence[tuple[int, Array]],
    path: str | Path,
    *,
    columns: int = 12,
    rows: int = 8,
    title: str = "",
) -> Path:
    """One row of samples an epoch, from `[(epoch, images), ...]`; at most `rows`, evenly spaced."""
    if not history:
        raise UsageError("history: expected one (epoch, images) or more, came none")
    steps = np.linspace(0, len(history) - 1, min(rows, len(history))).round().astype(int)
    shown = [history[i] for i in sorted(set(steps.tolist()))]
    drawn = [_Row(_tiles(images, "images", columns), f"epoch {epoch}") for epoch, images in shown]
    return _draw(drawn, path, title or "Samples as training went on")


def worst_images(
    images: Array,
    reconstructed: Array,
    pareto_k: Array,
    path: str | Path,
    *,
    places: Sequence[int] | None = None,
    columns: int = 10,
    title: str = "",
) -> Path:
    """Images by falling Pareto k, (n,), each above its reconstruction.

    Below each pair stand its k and, in brackets, its place: `places`, or its position here.
    """
    k = np.asarray(pareto_k, dtype=np.float64)
    if np.shape(images) != np.shape(reconstructed) or k.shape != (len(images),):
        raise UsageError(
            f"pareto_k: expected one k and one reconstruction for each of {len(images)} images, "
            f"came shapes {k.shape} and {np.shape(reconstructed)}"
        )
    order = np.argsort(-k, kind="stable")  # NaN comes last
    names = np.arange(len(k)) if places is None else np.asarray(places)
    above, below = (
        _tiles(np.asarray(images)[order], "images", len(k)),
        _tiles(np.asarray(reconstructed)[order], "reconstructed", len(k)),
    )
    captions = [f"{k[i]:.2f} ({names[i]})" for i in order]
    rows = _pairs(above, below, ("image", "reconstruction"), columns, captions)
    return _draw(rows, path, title or "Images with the highest Pareto k", "k, and the place, below")


def nearest_images(
    samples: Array, train_images: Array, *, block: int = 2048
) -> tuple[Array, Array]:
    """Each sample's nearest training image: its index, (samples,) int64, and distance, float64.

    Euclidean over grey values in [0, 1]; `train_images` may be memory-mapped and is read `block`
    images at a time, fewer of large ones.
    """
    samples, train_images = _checked(samples, "samples"), _checked(train_images, "train_images")
    if samples.shape[1:] != train_images.shape[1:]:
        raise UsageError(
            f"train_images: expected images of shape {samples.shape[1:]} as the samples are, "
            f"came {train_images.shape[1:]}"
        )
    wanted = _unit(samples, _divisor(samples)).reshape(len(samples), -1)
    divisor = _divisor(train_images)
    block = max(1, min(block, _HELD // wanted.shape[1]))
    index = np.zeros(len(wanted), dtype=np.int64)
    lowest = np.full(len(wanted), np.inf)
    for start in range(0, len(train_images), block):
        rows = _unit(train_images[start : start + block], divisor)
        rows = rows.reshape(len(rows), -1)
        # |a - b|^2 = |a|^2 - 2 a.b + |b|^2, and |a|^2 changes nothing in the order
        squares = np.square(rows).sum(axis=1) - 2.0 * (wanted @ rows.T)
        best = squares.argmin(axis=1)
        square = squares[np.arange(len(wanted)), best]
        better = square < lowest
        index[better], lowest[better] = start + best[better], square[better]
    found = _unit(train_images[index], divisor).reshape(len(wanted), -1)
    return index, np.sqrt(np.square(wanted - found).sum(axis=1))


class _Row(NamedTuple):
    tiles: Array  # (columns, height, width, 3) in [0, 1]
    label: str = ""
    captions: Sequence[str] = ()
    space: int = 0  # pixels above, over the ordinary gap


def _pairs(
    above: Array, below: Array, labels: tuple[str, str], columns: int, captions: Sequence[str] = ()
) -> list[_Row]:
    rows: list[_Row] = []
    for i in range(0, len(above), columns):
        part = slice(i, i + columns)
        rows.append(_Row(above[part], labels[0], space=14 if i else 0))
        rows.append(_Row(below[part], labels[1], captions[part]))
    return rows


def _columns(count: int) -> int:
    """Columns for `count` tiles: a divisor near 1.6 : 1 where there is one, for a full last row."""
    wanted = math.sqrt(1.6 * count)
    divisors = [c for c in range(1, 17) if count % c == 0 and 0.6 * wanted <= c <= 1.5 * wanted]
    return min(divisors, key=lambda c: abs(c - wanted), default=min(16, math.ceil(wanted)))


def _draw(rows: list[_Row], path: str | Path, title: str, subtitle: str = "") -> Path:
    """Rows of tiles at exact pixel positions under a title."""
    columns = max(len(row.tiles) for row in rows)
    rows = [row._replace(tiles=_resize(row.tiles, columns)) for row in rows]
    labels = max(len(row.label) for row in rows)
    left = _MARGIN + (12 + 7 * labels if labels else 0)
    top = _MARGIN + 24 + (18 if subtitle else 0)
    text = _MARGIN + max(8.6 * len(title), 6.6 * len(subtitle))
    tiles = left + columns * (rows[0].tiles.shape[2] + _GAP)
    width = math.ceil(max(tiles, text, _MIN_WIDTH) + _MARGIN)
    height = top + sum(map(_height, rows)) + _MARGIN
    with drawing(width / _DPI, height / _DPI, dpi=_DPI, constrained=False) as figure:
        _text(figure, _MARGIN, 8, title, size=11, weight="bold")
        _text(figure, _MARGIN, 30, subtitle, size=8.5, color=GREY)
        canvas = np.ones((height, width, 3))
        for row in rows:
            _paste(figure, canvas, row, left, top + row.space)
            top += _height(row)
        figure.figimage(canvas, origin="upper", zorder=-1)
        return save(figure, path)


def _height(row: _Row) -> int:
    return int(row.space + row.tiles.shape[1] + _GAP + (_CAPTION if row.captions else 0))


def _paste(figure: Any, canvas: Array, row: _Row, left: int, y: int) -> None:
    """One row with its label and captions, its upper left tile at pixel (left, y)."""
    height, width = row.tiles.shape[1:3]
    _text(figure, left - 10, y + height / 2, row.label, size=9, ha="right", va="center", color=GREY)
    for i, tile in enumerate(row.tiles):
        x = left + i * (width + _GAP)
        canvas[y - 1 : y + height + 1, x - 1 : x + width + 1] = 0.72  # white tiles have edges too
        canvas[y : y + height, x : x + width] = tile
        if row.captions:
            below = (x + width / 2, y + height + 3)
            _text(figure, *below, row.captions[i], size=7.5, ha="center", color=GREY)


def _text(figure: Any, x: float, y: float, text: str, *, va: str = "top", **style: Any) -> None:
    """Text at pixels from the upper left corner."""
    if text:
        width, height = figure.get_size_inches() * _DPI
        figure.text(x / width, 1.0 - y / height, text, va=va, **style)


def _resize(tiles: Array, columns: int) -> Array:
    """Tiles enlarged by a whole factor, or shrunk by block means, so that `columns` of them fit."""
    height, width = tiles.shape[1:3]
    least, most = _TILE
    goal = min(most, max(least, _WIDTH // columns - 3))
    if max(height, width) <= goal:
        factor = goal // max(height, width)
        return tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    factor = math.ceil(max(height, width) / goal)
    padding = [(0, 0), (0, -height % factor), (0, -width % factor), (0, 0)]
    padded = np.pad(tiles, padding, mode="edge")
    n, height, width, channels = padded.shape
    blocks = padded.reshape(n, height // factor, factor, width // factor, factor, channels)
    return np.asarray(blocks.mean(axis=(2, 4)))


def _tiles(images: Array, argument: str, limit: int) -> Array:
    """(n, height, width, 3) in [0, 1] of the first `limit` images."""
    images = _checked(images, argument)
    shown = _unit(images[:limit], _divisor(images))
    if shown.shape[1] != 3:
        shown = shown.mean(axis=1, keepdims=True).repeat(3, axis=1)
    return shown.transpose(0, 2, 3, 1)


def _checked(images: Any, argument: str) -> Array:
    images = images.detach().cpu() if hasattr(images, "detach") else images
    array = images if isinstance(images, np.ndarray) or on_disk(images) else np.asarray(images)
    if array.ndim != 4 or 0 in array.shape:
        raise UsageError(
            f"{argument}: expected images (n, channels, height, width), one or more, "
            f"came shape {array.shape}"
        )
    return array


def _divisor(images: Array) -> float:
    """What brings these images to [0, 1]: judged over all of them, never over a block."""
    return 255.0 if images.dtype.kind in "iu" and images.max() > 1 else 1.0


def _unit(images: Array, divisor: float) -> Array:
    values = np.asarray(images, dtype=np.float64) / divisor
    if not np.isfinite(values).all():
        raise UsageError("images: a value is NaN or infinite: look at the model that made them")
    return values.clip(0.0, 1.0)
