"""From settings to the device and the optimiser."""

from __future__ import annotations

__all__ = ["device_name", "device_of", "optimizer_of"]

from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import UsageError
from ppl_vae.settings import TrainingSettings


def device_of(name: str | None) -> torch.device:
    """The device of that name: "cpu", "cuda" or "gpu", "cuda:1" for the second.

    None takes the accelerator where there is one.

    Raises:
        UsageError: no such name, or no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, index = name.partition(":")
    try:
        device = torch.device(("cuda" if kind == "gpu" else kind) + colon + index)
    except RuntimeError as error:
        raise UsageError(f"training.device: unknown {name!r}: take cpu, cuda or null") from error
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= here:
        raise UsageError(f"training.device: no {name!r} here: take cpu, cuda or null")
    return device


def device_name(name: str | None) -> str:
    """What the device of that name calls itself: "cpu", or a GPU's own name."""
    device = device_of(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def optimizer_of(
    parameters: list[Tensor], settings: TrainingSettings, capturable: bool = False
) -> torch.optim.Optimizer:
    """An optimiser; `capturable` in a CUDA graph, with its learning rate a tensor."""
    if settings.optimizer == "adamax":  # which keeps its count on the CPU otherwise
        capturable = capturable or any(p.is_cuda for p in parameters)
    common: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "capturable": capturable,
    }
    if settings.optimizer == "adamax":
        made: torch.optim.Optimizer = torch.optim.Adamax(parameters, foreach=True, **common)
    else:
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        made = kind(parameters, fused=True, **common)
    if capturable:  # its first steps run outside of a graph, of which torch would warn
        vars(made)["_warned_capturable_if_run_uncaptured"] = True
    return made
