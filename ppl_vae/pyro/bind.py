"""A module's parameters, made known to Pyro where somebody asks for them."""

from __future__ import annotations

__all__ = ["bind"]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pyro
from pyro.poutine.runtime import _PYRO_STACK
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def bind(name: str, module: Module) -> Iterator[Module]:
    """`with bind("model", self) as net:` registers the parameters of `self`, then runs the program.

    Stock `pyro.infer.SVI` trains what programs register, and listens with a handler that records
    parameters alone. Only then is there anything to do: training through torch's own optimisers
    finds parameters by itself, and a walk over them in every step would cost time.
    """
    if any(getattr(handler, "param_only", False) for handler in _PYRO_STACK):
        pyro.module(name, module)
    yield module
