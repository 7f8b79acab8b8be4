"""Memory free on a device, and what a pass through a pair's nets takes of it."""

from __future__ import annotations

__all__ = ["Watermark", "free", "slope"]

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ppl_vae.memory import host_free

FEW, MORE = 2, 6  # rows of the two passes that tell what a row takes


def free(device: torch.device) -> int | None:
    """Bytes that are free on the device; None where nobody knows."""
    if device.type != "cuda":
        return host_free()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def slope(run: Callable[[int], object]) -> float:
    """Bytes at the peak of `run(rows)` that each row adds; what all rows share is not in them."""
    peaks = []
    for rows in (FEW, MORE):
        with Watermark() as mark:
            run(rows)
        peaks.append(mark.peak)
    return (peaks[1] - peaks[0]) / (MORE - FEW)


class Watermark(TorchDispatchMode):
    """Within it: `now` bytes of tensors made since and still held, `peak` the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if _has_bytes(t)}
        for value in tree_leaves(found):
            if _has_bytes(value) and id(value.untyped_storage()) not in given:
                self._add(value.untyped_storage())
        self.peak = max(self.peak, self.now)
        return found

    def _add(self, storage: Any) -> None:
        name, size = id(storage), storage.nbytes()
        if name not in self._held:
            self.now += size
            self._held[name] = weakref.ref(storage, lambda _: self._drop(name, size))

    def _drop(self, name: int, size: int) -> None:
        self.now -= size
        self._held.pop(name, None)


def _has_bytes(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided
