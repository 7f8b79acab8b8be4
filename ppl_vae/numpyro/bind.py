"""A Flax NNX module inside a NumPyro program: its parameters and state as sites of the program."""

from __future__ import annotations

__all__ = ["StateRecorder", "bind"]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpyro
from flax import nnx
from jax import lax
from numpyro.primitives import Messenger, mutable

Module = TypeVar("Module", bound=nnx.Module)


@contextmanager
def bind(name: str, module: Module) -> Iterator[Module]:
    """`with bind("model", self) as net:` runs the program on `net`, a functional twin of `self`.

    Its parameters are the site `name$params` (`numpyro.param`), all else that changes, such as
    batch norm's running statistics, the site `name$state` (`mutable`), written when the block
    ends. `self` itself is left as it is. `numpyro.contrib.module.nnx_module` gives a function
    alone; programs want the submodules.
    """
    graph, params, state = nnx.split(module, nnx.Param, ...)
    values = numpyro.param(f"{name}$params", nnx.to_pure_dict(params))
    held = mutable(f"{name}$state", {"state": nnx.to_pure_dict(state)}) if state else None
    nnx.replace_by_pure_dict(params, values)
    if held is not None:
        nnx.replace_by_pure_dict(state, held["state"])
    net = nnx.merge(graph, params, state)
    yield net
    if held is not None:
        held["state"] = _stopped(nnx.to_pure_dict(nnx.split(net, nnx.Param, ...)[2]))


class StateRecorder(Messenger):
    """Records the mutable sites of what runs under it: `values` is {site: its value at the end}."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "mutable":
            self.values[msg["name"]] = msg["value"]


def _stopped(state: Any) -> Any:
    return jax.tree.map(lax.stop_gradient, state)
