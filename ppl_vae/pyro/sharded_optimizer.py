"""An optimiser whose state is shared out among processes (Rajbhandari et al. 2020, ZeRO, stage 1).

Each process keeps the state of some of the parameters, updates these, and sends them to the others:
the state's memory falls with the number of processes, and the weights are those of the whole
optimiser. What is stored is whole, under the whole one's names, so a run may go on with another
number of processes, or without sharing.
"""

from __future__ import annotations

__all__ = ["ShardedOptimizer"]

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer


class ShardedOptimizer(ZeroRedundancyOptimizer):
    """torch's ZeroRedundancyOptimizer in the place of a whole optimiser that has made no step.

    `state_dict` is that of the last `consolidate_state_dict`, which all processes call and of which
    the first alone has the outcome.
    """

    def __init__(self, whole: torch.optim.Optimizer) -> None:
        (group,) = whole.param_groups
        known = inspect.signature(type(whole)).parameters
        settings = {name: value for name, value in whole.defaults.items() if name in known}
        super().__init__(group["params"], type(whole), **settings)

    @property
    def slots(self) -> list[Tensor]:
        """What this process keeps."""
        return [t for state in self.optim.state.values() for t in state.values()]

    def state_dict(self) -> dict[str, Any]:
        if getattr(self, "_all_state_dicts", None):
            return super().state_dict()
        return torch.optim.Optimizer.state_dict(self)  # nothing gathered: groups, without a state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Each process takes its own part of a whole state."""
        super().load_state_dict(state_dict)
        self.state.clear()  # a second copy of this process's part
        for group in self.optim.param_groups:
            on_device = group.get("fused") or group.get("capturable")
            for parameter in group["params"]:
                # What is one number came back on the CPU, a number's own moments too.
                state = self.optim.state.get(parameter) or {}
                for name, value in state.items():
                    if on_device or name != "step":
                        state[name] = value.to(parameter.device)
