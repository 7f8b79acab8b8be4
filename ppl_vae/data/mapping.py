"""Telling the system which rows of a mapped file are wanted next.

A row that is touched without warning is waited for, and the system reads what lies around it as
well, megabytes where it is set up for files read from end to end: of rows at random places that is
mostly in vain. Asked for beforehand, they come exactly, many at a time, while others are used.
"""

from __future__ import annotations

__all__ = ["want"]

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

_ADVICE = getattr(mmap, "MADV_WILLNEED", None)  # none on Windows


def want(values: npt.NDArray[Any], places: npt.NDArray[np.integer[Any]]) -> None:
    """Have the rows of `values` at `places` (0 or more) read soon, if they are a file's.

    Args:
        values: `numpy.memmap`, or a view of one; nothing is done about others.
    """
    found = _mapped(values)
    if _ADVICE is None or found is None or not places.size:
        return
    whole, begin = found
    first = begin + np.unique(places).astype(np.int64) * values.strides[0]
    start = first // mmap.PAGESIZE * mmap.PAGESIZE
    stop = first + _reach(values)
    apart = np.flatnonzero(start[1:] > stop[:-1])  # neighbours are asked for together
    starts = start[np.concatenate([[0], apart + 1])]
    stops = stop[np.concatenate([apart, [len(stop) - 1]])]
    with suppress(OSError):  # a file system may take no advice: rows are then waited for
        for low, high in zip(starts.tolist(), stops.tolist(), strict=True):
            whole.madvise(_ADVICE, low, high - low)


def _mapped(values: Any) -> tuple[mmap.mmap, int] | None:
    """The mapping that an array views, and at which of its bytes the array begins."""
    whole = values
    while isinstance(whole, np.ndarray):
        whole = whole.base
    if not isinstance(whole, mmap.mmap) or min(values.strides, default=-1) < 0:
        return None
    return whole, values.ctypes.data - np.frombuffer(whole, np.uint8).ctypes.data


def _reach(values: npt.NDArray[Any]) -> int:
    """Bytes from the beginning of a row to its end."""
    steps = zip(values.shape[1:], values.strides[1:], strict=True)
    return values.itemsize + sum((size - 1) * stride for size, stride in steps)
