"""Weights as {name: array} in torch's layout, the form that is stored and that both PPLs read.

| Flax NNX | torch |
|---|---|
| Linear kernel (in, out) | weight (out, in) |
| Conv kernel (height, width, in, out) | weight (out, in, height, width) |
| BatchNorm scale, mean, var | weight, running_mean, running_var |
| LayerNorm scale | weight |

Batch norm's running variance is torch's unbiased estimate where Pyro trained and Flax's biased one
where NumPyro did; it is carried over as it stands, so both evaluate to the same numbers.
"""

from __future__ import annotations

__all__ = ["flat", "load_state", "state", "unflat"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import random

from ppl_vae.errors import UsageError

Arrays = dict[str, np.ndarray]
BATCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def state(model: Any, guide: Any) -> Arrays:
    """What the modules among the pair have learned, running statistics among it.

    Returns:
        {"model.…" | "guide.…": array}, names and layout as of torch's `state_dict`.
    """
    return {
        name: np.asarray(np.asarray(variable[...]).transpose(order), order="C")
        for name, (variable, order) in _variables(model, guide).items()
    }


def load_state(model: Any, guide: Any, arrays: Arrays) -> None:
    """Put `arrays`, as `state` gives them, into the pair's modules: all of them, or none.

    Args:
        arrays: {"model.…" | "guide.…": array} of all that the modules have, in torch's layout.

    Raises:
        UsageError: names that are missing or not known, or an array of another shape.
    """
    own = _variables(model, guide)
    missing, foreign = sorted(own.keys() - arrays.keys()), sorted(arrays.keys() - own.keys())
    if missing or foreign:
        raise UsageError(
            f"weights: made for another model or guide: missing {missing[:3]}, not known "
            f"{foreign[:3]}: load them with the recipe that they were trained with"
        )
    for name, (variable, order) in own.items():
        expected = tuple(variable[...].shape[i] for i in order)
        if tuple(arrays[name].shape) != expected:
            raise UsageError(
                f"weights: {name} expected shape {expected}, came {tuple(arrays[name].shape)}: "
                "load them with the recipe that they were trained with"
            )
    for name, (variable, order) in own.items():  # all or nothing
        value = np.asarray(arrays[name]).transpose(np.argsort(order))
        variable[...] = jnp.asarray(value, dtype=variable[...].dtype)


def _variables(model: Any, guide: Any) -> dict[str, tuple[nnx.Variable, tuple[int, ...]]]:
    """{torch name: (variable, order of its axes in torch)}."""
    found: dict[str, tuple[nnx.Variable, tuple[int, ...]]] = {}
    for prefix, module in (("model", model), ("guide", guide)):
        if not isinstance(module, nnx.Module):
            continue
        for path, owner in nnx.iter_graph(module):
            if not isinstance(owner, nnx.Module):
                continue
            for name, variable in vars(owner).items():
                if isinstance(variable, nnx.Param | nnx.BatchStat):
                    name, order = _in_torch(owner, name, variable[...].ndim)
                    found[".".join([prefix, *map(str, path), name])] = (variable, order)
    return found


def _in_torch(owner: Any, name: str, ndim: int) -> tuple[str, tuple[int, ...]]:
    if isinstance(owner, nnx.BatchNorm):
        return BATCH_NORM[name], (0,)
    if isinstance(owner, nnx.LayerNorm) and name == "scale":
        return "weight", (0,)
    if isinstance(owner, nnx.Linear) and name == "kernel":
        return "weight", (1, 0)
    if isinstance(owner, nnx.Conv) and name == "kernel":
        return "weight", (ndim - 1, ndim - 2, *range(ndim - 2))
    return name, tuple(range(ndim))


def flat(prefix: str, tree: Any) -> Arrays:
    """{path: array} of a tree's leaves; random keys as their data."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = random.key_data(leaf)
        found[prefix + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def unflat(prefix: str, tree: Any, arrays: Arrays) -> Any:
    """A tree like `tree` with the leaves that `flat` wrote."""
    leaves, shape = jax.tree_util.tree_flatten_with_path(tree)
    found = []
    for path, leaf in leaves:
        value = jnp.asarray(arrays[prefix + jax.tree_util.keystr(path)])
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        found.append(random.wrap_key_data(value) if is_key else value)
    return jax.tree.unflatten(shape, found)
