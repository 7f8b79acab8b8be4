"""What a figure was measured on: processor, GPU and versions, nothing that names the machine."""

from __future__ import annotations

__all__ = ["cores", "describe"]

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "pyro-ppl", "jax", "jaxlib", "numpyro", "flax", "optax", "numpy")


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(*packages: str) -> dict[str, object]:
    """Processor, GPU, cores, how many others kept busy this minute, system, Python, versions.

    Args:
        packages: others whose versions are told.

    >>> sorted(describe())
    ['busy_cores', 'cores', 'gpu', 'processor', 'python', 'system', 'versions']
    """
    return {
        "processor": _processor(),
        "gpu": _gpu(),
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


def _gpu() -> str | None:
    """The first GPU that torch sees, its CUDA and its driver; None without one."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        told = []
    driver = f", driver {told[0]}" if told else ""
    return f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}{driver}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
