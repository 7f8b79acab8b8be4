"""Times of contestants measured in turns, and the ratio of two of them with its interval."""

from __future__ import annotations

__all__ = ["Ratio", "interleaved", "ratio"]

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Ratio:
    """Median over repeats of time / reference time, both of the same repeat.

    Attributes:
        value: 1 means as fast as the reference, above 1 slower.
        low, high: bootstrap 95 % interval, repeats resampled.
    """

    value: float
    low: float
    high: float


def interleaved(
    contestants: Mapping[str, Callable[[int], object]],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds of each contestant's call, (repeats,), all of them run once in every repeat.

    Whatever slows the machine for a while meets them all, and each repeat has an order of its own,
    so that none always runs after the same other.

    Args:
        contestants: {name: call}; a call gets the repeat's number.
        repeats: how many are timed.
        warm_up: how many go before, untimed (compilation, caches).
        clock: seconds; `time.process_time` leaves out what others do on the same core.
    """
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(-warm_up, repeats):
        for name in rng.permutation(list(contestants)).tolist():
            begun = clock()
            contestants[name](repeat + warm_up)
            if repeat >= 0:
                seconds[name].append(clock() - begun)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(seconds: np.ndarray, reference: np.ndarray, seed: int = 0) -> Ratio:
    """Ratio of two contestants timed by `interleaved`.

    >>> ratio(np.full(9, 1.5), np.full(9, 1.0))
    Ratio(value=1.5, low=1.5, high=1.5)
    """
    each = seconds / reference
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(each), size=(RESAMPLES, len(each)))
    low, high = np.quantile(np.median(each[drawn], axis=1), [0.025, 0.975])
    return Ratio(float(np.median(each)), float(low), float(high))
