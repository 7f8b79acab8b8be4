"""Several runs trained at once on one device: a process each."""

from __future__ import annotations

__all__ = ["together"]

import gc
import os
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import torch

from ppl_vae.errors import TrainingError

T = TypeVar("T")


def together(jobs: Sequence[Callable[[], T]], kinds: Sequence[Hashable]) -> list[T]:
    """What the jobs, each of which calls `fit`, give back.

    Args:
        jobs: functions without arguments, which must be picklable.
        kinds: not needed here: in processes of their own jobs may differ in anything.

    Raises:
        the first job's error in their order, when all have ended.
    """
    threads = max(1, torch.get_num_threads() // len(jobs))
    spawned = get_context("spawn")  # a forked process has no use of CUDA
    if torch.cuda.is_initialized():  # what evaluations here have kept is theirs
        gc.collect()
        torch.cuda.empty_cache()
    with ProcessPoolExecutor(len(jobs), spawned, _begin, (threads,)) as pool:
        futures = [pool.submit(job) for job in jobs]
        errors = [future.exception() for future in futures]
    for error in errors:
        if isinstance(error, BrokenProcessPool):
            raise TrainingError(
                "a run's process has gone, killed for memory perhaps: the same command goes on; "
                "lower --jobs"
            ) from error
        if error is not None:
            raise error
    return [future.result() for future in futures]


def _begin(threads: int) -> None:
    """The cores are shared; bars of several processes would write over one another."""
    torch.set_num_threads(threads)
    os.environ["TQDM_DISABLE"] = "1"
