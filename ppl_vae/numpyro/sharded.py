"""A trainer that shares each batch out among devices (`ppl_vae.numpyro.mesh`).

The step is the one of a single device. Weights, optimiser and stored images are on every device;
the images of a step are shared out, and the compiler sums what has to be summed. With
`sharded_optimizer` each array of the optimiser's state, and of the averaged weights, is shared out
along its first axis that divides (Rajbhandari et al. 2020, ZeRO, stage 1): what moves for it, the
compiler finds as well.
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
from ppl_vae.loop import EpochLog
from ppl_vae.numpyro.mesh import divided, everywhere, here, put, spread
from ppl_vae.numpyro.trainer import NumPyroTrainer, State
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
        self.gathered: Any = None
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
        results = (self.layout, self.alike)
        self.epoch = jax.jit(self._epoch, donate_argnums=0, out_shardings=results)
        self.part = jax.jit(self._part, donate_argnums=0, out_shardings=results)
        self._validated = jax.jit(self._validation_sums, out_shardings=self.alike)

    @property
    def local(self) -> State:
        # Without what may be shared out: `_whole` has that.
        now: State = here(self.now._replace(optimizer=None, averaged=None))
        return now

    def _placed(self, now: State) -> State:
        self.layout = jax.tree.map(lambda _: self.alike, now)
        if self.settings.sharded_optimizer:
            optimizer, averaged = (
                jax.tree.map(lambda leaf: divided(leaf.shape, self.mesh), part)
                for part in (now.optimizer, now.averaged)
            )
            self.layout = self.layout._replace(optimizer=optimizer, averaged=averaged)
        return jax.tree.map(lambda leaf, place: put(jnp.array(leaf), place), now, self.layout)

    def _whole(self, part: Any) -> Any:
        """Copies on the host, from however many devices; from this process's where all have it."""
        if self.gathered is not None:
            return self.gathered[part is self.now.averaged]
        return jax.tree.map(_on_host, part)

    def run_epoch(self, *args: Any) -> EpochLog:
        log = super().run_epoch(*args)
        if self.settings.sharded_optimizer and jax.process_count() > 1:
            # By all processes, of which the first alone knows whether it will save.
            gather = jax.jit(lambda leaf: leaf, out_shardings=self.alike)
            self.gathered = tuple(
                jax.tree.map(lambda leaf: _on_host(gather(leaf)), part)
                for part in (self.now.optimizer, self.now.averaged)
            )
        return log

    def probe(self) -> Any:
        stored = super().probe()
        return stored if isinstance(stored, np.ndarray) else here(stored)

    def _drawn_step(
        self, now: State, values: Array, key: Any, kl_weight: Any, rate: Any
    ) -> tuple[State, Any]:
        shared = spread(values[: self.batch_size], self.mesh)
        now, row = super()._drawn_step(now, shared, key, kl_weight, rate)
        return lax.with_sharding_constraint(now, self.layout), row

    def _validation_sums(self, params: Any, mutable: Any, values: Array, rng_key: Any) -> Array:
        return super()._validation_sums(params, mutable, spread(values, self.mesh), rng_key)


def _on_host(leaf: Array) -> np.ndarray:
    """A whole array: from its parts where they are this process's, or its copy of one."""
    return np.asarray(leaf if leaf.is_fully_addressable else leaf.addressable_data(0))
