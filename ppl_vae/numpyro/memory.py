"""Memory free on a device, and what a compiled pass takes of it."""

from __future__ import annotations

__all__ = ["free", "needed"]

from typing import Any

from ppl_vae.memory import host_free


def free(device: Any) -> int | None:
    """Bytes that are free on the device; None where nobody knows."""
    if device.platform == "cpu":
        return host_free()
    told = device.memory_stats() or {}
    if "bytes_limit" not in told:
        return None
    return int(told["bytes_limit"] - told.get("bytes_in_use", 0))


def needed(compiled: Any) -> int:
    """Bytes that a compiled program takes above its arguments; 0 where XLA does not say."""
    told = compiled.memory_analysis()
    return 0 if told is None else int(told.temp_size_in_bytes + told.output_size_in_bytes)
