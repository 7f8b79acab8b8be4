"""Processes that JAX's variables tell of: joining them, who leads, and what they agree upon.

`ppl_vae.pyro.ranks` has the same names. Process 0 leads: it alone writes and tells. Alone,
everything here is what it is for one.
"""

from __future__ import annotations

__all__ = ["any_of", "count", "join", "least", "leads", "leave", "rank", "same", "wait"]

import os
import zlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from ppl_vae import launch
from ppl_vae.errors import UsageError
from ppl_vae.settings import TrainingSettings

# Those who are done first wait for the leader, which still draws figures or runs checks: for hours
# perhaps, where JAX would end them all after five minutes. A process that has died is found out by
# its heartbeat.
PATIENCE = 7 * 24 * 3600  # seconds


def join(settings: TrainingSettings | None = None) -> None:
    """Enter the group of processes that the environment tells of, if there is one and once.

    Raises:
        UsageError: variables that are missing, JAX in use already, or nobody there.
    """
    others = launch.by_torchrun()
    if others is not None:
        raise UsageError(
            f"environment: WORLD_SIZE={others.count} with NumPyro, whose processes are JAX's: set "
            f"{', '.join(launch.JAX)} for each, or start one process, which takes all devices with "
            "training.devices=all"
        )
    told = launch.by_jax()
    if told is None or jax.distributed.is_initialized():
        return
    if settings is not None and settings.backend is not None:
        raise UsageError(
            f"training.backend: expected null in NumPyro, where JAX chooses, came "
            f"{settings.backend!r}: leave it out"
        )
    address = os.environ["JAX_COORDINATOR_ADDRESS"]
    try:
        jax.distributed.initialize(
            address, told.count, told.rank, shutdown_timeout_seconds=PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UsageError(
            f"JAX_COORDINATOR_ADDRESS: process {told.rank} of {told.count} could not join at "
            f"{address} ({reason}): check the address, and call ppl_vae.numpyro.ranks.join() "
            "before anything else of JAX"
        ) from error


def leave() -> None:
    """Leave the group."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def rank() -> int:
    """This process's number, from 0."""
    return jax.process_index()


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def leads() -> bool:
    """Whether this process writes and tells."""
    return rank() == 0


def wait() -> None:
    """Go on when all processes have come here."""
    if count() > 1:
        multihost_utils.sync_global_devices("ppl_vae")


def any_of(value: bool) -> bool:
    """Whether `value` is true in any process; all have to ask."""
    if count() == 1:
        return value
    return bool(np.any(multihost_utils.process_allgather(np.asarray(value))))


def least(value: int) -> int:
    """The smallest `value` of any process; all have to ask."""
    if count() == 1:
        return value
    return int(np.min(multihost_utils.process_allgather(np.asarray(value))))


def same(what: str, value: str) -> None:
    """UsageError unless this process came with process 0's `value`."""
    if count() == 1:
        return
    own = np.uint32(zlib.crc32(value.encode()))
    if multihost_utils.broadcast_one_to_all(own) != own:
        raise UsageError(
            f"{what}: process {rank()} has {value!r}, process 0 something else: let all machines "
            "see the same folders"
        )
