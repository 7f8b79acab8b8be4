"""scikit-learn's digits: 1,797 grey images of 8 x 8, shipped with the library, so no download.

They are the test part of the UCI set of optically recognised digits: each pixel counts, 0 to 16,
the black dots of a 4 x 4 field, brought to 0 ... 255 here. Split into 1,500 to train and 297 to
test with, drawn once and for all (`splits.split_positions`).
"""

from __future__ import annotations

__all__ = ["SOURCE", "read"]

from pathlib import Path

import numpy as np

from ppl_vae.data.images import Images, Source
from ppl_vae.data.splits import split_positions
from ppl_vae.errors import UsageError

SOURCE = Source(
    title="Digits (scikit-learn)",
    url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    licence="CC BY 4.0",
    citation="Alpaydin & Kaynak 1998, Optical recognition of handwritten digits",
    split="1,500 / 297 (ours, drawn once)",
    size=(1, 8, 8),
    num_levels=17,
    checksum="none needed: part of scikit-learn",
)


def read(path: str | Path | None = None) -> tuple[Images, Images]:
    """Grey images to train and to test with, with the digit as label."""
    if path is not None:
        raise UsageError(
            f"path: expected none for digits, which scikit-learn ships, came {path}: leave it out, "
            "or take 'folder', 'npy' or 'npz' for images of your own"
        )
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    grey = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    every = Images(grey, labels.astype(np.int64))
    train, test = split_positions(len(every), 297)
    return every[train], every[test]
