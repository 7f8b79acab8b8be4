"""Seeds: whole numbers that every generator here takes as they are.

JAX keeps 32 bits of one and leaves the others out in silence, so that 2^32 would draw as 0 does;
NumPy refuses what is below 0.
"""

from __future__ import annotations

__all__ = ["LARGEST", "check_seed", "read_seeds"]

import numbers
from typing import Any

from ppl_vae.errors import UsageError

LARGEST = 2**32 - 1


def check_seed(seed: Any, name: str = "seed") -> None:
    """UsageError where a seed is no whole number of 0 to `LARGEST`."""
    whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= seed <= LARGEST:
        raise UsageError(
            f"{name}: expected a whole number of 0 to {LARGEST}, came {seed!r}: take one of them"
        )


def read_seeds(text: str) -> list[int]:
    """As --seeds has them.

    >>> read_seeds("0, 1,2")
    [0, 1, 2]
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--seeds: expected whole numbers such as 0,1,2, came {text!r}")
    return [int(part) for part in parts]
