"""What a figure was measured on: processor and versions, nothing that names the machine."""

from __future__ import annotations

__all__ = ["cores", "describe"]

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "pyro-ppl", "jax", "jaxlib", "numpyro", "flax", "optax", "numpy")


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(*packages: str) -> dict[str, object]:
    """Processor, cores, how many others kept busy this minute, system, Python, versions.

    Args:
        packages: others whose versions are told.

    >>> sorted(describe())
    ['busy_cores', 'cores', 'processor', 'python', 'system', 'versions']
    """
    return {
        "processor": _processor(),
        "cores": cores(),
        "busy_cores": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in (*PACKAGES, *packages)},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
