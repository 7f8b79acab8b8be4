"""One program for XLA to compile, where tests would have it compile each operation."""

from __future__ import annotations

__all__ = ["whole"]

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import numpy as np
from flax import nnx


def whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled in one piece at every call, its results numpy's.

    Arrays among its arguments are traced; all else, modules among it, is as it is.
    """

    @wraps(function)
    def compiled(*args: Any, **kwargs: Any) -> Any:
        leaves, shape = jax.tree.flatten((args, kwargs), is_leaf=_is_module)
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray | jax.Array)]

        def run(arrays: list[Any]) -> Any:
            held = dict(enumerate(leaves)) | dict(zip(places, arrays, strict=True))
            args, kwargs = jax.tree.unflatten(shape, list(held.values()))
            return function(*args, **kwargs)

        return jax.tree.map(np.asarray, jax.jit(run)([leaves[i] for i in places]))

    return compiled


def _is_module(value: Any) -> bool:
    return isinstance(value, nnx.Module)
