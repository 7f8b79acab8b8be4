"""Images on disk: several files as one array, and rows of them read ahead of their use.

Nothing here is ever held whole. What the system keeps of the files (its page cache) is its own to
drop, and counts for no process's anonymous memory.
"""

from __future__ import annotations

__all__ = ["Joined", "ahead", "on_disk", "parts_ahead", "shuffled"]

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ppl_vae.data.mapping import want
from ppl_vae.errors import UsageError

PART = 2**24  # bytes read at a time, or one step's images if those are more
READERS = 4  # threads, each with a part of its own: a disk answers many requests in the time of one
HELD = 2**26  # bytes of parts that are read, or being read, before they are asked for

Job = TypeVar("Job")
Part = TypeVar("Part")


class Joined:
    """Arrays on disk, one behind the other, as one array (n, …) that stands nowhere whole.

    It has what is asked of stored images: shape, length, rows at a slice, which stay on disk, rows
    at positions, which are read, and `numpy.asarray`, which reads all.

    Args:
        parts: arrays (n_i, …) of one type and one shape of a row, memory-mapped as a rule.

    Raises:
        UsageError: no parts, or parts that are not alike.

    >>> joined = Joined([np.arange(3), np.arange(3, 5)])
    >>> len(joined), joined[1:4][np.array([2, 0])].tolist(), joined[-2:].parts[0].tolist()
    (5, [3, 1], [3, 4])
    """

    def __init__(self, parts: Sequence[npt.NDArray[Any]]) -> None:
        if not parts:
            raise UsageError("parts: expected one array at least, came none")
        first = parts[0]
        for i, part in enumerate(parts):
            if (part.shape[1:], part.dtype) != (first.shape[1:], first.dtype):
                raise UsageError(
                    f"parts: expected rows of shape {first.shape[1:]} and type {first.dtype} in "
                    f"each, came {part.shape[1:]} and {part.dtype} in part {i}: make them alike"
                )
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.shape: tuple[int, ...] = (int(self.ends[-1]), *first.shape[1:])
        self.dtype, self.ndim = first.dtype, first.ndim

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes it would take in memory."""
        return self.size * self.dtype.itemsize

    def max(self) -> Any:
        """The greatest number, over one part after the other."""
        return max(part.max() for part in self.parts if part.size)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._between(*index.indices(len(self)))
        if isinstance(index, tuple):
            return np.asarray(self)[index]
        places = np.asarray(index)
        if places.ndim == 0:
            return self[places.reshape(1)][0]
        if places.dtype == np.bool_:
            places = np.flatnonzero(places)
        return self._at(places)

    def _between(self, start: int, stop: int, step: int) -> Any:
        if step != 1:
            return self._at(np.arange(start, stop, step))
        kept, begin = [], 0
        for part, end in zip(self.parts, self.ends.tolist(), strict=True):
            if begin < stop and end > start:
                kept.append(part[max(0, start - begin) : stop - begin])
            begin = end
        return Joined(kept or [self.parts[0][:0]])

    def _at(self, places: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(*places.shape, …), each part read once, in the file's own order."""
        flat = places.reshape(-1)
        flat = np.where(flat < 0, flat + len(self), flat)
        if flat.size and not (flat.min() >= 0 and flat.max() < len(self)):
            raise IndexError(f"places: expected 0 to {len(self) - 1}, came {flat.max()}")
        found = np.empty((flat.size, *self.shape[1:]), self.dtype)
        for part, here, rows in self.by_part(flat):
            found[here] = part[rows]
        return found.reshape(*places.shape, *self.shape[1:])

    def by_part(self, places: npt.NDArray[Any]) -> Iterator[tuple[Any, Any, Any]]:
        """Of the parts that places (n,) fall into: part, which places, and its rows there."""
        of = np.searchsorted(self.ends, places, side="right")
        for i in np.unique(of):
            here = np.flatnonzero(of == i)
            yield self.parts[i], here, places[here] - (self.ends[i] - len(self.parts[i]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("expected a copy to be allowed: the files are not one array")
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)


def on_disk(values: Any) -> bool:
    """Whether these are read from files as they are asked for."""
    return isinstance(values, np.memmap | Joined)


def shuffled(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Places 0 to `count` - 1 in an order that depends on `seed` and `epoch` alone.

    It is that of numbers from NumPy's Philox, whose stream is frozen: so neither the noise drawn
    before, nor the device, nor the number of processes has a part in it.

    >>> sorted(shuffled(5, seed=0, epoch=1).tolist())
    [0, 1, 2, 3, 4]
    """
    source = np.random.SeedSequence([int(seed) % 2**64, epoch])
    return np.argsort(np.random.Philox(source).random_raw(count)).astype(np.int64, copy=False)


def parts_ahead(values: Any, places: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[Any]]:
    """Rows (k, size, …) of `values` at `places` (steps, size), k steps of them at a time.

    The parts are of some `PART` bytes, or of two steps, or of one of more than `HELD`, and are read
    ahead of their use.
    """
    step = values[:1].nbytes * places.shape[1]
    counts = _counts(len(places), PART // step, 2 if step <= HELD else 1)
    ends = np.cumsum(counts).tolist()
    jobs = (places[end - count : end] for count, end in zip(counts, ends, strict=True))
    return ahead(lambda some: _read(values, some), jobs, step * max(counts))


def _counts(steps: int, most: int, least: int = 2) -> list[int]:
    """How many steps each part has: about `most`, and `least` where there are as many.

    They are all of one number, or of two: programs are compiled for each. A loop of one step is
    compiled unlike others, and rounds unlike them.

    >>> _counts(12, 5), _counts(13, 5), _counts(7, 1), _counts(3, 0, 1)
    ([4, 4, 4], [5, 4, 4], [3, 2, 2], [1, 1, 1])
    """
    parts = max(1, min(-(-steps // max(1, most)), steps // least))
    return [steps // parts + (i < steps % parts) for i in range(parts)]


def _read(values: Any, places: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Rows of `values`, in memory."""
    flat = places.reshape(-1)
    if isinstance(values, Joined):
        for part, _, rows in values.by_part(flat):
            want(part, rows)
    else:
        want(values, flat)
    return np.ascontiguousarray(values[places])


def ahead(
    read: Callable[[Job], Part], jobs: Iterable[Job], nbytes: int, *, readers: int = READERS
) -> Iterator[Part]:
    """`read(job)` of each job in turn, the next few in threads while one is used.

    Args:
        read: brings a part into memory; without the interpreter's lock for most of its time, as
            NumPy copies.
        nbytes: of a part. Those under way are at most `HELD` bytes, or one part.
        readers: how many are under way, at most.
    """
    depth = max(1, min(readers, HELD // max(1, nbytes)))
    waiting: deque[Future[Part]] = deque()
    pool = ThreadPoolExecutor(depth, thread_name_prefix="images")
    try:
        for job in jobs:
            waiting.append(pool.submit(read, job))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
