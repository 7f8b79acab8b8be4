"""Masks of what is known of an image: 1 where a pixel is known, 0 where it is missing.

| kind | missing |
|---|---|
| centre | the square in the middle, half as wide and half as high as the image |
| half | the left, right, upper or lower half |
| rectangles | one to three rectangles, each a quarter to a half of the sides |
| strokes | two to four free-form strokes of a brush (after Yu et al. 2019, section 3.3) |
| nothing | everything: the whole image is to be drawn |

A mask depends on its kind, the seed and its number alone: the first n are the same whatever n.
"""

from __future__ import annotations

__all__ = ["KINDS", "check_kinds", "check_masks", "draw_mixed", "draw_masks", "read_mask"]

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppl_vae.errors import UsageError, nearest
from ppl_vae.seeds import check_seed

Masks = npt.NDArray[np.uint8]
"""(n, 1, height, width) of 0 and 1."""


def draw_masks(kind: str, n: int, size: tuple[int, int], seed: int = 0) -> Masks:
    """n masks of one kind, (n, 1, height, width) uint8, 1 where a pixel is known.

    Args:
        kind: one of `KINDS`.
        size: (height, width) of the images, two pixels at least.
        seed: a whole number, 0 or more.

    >>> draw_masks("centre", 1, (4, 4))[0, 0].tolist()
    [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    """
    check_kinds([kind], "mask")
    check_seed(seed)
    return np.concatenate([_one(kind, i, size, seed) for i in range(n)])


def draw_mixed(kinds: Sequence[str], n: int, size: tuple[int, int], seed: int = 0) -> Masks:
    """n masks, the kinds in turn."""
    check_kinds(kinds)
    check_seed(seed)
    return np.concatenate([_one(kinds[i % len(kinds)], i, size, seed) for i in range(n)])


def read_mask(file: str | Path, size: tuple[int, int]) -> Masks:
    """A user's mask (1, 1, height, width) from a picture: bright is known, dark is missing.

    Pixels from half of the range up (128 of 255) are known.

    Raises:
        UsageError: no picture, another size, everything known or everything missing.
    """
    from ppl_vae.data.folder import read_image

    grey = read_image(Path(file), 1)
    known = (grey[None] >= 128).astype(np.uint8)
    check_masks(known, size, str(file))
    return known


def check_masks(masks: Masks, size: tuple[int, int], name: str = "mask") -> None:
    """UsageError where masks are not of this size, or one leaves nothing to do."""
    if masks.shape[2:] != size:
        raise UsageError(
            f"{name}: expected a mask of {size[0]} x {size[1]} pixels (height x width), as the "
            f"images have, came {masks.shape[2]} x {masks.shape[3]}: rescale it"
        )
    share = masks.reshape(len(masks), -1).mean(axis=1)
    for wrong, what, remedy in (
        (share == 1.0, "all known", "make dark what is missing"),
        (share == 0.0, "all missing", "leave bright what is known"),
    ):
        if wrong.any():
            raise UsageError(
                f"{name}: expected some pixels known (bright) and some missing (dark), came "
                f"{what}: {remedy}"
            )


def check_kinds(kinds: Sequence[str], argument: str = "masks") -> None:
    """UsageError where a kind of mask is unknown, or none is given."""
    if not kinds:
        raise UsageError(f"{argument}: expected one kind or more, came none: {', '.join(KINDS)}")
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"{argument}: no kind {kind!r}: {nearest(str(kind), KINDS)}")


def _one(kind: str, i: int, size: tuple[int, int], seed: int) -> Masks:
    if size[0] * size[1] < 2:
        raise UsageError(
            f"masks: expected images of two pixels or more, came {size[0]} x {size[1]}"
        )
    known = np.ones(size, np.uint8)
    KINDS[kind](known, np.random.default_rng([seed, i]))
    if kind != "nothing":  # tiny images: something to go by, something to do
        if known.all():
            known[size[0] // 2, size[1] // 2] = 0
        if not known.any():
            known[0, 0] = 1
    return known[None, None]


def _centre(known: Masks, rng: np.random.Generator) -> None:
    height, width = known.shape
    top, left = height // 4, width // 4
    known[top : top + (height + 1) // 2, left : left + (width + 1) // 2] = 0


def _half(known: Masks, rng: np.random.Generator) -> None:
    height, width = known.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    sides = (np.s_[:, :columns], np.s_[:, width - columns :], np.s_[:rows], np.s_[height - rows :])
    known[sides[rng.integers(4)]] = 0


def _rectangles(known: Masks, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 4)):
        spans = []
        for side in known.shape:
            length = int(rng.integers(max(1, side // 4), max(1, side // 2) + 1))
            start = int(rng.integers(side - length + 1))
            spans.append(slice(start, start + length))
        known[tuple(spans)] = 0


def _strokes(known: Masks, rng: np.random.Generator) -> None:
    """Random walks with slowly turning direction, drawn with a round brush."""
    height, width = known.shape
    side = max(height, width)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(rng.integers(2, 5)):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        angle = rng.uniform(0, 2 * np.pi)
        radius = side * rng.uniform(0.05, 0.09)
        for _ in range(rng.integers(6, 14)):
            known[(rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 <= max(radius, 0.71) ** 2] = 0
            angle += rng.normal(0.0, 0.5)
            y = float(np.clip(y + 0.06 * side * np.sin(angle), 0, height))
            x = float(np.clip(x + 0.06 * side * np.cos(angle), 0, width))


def _nothing(known: Masks, rng: np.random.Generator) -> None:
    known[:] = 0


KINDS: dict[str, Callable[[Masks, np.random.Generator], None]] = {
    "centre": _centre,
    "half": _half,
    "rectangles": _rectangles,
    "strokes": _strokes,
    "nothing": _nothing,
}
