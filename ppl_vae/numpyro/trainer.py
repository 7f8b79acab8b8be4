"""A pair, its optimiser and its data, trained by epochs of which each is one `lax.scan`."""

from __future__ import annotations

__all__ = ["NumPyroTrainer", "State"]

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array, lax, random
from numpyro import handlers

from ppl_vae import loop
from ppl_vae.checks import check_images
from ppl_vae.errors import UsageError
from ppl_vae.memory import images_at_once
from ppl_vae.numpyro.asking import keeps_order
from ppl_vae.numpyro.bfloat16 import in_bfloat16
from ppl_vae.numpyro.bind import (
    SiteRecorder,
    StateRecorder,
    fresh,
    holders,
    with_params,
    write_back,
)
from ppl_vae.numpyro.build import as_dtype
from ppl_vae.numpyro.checks import check_batch_size, check_num_samples
from ppl_vae.numpyro.data import DeviceImages
from ppl_vae.numpyro.first_pass import first_pass
from ppl_vae.numpyro.guide import quiet, set_mode
from ppl_vae.numpyro.objective import Objective
from ppl_vae.numpyro.optimizers import clipped, optimizer_of
from ppl_vae.numpyro.regularizers import Penalty
from ppl_vae.numpyro.watching import posterior_range, prior_samples, spans
from ppl_vae.numpyro.weights import flat, load_state, state, unflat
from ppl_vae.runs import Arrays
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

PROBE = 256  # images of the batch that the posterior's range is read from


class State(NamedTuple):
    """What a step changes."""

    params: Any  # {site: value}, unconstrained
    mutable: Any  # {site: value}, batch norm's statistics among it
    optimizer: Any
    averaged: Any  # as params, or None
    vectors: Any = None  # of the spectral penalty, or None


