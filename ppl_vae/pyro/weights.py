"""Weights as {name: array} in torch's layout, the form that is stored and that both PPLs read.

Batch norm's running variance is torch's unbiased estimate where Pyro trained and Flax's biased one
where NumPyro did; it is carried over as it stands, so both evaluate to the same numbers.
"""

from __future__ import annotations

__all__ = ["load_state", "state"]

from typing import Any

import numpy as np
import torch
from torch import nn

from ppl_vae.errors import UsageError

Arrays = dict[str, np.ndarray]


def state(model: Any, guide: Any) -> Arrays:
    """What the modules among the pair have learned, running statistics among it.

    Returns:
        {"model.…" | "guide.…": array}, names and layout as of torch's `state_dict`.
    """
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in _tensors(model, guide)}


def load_state(model: Any, guide: Any, arrays: Arrays) -> None:
    """Put `arrays`, as `state` gives them, into the pair's modules: all of them, or none.

    Args:
        arrays: {"model.…" | "guide.…": array} of all that the modules have, in torch's layout.

    Raises:
        UsageError: names that are missing or not known, or an array of another shape.
    """
    own = dict(_tensors(model, guide))
    missing, foreign = sorted(own.keys() - arrays.keys()), sorted(arrays.keys() - own.keys())
    if missing or foreign:
        raise UsageError(
            f"weights: made for another model or guide: missing {missing[:3]}, not known "
            f"{foreign[:3]}: load them with the recipe that they were trained with"
        )
    for name, tensor in own.items():
        if tuple(tensor.shape) != arrays[name].shape:
            raise UsageError(
                f"weights: {name} expected shape {tuple(tensor.shape)}, came {arrays[name].shape}: "
                "load them with the recipe that they were trained with"
            )
    with torch.no_grad():  # all or nothing
        for name, tensor in own.items():
            tensor.copy_(torch.as_tensor(arrays[name]))


def _tensors(model: Any, guide: Any) -> list[tuple[str, torch.Tensor]]:
    return [
        (f"{prefix}.{name}", tensor)
        for prefix, module in (("model", model), ("guide", guide))
        if isinstance(module, nn.Module)
        for name, tensor in module.state_dict(keep_vars=True).items()
        if not name.endswith("num_batches_tracked")  # a counter that nothing here reads
    ]
