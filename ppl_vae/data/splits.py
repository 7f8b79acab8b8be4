"""Splits that are the same in every run: fixed positions, no argument to forget."""

from __future__ import annotations

__all__ = ["hold_out", "split_positions"]

import numpy as np
import numpy.typing as npt

from ppl_vae.data.images import Images
from ppl_vae.errors import UsageError


def split_positions(n: int, num_test: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of n images to train and to test with, drawn once and for all from seed 0.

    The stream is NumPy's `RandomState`, which is frozen. Training positions come shuffled, so that
    images held out from their end are a fair sample even where files are sorted by class.

    >>> train, test = split_positions(10, 3)
    >>> len(train), len(test), sorted([*train.tolist(), *test.tolist()]) == list(range(10))
    (7, 3, True)
    """
    order = np.random.RandomState(0).permutation(n).astype(np.int64)
    return order[: n - num_test], np.sort(order[n - num_test :])


def hold_out(train: Images, valid: int) -> tuple[Images, Images | None]:
    """Part the last `valid` images from `train`; none for 0."""
    if isinstance(valid, bool) or not isinstance(valid, int | np.integer) or valid < 0:
        raise UsageError(
            f"valid: expected a number of images to hold out, 0 for none, came {valid!r}"
        )
    if valid == 0:
        return train, None
    if valid >= len(train):
        raise UsageError(
            f"valid: expected fewer than the {len(train)} training images, came {valid}: "
            "hold out fewer"
        )
    return train[:-valid], train[-valid:]
