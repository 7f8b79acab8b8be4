"""Processes of their own, each forked from one that has imported all and run nothing of it.

An import of both PPLs takes seconds, and a new process of training would begin with it.
"""

from __future__ import annotations

__all__ = ["started"]

import multiprocessing
from collections.abc import Callable
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
PPLS = [f"{room}.{ppl}" for room in ("ppl_vae", "models", "guides") for ppl in ("pyro", "numpyro")]
LATE = ["h5netcdf", "sklearn.datasets", "torch._dynamo", "torch.utils.tensorboard"]
FORKS.set_forkserver_preload(PPLS + LATE)


def started(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` under way in a new process; see `multiprocessing.Process`."""
    process = FORKS.Process(target=function, args=args)
    process.start()
    return process
