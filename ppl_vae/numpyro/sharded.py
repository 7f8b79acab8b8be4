"""A trainer that shares each batch out among devices (`ppl_vae.numpyro.mesh`).

The step is the one of a single device. Weights, optimiser and stored images are on every device;
the images of a step are shared out, and the compiler sums what has to be summed.
"""

from __future__ import annotations

__all__ = ["ShardedTrainer"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from ppl_vae.errors import UsageError
from ppl_vae.numpyro.mesh import everywhere, here, put, spread
from ppl_vae.numpyro.training import NumPyroTrainer, State
from ppl_vae.settings import ObjectiveSettings, TrainingSettings


class ShardedTrainer(NumPyroTrainer):
    """Of one process, or one of several; see `ppl_vae.loop.Trainer`."""

    def __init__(
        self,
        model: Any,
        guide: Any,
        train: Any,
        valid: Any,
        objective: ObjectiveSettings,
        settings: TrainingSettings,
        mesh: Mesh,
    ) -> None:
        self.mesh, self.alike = mesh, everywhere(mesh)
        if not settings.sync_batch_norm:
            raise UsageError(
                "training.sync_batch_norm: expected true in NumPyro, whose batch norm sees the "
                "whole batch whatever the number of devices: leave it out"
            )
        if min(settings.batch_size, len(train)) < mesh.size:
            raise UsageError(
                f"training.batch_size: expected an image for each of {mesh.size} devices at least, "
                f"came {min(settings.batch_size, len(train))}: raise it, or take fewer devices"
            )
        super().__init__(model, guide, train, valid, objective, settings, self.alike)
        self.epoch = jax.jit(self._epoch, donate_argnums=0, out_shardings=self.alike)
        self.part = jax.jit(self._part, donate_argnums=0, out_shardings=self.alike)
        self._validated = jax.jit(self._validation_sums, out_shardings=self.alike)

    @property
    def local(self) -> State:
        now: State = here(self.now)
        return now

    def _placed(self, now: State) -> State:
        return jax.tree.map(lambda leaf: put(jnp.array(leaf), self.alike), now)

    def _probe(self) -> Any:
        stored = super()._probe()
        return stored if isinstance(stored, np.ndarray) else here(stored)

    def _drawn_step(
        self, now: State, values: Array, key: Any, kl_weight: Any, rate: Any
    ) -> tuple[State, Any]:
        shared = spread(values[: self.batch_size], self.mesh)
        now, row = super()._drawn_step(now, shared, key, kl_weight, rate)
        return lax.with_sharding_constraint(now, self.alike), row

    def _validation_sums(self, params: Any, mutable: Any, values: Array, rng_key: Any) -> Array:
        return super()._validation_sums(params, mutable, spread(values, self.mesh), rng_key)
