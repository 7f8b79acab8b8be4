"""A Flax NNX module inside a NumPyro program: its parameters and state as sites of the program."""

from __future__ import annotations

__all__ = [
    "SiteRecorder",
    "StateRecorder",
    "bind",
    "fresh",
    "holders",
    "with_params",
    "write_back",
]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpyro
from flax import nnx
from jax import lax
from numpyro.primitives import _PYRO_STACK, Messenger, mutable

Module = TypeVar("Module", bound=nnx.Module)


@contextmanager
def bind(name: str, module: Module) -> Iterator[Module]:
    """`with bind("model", self) as net:` runs the program on `net`, a functional twin of `self`.

    Its parameters are the site `name$params` (`numpyro.param`), all else that changes, such as
    batch norm's running statistics, the site `name$state` (`mutable`), written when the block
    ends. `self` itself is left as it is. `numpyro.contrib.module.nnx_module` gives a function
    alone; programs want the submodules.
    """
    for handler in _PYRO_STACK:
        if isinstance(handler, SiteRecorder):
            handler.modules[name] = module
    graph, params, state = _split(module)
    values = numpyro.param(f"{name}$params", nnx.to_pure_dict(params))
    held = mutable(f"{name}$state", {"state": nnx.to_pure_dict(state)}) if state else None
    nnx.replace_by_pure_dict(params, values)
    if held is not None:
        nnx.replace_by_pure_dict(state, held["state"])
    net = nnx.merge(graph, params, state)
    yield net
    if held is not None:
        changed = nnx.to_pure_dict(_split(net)[2])
        held["state"] = jax.tree.map(lax.stop_gradient, changed)


class StateRecorder(Messenger):
    """Records the mutable sites of what runs under it: `values` is {site: its value at the end}."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "mutable":
            self.values[msg["name"]] = msg["value"]


class SiteRecorder(Messenger):
    """Records what a program registers.

    Attributes:
        params: {site: message} of every `numpyro.param`.
        mutable: {site: message} of every mutable site.
        modules: {name: module} of every `bind`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.params: dict[str, Any] = {}
        self.mutable: dict[str, Any] = {}
        self.modules: dict[str, nnx.Module] = {}

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "param":
            self.params[msg["name"]] = msg.copy()
        elif msg["type"] == "mutable":
            self.mutable[msg["name"]] = msg.copy()

    def module_values(self) -> dict[str, Any]:
        """{site: value} of the bound modules, as they are now."""
        held = holders(self.modules)
        return jax.tree.map(lambda variable: variable.get_value(), held, is_leaf=_is_variable)


def fresh(values: dict[str, Any]) -> dict[str, Any]:
    """Site values whose mutable ones a program may write into."""
    return {
        name: dict(value) if name.endswith("$state") else value for name, value in values.items()
    }


def holders(modules: dict[str, nnx.Module]) -> dict[str, Any]:
    """{site: a tree like its value, the modules' own variables at the leaves}."""
    found: dict[str, Any] = {}
    for name, module in modules.items():
        _, params, state = _split(module)
        found[f"{name}$params"] = nnx.to_pure_dict(params, lambda variable: variable)
        if state:
            found[f"{name}$state"] = {"state": nnx.to_pure_dict(state, lambda variable: variable)}
    return found


def write_back(held: dict[str, Any], values: dict[str, Any]) -> None:
    """Site values into the variables that hold them, `holders` of the modules."""

    def put(variable: nnx.Variable[Any], value: Any) -> None:
        variable.set_value(value)

    own = {site: values[site] for site in held}
    jax.tree.map(put, held, own, is_leaf=_is_variable)


def with_params(module: Module, values: Any) -> Module:
    """A twin of `module` whose parameters are `values`, those of its site `name$params`."""
    graph, params, state = _split(module)
    nnx.replace_by_pure_dict(params, values)
    return nnx.merge(graph, params, state)


def _split(module: nnx.Module) -> tuple[Any, Any, Any]:
    """(structure, parameters, everything else that changes)."""
    graph, params, state = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
    return graph, params, state


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)
