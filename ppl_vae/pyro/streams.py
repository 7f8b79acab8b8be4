"""torch's random streams: kept while something else draws, of the device in use alone.

`torch.random.fork_rng` keeps those of every GPU that the process sees, and warns of it.
"""

from __future__ import annotations

__all__ = ["kept_streams"]

from contextlib import AbstractContextManager

import torch


def kept_streams(device: torch.device | None = None) -> AbstractContextManager[None]:
    """Within it draws move streams, which afterwards stand where they stood.

    Args:
        device: whose stream it is besides the CPU's; None for the CPU's alone.
    """
    if device is None or device.type != "cuda":
        return torch.random.fork_rng(devices=[])
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.random.fork_rng(devices=[index])
