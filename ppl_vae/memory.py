"""How much memory is free on the host, and how many rows or images a pass may have in it."""

from __future__ import annotations

__all__ = ["LARGEST", "host_free", "images_at_once", "rows_within"]

import os
from pathlib import Path
from typing import Any

LARGEST = 2**28  # values of the largest array of a pass that nobody measures: 1 GB in float32
SHARE = 0.25  # of what is free: others take from it too, and a measured need is one moment's
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def host_free() -> int | None:
    """Bytes that new work could take without swapping, or None where the system does not say.

    Linux's estimate (MemAvailable), or what is left of a container's limit where that is less;
    elsewhere half of the machine's memory.
    """
    found = [free for free in (_available(), _left_of_limit()) if free is not None]
    if found:
        return min(found)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):  # no such name, or no such system
        return None


def rows_within(free: int | None, bytes_a_row: float, most: int) -> int:
    """Rows of a pass, at least 1 and no more than `most`, in a share of what is free.

    >>> rows_within(4_000_000, 1000.0, 8192), rows_within(None, 1000.0, 8192)
    (1000, 8192)
    """
    if free is None or bytes_a_row <= 0:
        return most
    return max(1, min(most, int(SHARE * free / bytes_a_row)))


def images_at_once(model: Any, most: int) -> int:
    """Images of a pass that nobody measures, at least 1 and no more than `most`.

    As many as the model says (`rows`), or as have `LARGEST` parameters of the likelihood, of which
    a categorical pixel has 256 a channel.
    """
    if hasattr(model, "rows"):
        return min(most, int(model.rows))
    num_outputs = getattr(getattr(model, "likelihood", None), "num_outputs", None)
    if num_outputs is None or len(getattr(model, "x_shape", ())) != 3:
        return most
    channels, height, width = model.x_shape
    return max(1, min(most, LARGEST // (num_outputs(channels) * height * width)))


def _available() -> int | None:
    if not MEMINFO.exists():
        return None
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _left_of_limit() -> int | None:
    """Of the control group (version 2) that the process is in, if it has a limit."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        told = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    cached = int(told.get("inactive_file", 0))  # files, which the kernel drops when it must
    return None if limit == "max" else max(0, int(limit) - used + cached)
