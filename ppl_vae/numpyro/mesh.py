"""All devices as one: arrays whose first axis is shared out among them, others everywhere alike.

A program under `jit` means the same on one device and on many: what the compiler has to move
between them it moves by itself. So noise and binarisation (threefry's, by position) and batch
norm's statistics are those of one device, whatever the number of devices, to rounding.
"""

from __future__ import annotations

__all__ = ["everywhere", "here", "mesh_of", "put", "spread"]

from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ppl_vae.numpyro.optimizers import device_of

AXIS = "data"


def mesh_of(device: str | None = None, devices: str = "all") -> Mesh | None:
    """Mesh of all devices of a kind (all processes'), or None where one does the work alone.

    Args:
        device: "cpu", "gpu", "cuda"; None takes the accelerator where there is one.
        devices: "all"; with "one" several processes share all the same.
    """
    kind = device_of(device).platform
    found = jax.devices(kind)
    if len(found) == 1 or (devices == "one" and jax.process_count() == 1):
        return None
    return Mesh(np.array(found), (AXIS,))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Of what every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def spread(tree: Any, mesh: Mesh | None) -> Any:
    """Under `jit`: the first axis of each array shared out, also where it does not divide."""
    if mesh is None:
        return tree
    rows = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, rows), tree)


def put(value: Any, place: Any) -> Array:
    """An array at a device, or, from every process's own copy, by a sharding."""
    across = isinstance(place, NamedSharding) and not place.is_fully_addressable
    if not across:
        return jax.device_put(value, place)
    if isinstance(value, Array) and not value.is_fully_addressable:
        return value
    if isinstance(value, Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        raw = put(jax.random.key_data(value), place)
        return jax.random.wrap_key_data(raw, impl=jax.random.key_impl(value))
    held = np.asarray(value)
    return jax.make_array_from_callback(held.shape, place, lambda index: held[index])


def here(tree: Any) -> Any:
    """This process's copies, on its first device, of arrays that are everywhere."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
