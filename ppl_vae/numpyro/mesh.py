"""All devices as one: arrays whose first axis is shared out among them, others everywhere alike.

A program under `jit` means the same on one device and on many: what the compiler has to move
between them it moves by itself. So noise and binarisation (threefry's, by position) and batch
norm's statistics are those of one device, whatever the number of devices, to rounding.
"""

from __future__ import annotations

__all__ = ["Columns", "divided", "everywhere", "here", "mesh_of", "put", "spread"]

from collections.abc import Sequence
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


def divided(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Of an array shared out along its first axis that divides; whole everywhere if none does."""
    for axis, size in enumerate(shape):
        if size and size % mesh.size == 0:
            return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))
    return everywhere(mesh)


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


class Columns:
    """Images of some steps, brought to the devices such that each has its own of every step.

    A process then needs no more than its devices' images. Where devices do not divide a step's,
    its first ones stand behind them once more, for the step to cut off.

    Args:
        place: a device, which gets all, or a sharding over a mesh, such as `everywhere`.
        size: images of a step, as many as there are devices at least.
    """

    def __init__(self, place: Any, size: int) -> None:
        self.alike, self.place, self.width = place, place, size
        if not isinstance(place, NamedSharding):
            return
        self.place = NamedSharding(place.mesh, PartitionSpec(None, AXIS))
        each = -(-size // place.mesh.size)
        self.width = each * place.mesh.size
        indices = self.place.addressable_devices_indices_map((1, self.width)).values()
        starts = sorted({self._start(index) for index in indices})
        self.slots = {start: slice(each * i, each * (i + 1)) for i, start in enumerate(starts)}
        self.held = np.concatenate([np.arange(start, start + each) for start in starts])

    def _start(self, index: Any) -> int:
        """Of a device's images within a step's."""
        start: int = index[1].indices(self.width)[0]
        return start

    def own(self, places: Any) -> Any:
        """(steps, own): those of this process's devices."""
        if not isinstance(self.place, NamedSharding):
            return places
        more = places[:, : self.width - places.shape[1]]
        return np.concatenate([places, more], 1)[:, self.held]

    def put(self, rows: Any) -> tuple[Array, Array]:
        """(values, order) from this process's `own` rows (steps, own, …): see `DeviceImages`.

        A step takes its images by a gather, as it does those in memory: XLA's loops for the CPU are
        half as fast again where they read them out of the scan's own inputs.
        """
        steps, size = rows.shape[:2]
        if not isinstance(self.place, NamedSharding):
            values = jax.device_put(rows.reshape(steps * size, *rows.shape[2:]), self.place)
            return values, jax.device_put(np.arange(steps * size).reshape(steps, size), self.place)
        shape = (steps, self.width, *rows.shape[2:])
        values = jax.make_array_from_callback(
            shape, self.place, lambda index: rows[:, self.slots[self._start(index)]]
        )
        return values, put(np.arange(steps), self.alike)


def here(tree: Any) -> Any:
    """This process's copies, on its first device, of arrays that are everywhere."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
