"""How this process was launched: alone, as one of torchrun's, or as one of JAX's.

| launcher | what it sets for each process |
|---|---|
| torchrun | RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT |
| JAX's own | JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID |

Nothing here launches anything.
"""

from __future__ import annotations

__all__ = ["Launch", "by_jax", "by_torchrun", "check_alone", "tells"]

import importlib
import os
from dataclasses import dataclass

from ppl_vae.errors import UsageError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
JAX = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@dataclass(frozen=True)
class Launch:
    """A process among `count`: number `rank`, and `local_rank` on its machine, all from 0."""

    rank: int
    count: int
    local_rank: int = 0


def by_torchrun() -> Launch | None:
    """What torchrun told this process, or None where there are not two of them.

    Raises:
        UsageError: WORLD_SIZE above 1 without the other variables, or numbers that are none.
    """
    if _number("WORLD_SIZE", 1) <= 1:
        return None
    _require(TORCHRUN, "start with torchrun --nproc-per-node N -m ppl_vae.cli …")
    return _among(Launch(_number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_RANK")))


def by_jax() -> Launch | None:
    """What JAX's variables tell this process, or None where there are not two of them.

    Raises:
        UsageError: as `by_torchrun`.
    """
    if _number("JAX_NUM_PROCESSES", 1) <= 1:
        return None
    _require(JAX, "set all three for every process")
    return _among(Launch(_number("JAX_PROCESS_ID"), _number("JAX_NUM_PROCESSES")))


def check_alone(verb: str) -> None:
    """UsageError where a command that takes one process was launched as many."""
    launch = by_torchrun() or by_jax()
    if launch is not None:
        raise UsageError(
            f"{verb}: expected one process, came {launch.count}: only train and evaluate share "
            "their work; start it without a launcher"
        )


def tells() -> bool:
    """Whether it is this process that tells of a failure: the first of torchrun's that asks."""
    try:
        launch = by_torchrun()
    except UsageError:
        return True
    if launch is None:
        return True
    told: bool = importlib.import_module("ppl_vae.pyro.ranks").first_to_tell()
    return told


def _among(launch: Launch) -> Launch:
    if not 0 <= launch.rank < launch.count:
        raise UsageError(
            f"process number: expected 0 to {launch.count - 1}, came {launch.rank}: give each of "
            "the processes a number of its own"
        )
    return launch


def _require(names: tuple[str, ...], remedy: str) -> None:
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        given = next(name for name in names if os.environ.get(name) and name not in missing)
        raise UsageError(
            f"environment: {given} is set but not {', '.join(missing)}: {remedy}, or unset {given}"
        )


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "")
    if not text and default is not None:
        return default
    if not text.isdecimal():
        raise UsageError(f"environment: {name}: expected a whole number, came {text!r}")
    return int(text)
