"""Processes that torchrun started: joining them, who leads, and what they agree upon.

One process a device. Process 0 leads: it alone writes and tells; the others take their share of
every batch. Alone, everything here is what it is for one.
"""

from __future__ import annotations

__all__ = [
    "all_sum",
    "any_of",
    "count",
    "first_to_tell",
    "join",
    "leads",
    "leave",
    "rank",
    "same",
    "together",
    "wait",
]

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ppl_vae import launch
from ppl_vae.errors import TrainingError, UsageError
from ppl_vae.pyro.optimizers import device_of
from ppl_vae.settings import TrainingSettings

AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # "True" where torchrun's agent keeps the store
GONE = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")


def join(settings: TrainingSettings | None = None) -> None:
    """Enter the process group that the environment tells of, if there is one and once.

    Raises:
        UsageError: variables that are missing, a backend or a device that is not there.
    """
    settings = settings or TrainingSettings()
    if dist.is_available() and dist.is_initialized():
        return
    told = launch.by_torchrun()
    if told is None:
        _check_one(settings)
        return
    device = device_of(settings.device)
    backend = settings.backend or ("nccl" if device.type == "cuda" else "gloo")
    if not dist.is_available() or not _has(backend) or (backend, device.type) == ("nccl", "cpu"):
        raise UsageError(
            f"training.backend: no {backend!r} for {device.type} here: take gloo, nccl on CUDA, or "
            "null"
        )
    if device.type == "cuda":
        _take_device(device, told)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if backend == "nccl" else backend)
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"torchrun: the {told.count} processes found no way to each other at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({_first_line(error)}): "
            "check address, port and network"
        ) from error


def leave() -> None:
    """Leave the process group."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if count() > 1 else 0


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process writes and tells."""
    return rank() == 0


def wait() -> None:
    """Go on when all processes have come here."""
    if count() > 1:
        with together():
            all_sum(torch.zeros(1))


def any_of(value: bool) -> bool:
    """Whether `value` is true in any process; all have to ask."""
    if count() == 1:
        return value
    with together():
        return bool(all_sum(torch.tensor(float(value))))


def same(what: str, value: str) -> None:
    """UsageError unless all processes came with the same `value`."""
    if count() == 1:
        return
    values: list[Any] = [None] * count()
    with together():
        dist.all_gather_object(values, value)
    for other, theirs in enumerate(values):
        if theirs != values[0]:
            raise UsageError(
                f"{what}: process 0 has {values[0]!r}, process {other} has {theirs!r}: let all "
                "machines see the same folders"
            )


def all_sum(value: Tensor) -> Tensor:
    """Its sum over the processes, in its place; no gradient."""
    dist.all_reduce(value)
    return value


@contextmanager
def together() -> Iterator[None]:
    """Another process that has gone ends this one in one line, not in a traceback."""
    try:
        yield
    except RuntimeError as error:
        gone = isinstance(error, dist.DistError) or any(part in str(error) for part in GONE)
        if count() == 1 or isinstance(error, TrainingError | torch.OutOfMemoryError) or not gone:
            raise
        raise TrainingError(
            f"process {rank()} of {count()}: another has gone ({_first_line(error)}): look at what "
            "it said; training goes on from the last checkpoint with --resume"
        ) from error


def first_to_tell() -> bool:
    """Whether no other process has asked before; True where they cannot know of each other."""
    if os.environ.get(AGENT) != "True" and count() == 1:
        return True
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=5),
            wait_for_workers=False,
        )
        return store.add(f"ppl_vae/told/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}", 1) == 1
    except (dist.DistError, RuntimeError, ValueError):
        return True


def _check_one(settings: TrainingSettings) -> None:
    """What cannot be with one process."""
    others = launch.by_jax()
    if others is not None:
        raise UsageError(
            f"environment: JAX_NUM_PROCESSES={others.count} with Pyro, whose processes are "
            f"torchrun's: torchrun --nproc-per-node {others.count} -m ppl_vae.cli …, or --ppl "
            "numpyro"
        )
    here = torch.cuda.device_count() if device_of(settings.device).type == "cuda" else 1
    if settings.devices == "all" and here > 1:
        raise UsageError(
            f"training.devices: all {here} devices take a process each in Pyro: torchrun "
            f"--nproc-per-node {here} -m ppl_vae.cli train …, or set it to one"
        )


def _take_device(device: torch.device, told: launch.Launch) -> None:
    here = torch.cuda.device_count()
    if device.index is not None:
        raise UsageError(
            f"training.device: expected cuda under torchrun, where each process takes its own, "
            f"came {device}: leave the number out"
        )
    if told.local_rank >= here:
        raise UsageError(
            f"torchrun: process {told.local_rank} of this machine has no CUDA device, there are "
            f"{here}: --nproc-per-node {here}, or training.device=cpu"
        )
    torch.cuda.set_device(told.local_rank)
    warnings.filterwarnings("ignore", message="CUDA reports that you have")  # each takes its own


def _has(backend: str) -> bool:
    try:
        return bool(dist.is_backend_available(backend))
    except (AttributeError, ValueError):
        return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