class NumPyroTrainer:
    """A model, a guide, their optimiser and their data; see `ppl_vae.loop.Trainer`."""

    def __init__(
        self,
        model: Any,
        guide: Any,
        train: Any,
        valid: Any,
        objective: ObjectiveSettings,
        settings: TrainingSettings,
        device: Any,
    ) -> None:
        self.model, self.guide, self.settings = model, guide, settings
        self.device = device
        dtype = jnp.float64 if settings.precision == "float64" else jnp.float32
        for module in (model, guide):
            if isinstance(module, nnx.Module):
                set_mode(module, training=True)
                if settings.precision == "float64":
                    as_dtype(module, dtype)
        self.train = DeviceImages(train, device, dtype, stream=True)
        self.valid = None if valid is None else DeviceImages(valid, device, dtype, True)
        if len(self.train) == 0:
            raise UsageError("train: expected at least one image, came none")
        check_images(self.train, model)
        self.batch_size = min(settings.batch_size, len(self.train))
        check_batch_size(model, guide, self.batch_size)
        check_num_samples(guide, objective.num_samples)
        self.steps_per_epoch = len(self.train) // self.batch_size
        self.objective = Objective(objective, num_data=len(self.train))
        # An automatic guide keeps a posterior for each place in the batch: order must not change.
        self.shuffles = not keeps_order(guide)
        self.key = random.key(settings.seed)
        self._begin()
        self.epoch = jax.jit(self._epoch, donate_argnums=0)
        self.part = jax.jit(self._part, donate_argnums=0)
        self._validated = jax.jit(self._validation_sums)
        self.spans = jax.jit(partial(spans, self))

    def _begin(self) -> None:
        """The state that training starts from, after a first pass."""
        x = self.train.batch(slice(0, self.batch_size), self.key)
        seen = first_pass(self.model, self.guide, x, self.key, len(self.train))
        self.sites, self.modules, self.transforms = seen.sites, seen.modules, seen.transforms
        objective = self.objective.settings
        self.full_weight = objective.full_weight(x[0].size, max(1, seen.num_latent))
        self.objective.full_weight = self.full_weight
        self._held = holders(self.modules)  # found once: a walk through a deep net takes long
        self.optimizer = optimizer_of(self.settings)
        averaged = jax.tree.map(jnp.array, seen.params) if self.settings.ema else None
        self.penalty = vectors = None
        if objective.penalised:
            seed = self.settings.seed
            self.penalty = Penalty(self.model, self.guide, objective, self.full_weight, seed)
            vectors = self.penalty.vectors
        optimizer = jax.jit(self.optimizer.init)(seen.params)
        self.now = self._placed(State(seen.params, seen.mutable, optimizer, averaged, vectors))

    def _placed(self, now: State) -> State:
        """A copy of its own (a step gives its buffers away to the next), where the data are."""
        return jax.tree.map(lambda leaf: jax.device_put(jnp.array(leaf), self.device), now)

    def loss(
        self, params: Any, mutable: Any, x: Array, rng_key: Any, kl_weight: Any
    ) -> tuple[Array, Any]:
        """(loss, (means, mutable sites' new values)) of one batch."""
        recorder = StateRecorder()
        data = {**self.constrained(params), **fresh(mutable)}
        with recorder, handlers.substitute(data=data), handlers.seed(rng_seed=rng_key):
            loss, means = self.objective.loss_and_means(
                self.model, self.guide, x, kl_weight=kl_weight
            )
        return loss, (means, recorder.values)

    def _penalised(
        self, params: Any, mutable: Any, x: Array, rng_key: Any, kl_weight: Any, vectors: Any
    ) -> tuple[Array, Any]:
        """(loss with what is added to it, (means, mutable sites' new values, vectors))."""
        loss, (means, mutable) = self.loss(params, mutable, x, rng_key, kl_weight)
        if self.penalty is not None:
            twins = {
                id(module): with_params(module, params[f"{name}$params"])
                for name, module in self.modules.items()
            }
            model, guide = (twins.get(id(program)) for program in (self.model, self.guide))
            extra, vectors = self.penalty(model, guide, vectors, kl_weight)
            loss = loss + extra.astype(loss.dtype)
        return loss, (means, mutable, vectors)

    def _epoch(self, now: State, values: Array, rng_key: Any, rates: Any) -> tuple[State, Any]:
        order, keys = self._order(rng_key)
        return self._part(now, values, order, keys, rates)

    def _order(self, rng_key: Any) -> tuple[Array, Array]:
        """Images (steps, batch size) of an epoch's steps, and their keys."""
        count, size = self.steps_per_epoch * self.batch_size, self.batch_size
        shuffle, draw = random.split(rng_key)
        order = jnp.arange(len(self.train))
        if self.shuffles:
            order = random.permutation(shuffle, len(self.train))
        return order[:count].reshape(-1, size), random.split(draw, self.steps_per_epoch)

    def _part(
        self, now: State, values: Array, order: Array, keys: Any, rates: Any
    ) -> tuple[State, Any]:
        """Steps of an epoch, on stored images: each step's are those at its row of `order`."""

        def step(now: State, inputs: Any) -> tuple[State, Any]:
            index, *rest = inputs
            return self._drawn_step(now, values[index], *rest)

        return lax.scan(step, now, (order, keys, *rates))

    def _drawn_step(
        self, now: State, values: Array, key: Any, kl_weight: Any, rate: Any
    ) -> tuple[State, Any]:
        binarise, noise = random.split(key)
        return self.step(now, self.train.prepared(values, binarise), noise, kl_weight, rate)

    def _parts(self, order: Array, keys: Any, rates: Any) -> Any:
        """Steps as `_epoch` has them, their images brought to the device part by part."""
        if not self.train.streamed:
            self.now, table = self.part(self.now, self.train.values, order, keys, rates)
            return table
        first, tables = 0, []
        for values, places in self.train.rows_ahead(np.asarray(order)):
            some = slice(first, first + len(places))
            self.now, table = self.part(
                self.now, values, places, keys[some], tuple(rate[some] for rate in rates)
            )
            first = some.stop
            tables.append(table)
            if len(tables) > 1:  # one part waits for the device, no more: they take memory
                tables[-2].block_until_ready()
        return np.concatenate([np.asarray(table) for table in tables])

    def step(
        self, now: State, x: Array, rng_key: Any, kl_weight: Any, rate: Any
    ) -> tuple[State, Any]:
        """One optimiser step; row: (loss, log likelihood, gradient norm, skipped, kl by site)."""
        settings = self.settings
        gradient = jax.value_and_grad(self._penalised, has_aux=True)
        if settings.precision == "bfloat16":
            gradient = in_bfloat16(gradient)
        (loss, (means, mutable, vectors)), grads = gradient(
            now.params, now.mutable, x, rng_key, kl_weight, now.vectors
        )
        norm = optax.tree.norm(grads)
        grads = clipped(grads, norm, settings)
        updates, optimizer = self.optimizer.update(grads, now.optimizer, now.params)
        params = jax.tree.map(lambda p, u: p - (rate * u).astype(p.dtype), now.params, updates)
        averaged = now.averaged
        if averaged is not None:
            averaged = optax.incremental_update(params, averaged, 1 - settings.ema)  # type: ignore[operator]
        skipped = jnp.zeros((), bool)
        if settings.skip_norm is not None:
            skipped = ~(norm < settings.skip_norm)
            old = (now.params, now.optimizer, now.averaged)
            new = (params, optimizer, averaged)
            params, optimizer, averaged = jax.tree.map(
                lambda a, b: jnp.where(skipped, a, b), old, new
            )
        kl = [means.kl[site] for site in self.sites]
        row = jnp.stack([loss, means.log_likelihood, norm, skipped.astype(loss.dtype), *kl])
        return State(params, mutable, optimizer, averaged, vectors), row

    def run_epoch(
        self,
        epoch: int,
        kl_weight: np.ndarray,
        learning_rate: np.ndarray,
        tick: Callable[[int], Any],
        first: int = 0,
    ) -> loop.EpochLog:
        dtype, steps = self.train.dtype, len(kl_weight)
        rates = (jnp.asarray(kl_weight, dtype), jnp.asarray(learning_rate, dtype))
        key = random.fold_in(self.key, epoch)
        if steps == self.steps_per_epoch and not self.train.streamed:
            self.now, table = self.epoch(self.now, self.train.values, key, rates)
        else:
            some = slice(first, first + steps)
            order, keys = (part[some] for part in self._order(key))
            table = self._parts(order, keys, rates)
        table = np.asarray(table, dtype=np.float64)  # the epoch's one wait for the device
        self.write_back()  # for callbacks, and for whoever stops here
        tick(steps)
        loss, log_likelihood, norm, skipped = table[:, :4].T
        return loop.EpochLog(loss, log_likelihood, table[:, 4:], norm, skipped)

    def validate(self) -> tuple[float, np.ndarray] | None:
        """(log likelihood, kl by site), means over all validation images, one fixed draw."""
        if self.valid is None:
            return None
        total: Any = 0.0
        with quiet(self.model, self.guide):
            for start in range(0, len(self.valid), self.batch_size):
                values = self.valid.rows(slice(start, start + self.batch_size))
                key = random.fold_in(self.aside, start)
                sums = self._validated(self.now.params, self.now.mutable, values, key)
                total = total + np.asarray(sums, dtype=np.float64)
        mean = total / len(self.valid)
        return float(mean[0]), mean[1:]

    def _validation_sums(self, params: Any, mutable: Any, values: Array, rng_key: Any) -> Array:
        images: Any = self.valid  # without any nothing is validated
        binarise, noise = random.split(rng_key)
        x = images.prepared(values, binarise)
        data = {**self.constrained(params), **fresh(mutable)}
        with handlers.substitute(data=data), handlers.seed(rng_seed=noise):
            means = self.objective.terms(self.model, self.guide, x).means(len(self.train))
        return len(x) * jnp.stack([means.log_likelihood, *(means.kl[s] for s in self.sites)])

    @property
    def local(self) -> State:
        """The state where the modules are."""
        return self.now

    def _whole(self, part: Any) -> Any:
        """The optimiser's state, or the averaged weights, where they can be read."""
        return part

    def probe(self) -> Any:
        """Stored images that the posterior's range is read from, fewer for large models."""
        stored = self.train.values[: images_at_once(self.model, PROBE)]
        return np.asarray(stored) if self.train.streamed else stored

    def posterior_range(self) -> dict[str, np.ndarray] | None:
        return posterior_range(self)

    def prior_samples(self, num_samples: int) -> np.ndarray | None:
        return prior_samples(self, num_samples)

    @property
    def aside(self) -> Any:
        """A key for looking at the pair while it trains."""
        return random.key(self.settings.seed + 1)

    def constrained(self, params: Any) -> dict[str, Any]:
        """{site: value} as the programs ask for them, of unconstrained `params` {site: value}."""
        return {name: self.transforms[name](value) for name, value in params.items()}

    def write_back(self) -> None:
        """The present weights into the modules."""
        self._into_modules(self.local.params)

    def _into_modules(self, params: Any) -> None:
        # Copies: the next epoch's step takes the buffers of `self.now` for its own.
        values = {**params, **self.local.mutable}
        write_back(self._held, _copied({name: values[name] for name in self._held}))

    def learned(self) -> dict[str, Any]:
        """Constrained values of what plain functions asked for, their mutable sites among it."""
        own = {**self.constrained(self.local.params), **self.local.mutable}
        return {name: value for name, value in own.items() if not self._in_module(name)}

    def _in_module(self, site: str) -> bool:
        return site.rpartition("$")[0] in self.modules

    def weights(self) -> Arrays:
        return self._as_arrays(self.local.params)

    def averaged_weights(self) -> Arrays | None:
        if self.now.averaged is None:
            return None
        arrays = self._as_arrays(self._whole(self.now.averaged))
        self.write_back()
        return arrays

    def _as_arrays(self, params: Any) -> Arrays:
        self._into_modules(params)
        plain = {name: value for name, value in params.items() if not self._in_module(name)}
        return {**state(self.model, self.guide), **flat("params", plain)}

    def _from_arrays(self, weights: Arrays) -> Any:
        plain = {name: v for name, v in self.now.params.items() if not self._in_module(name)}
        extra = {name: value for name, value in weights.items() if name.startswith("params[")}
        load_state(self.model, self.guide, {k: v for k, v in weights.items() if k not in extra})
        recorder = SiteRecorder()
        recorder.modules = self.modules
        own = recorder.module_values()
        params = {name: own.get(name) for name in self.now.params}
        return jax.tree.map(jnp.array, {**params, **unflat("params", plain, extra)})

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        local = self.local
        arrays = flat("optimizer", self._whole(self.now.optimizer)) | flat("mutable", local.mutable)
        arrays |= flat("spectral", local.vectors)
        return arrays, {"device": jax.default_backend()}

    def restore(self, weights: Arrays, averaged: Arrays | None, state: Arrays, info: Any) -> None:
        kept = self.now.averaged
        if kept is not None:
            kept = self._from_arrays(averaged or weights)
        params = self._from_arrays(weights)
        mutable = unflat("mutable", self.now.mutable, state)
        optimizer = unflat("optimizer", self.now.optimizer, state)
        vectors = unflat("spectral", self.now.vectors, state)
        self.now = self._placed(State(params, mutable, optimizer, kept, vectors))


@jax.jit
def _copied(tree: Any) -> Any:
    """A tree's leaves in buffers of their own, all by one call."""
    return jax.tree.map(jnp.copy, tree)
