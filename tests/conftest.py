"""What every test stands on: quiet threads, no display, a PPL to choose, no downloads."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["MPLBACKEND"] = "Agg"
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent

# What XLA compiles for one test serves the next one, the other workers and the next session.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Tests run what they compile once or twice: XLA optimises for nothing, a third of its time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
HASTE = "--xla_cpu_use_fusion_emitters=false"


def pytest_collection_finish() -> None:
    """What the libraries brought stays: Python's collector goes through it no more, and less often.

    Tracing makes so many objects that the collector takes a tenth of the suite's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


def pytest_configure() -> None:
    """XLA's flag for plainer code, where the XLA at hand has it: an unknown one would end it."""
    flags = os.environ.get("XLA_FLAGS", "")
    if HASTE in flags or importlib.util.find_spec("jax") is None:
        return  # workers have it from their parent
    hasty = {**os.environ, "XLA_FLAGS": f"{flags} {HASTE}".strip()}
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(probe, env=hasty, capture_output=True).returncode == 0:
        os.environ["XLA_FLAGS"] = hasty["XLA_FLAGS"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests marked `gpu` out where there is none."""
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing and not _has_cuda():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(params=["pyro", "numpyro"])
def ppl(request: pytest.FixtureRequest) -> str:
    """Each probabilistic programming library in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def root() -> Path:
    """The clone's top folder."""
    return ROOT


@pytest.fixture(scope="module", autouse=True)
def _forgets_compiled() -> Iterator[None]:
    """What XLA compiled for one file's tests leaves memory with the file; it stays on disk."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
