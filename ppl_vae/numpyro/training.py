"""`fit`: stochastic variational inference of a model and a guide; an epoch is one `lax.scan`."""

from __future__ import annotations

__all__ = ["fit"]

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array, lax, random
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer.autoguide import AutoGuide

from ppl_vae import loop
from ppl_vae.architecture import check_images
from ppl_vae.errors import UsageError
from ppl_vae.numpyro import ranks
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
from ppl_vae.numpyro.checks import (
    check_batch_size,
    check_num_samples,
    check_pair,
    check_sites,
    natural,
)
from ppl_vae.numpyro.coding import code_counts
from ppl_vae.numpyro.data import DeviceImages, check_support
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.guide import quiet, set_mode
from ppl_vae.numpyro.inference import moments_of
from ppl_vae.numpyro.information import unit_divergence
from ppl_vae.numpyro.mesh import mesh_of
from ppl_vae.numpyro.objective import Objective, traces
from ppl_vae.numpyro.optimizers import clipped, device_of, optimizer_of
from ppl_vae.numpyro.regularizers import Penalty
from ppl_vae.numpyro.sampling import sample
from ppl_vae.numpyro.weights import flat, load_state, state, unflat
from ppl_vae.runs import Arrays, Run
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

PROBE = 256  # images of the batch that the posterior's range is read from


def fit(
    model: Any,
    guide: Any,
    train: Any,
    *,
    valid: Any = None,
    objective: ObjectiveSettings | None = None,
    run: Run | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Iterable[Callable[[Any], Any]] = (),
    **training: Any,
) -> loop.Fit:
    """Train a model and a guide.

    Several devices share each batch (`devices="all"`), and several processes (JAX's), of which the
    first alone writes, shows the bar and calls back (`ppl_vae.numpyro.ranks`).

    Args:
        model: a NumPyro program `model(x=None, *, n=None)`: a module, or a plain function.
        guide: a `Guide`, a module or a plain function over the same latent sites, or one of
            NumPyro's automatic guides.
        train: `ppl_vae.data.Images`, or an array (n, c, h, w) in the likelihood's range; images
            that are mapped into memory (`numpy.memmap`) stay on disk, and come in by parts.
        valid: the same; its ELBO decides which weights are the best, and early stopping.
        objective: warm-up, beta, free bits, importance samples (`ObjectiveSettings`).
        run: folder that takes checkpoints, history, TensorBoard scalars.
        resume: go on from the run's last whole checkpoint.
        progress: show a bar.
        callbacks: each called with the history (xarray.Dataset) after every epoch.
        **training: fields of `TrainingSettings`: epochs, batch_size, learning_rate, …

    Returns:
        Fit: history, and `params` of plain functions. Modules are updated in place, and hold
        the last weights.

    Raises:
        UsageError: what was asked for cannot be; the message says what to change.
        TrainingError: NaN, memory or too many skipped steps, with advice.
    """
    settings = TrainingSettings.from_keywords(training)
    goal = objective or ObjectiveSettings()
    ranks.join(settings)
    if run is not None and resume:
        ranks.same("--resume", run.last.name if run.last else "no checkpoint")
    with _surroundings(settings) as device:
        trainer = _trainer(model, guide, train, valid, goal, settings, device)
        try:
            history, best_epoch = loop.train(
                trainer,
                goal,
                settings,
                trainer.full_weight,
                run=run,
                resume=resume,
                show_progress=progress,
                callbacks=callbacks,
                leads=ranks.leads(),
            )
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise loop.out_of_memory(trainer, run) from error
        trainer.write_back()
        return loop.Fit(history, trainer.learned(), best_epoch)


def _trainer(*args: Any) -> NumPyroTrainer:
    """For one device, the last of the arguments, or for several; one of several runs, or alone."""
    settings: TrainingSettings = args[-2]
    mesh = mesh_of(settings.device, settings.devices)
    if mesh is None:
        from ppl_vae.numpyro.at_once import TogetherTrainer, here

        return NumPyroTrainer(*args) if here() is None else TogetherTrainer(*args)
    from ppl_vae.numpyro.sharded import ShardedTrainer

    with_mesh = (*args[:-1], mesh)
    return ShardedTrainer(*with_mesh)


@contextmanager
def _surroundings(settings: TrainingSettings) -> Iterator[Any]:
    """Everything global that training sets, put back afterwards; yields the device."""
    device = device_of(settings.device)
    if settings.precision == "float64" and not jax.config.read("jax_enable_x64"):
        raise UsageError("training.precision: float64 needs the environment JAX_ENABLE_X64=1")
    with ExitStack() as stack:
        stack.enter_context(jax.default_device(device))
        yield device


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
        self.shuffles = not isinstance(guide, AutoGuide)
        self.key = random.key(settings.seed)
        self._first_pass()
        self.epoch = jax.jit(self._epoch, donate_argnums=0)
        self.part = jax.jit(self._part, donate_argnums=0)
        self._validated = jax.jit(self._validation_sums)

    def _first_pass(self) -> None:
        """One checked pass: sites and supports are looked at, parameters come into being."""
        x = self.train.batch(slice(0, self.batch_size), self.key)
        with quiet(self.model, self.guide):
            check_pair(self.model, self.guide)
            if isinstance(self.guide, AutoGuide):  # it looks at the model once, outside of any jit
                with handlers.seed(rng_seed=self.key):
                    self.guide(x)
            seen = _Seen()
            values, inside = jax.jit(seen.look, static_argnums=(0, 1))(
                _Held(self.model), _Held(self.guide), x, self.key
            )
        for name, site in seen.observed.items():
            check_support(name, type(unwrapped(site["fn"])).__name__, inside[name], x)
        check_sites(self.guide, seen.guide, len(x), len(self.train))
        self.sites = (*sorted(seen.latents, key=natural), *seen.auxiliary)
        num_latent = sum(site["value"].size for site in seen.latents.values()) / len(x)
        self.full_weight = self.objective.settings.full_weight(x[0].size, max(1, num_latent))
        self.objective.full_weight = self.full_weight
        self.modules = {
            name: module
            for name, module in seen.recorder.modules.items()
            if module is self.model or module is self.guide
        }
        self._held = holders(self.modules)  # found once: a walk through a deep net takes long
        self.transforms = {
            name: biject_to(site["kwargs"].get("constraint", constraints.real))
            for name, site in seen.recorder.params.items()
        }
        values |= seen.recorder.module_values()
        params = {name: t.inv(values[name]) for name, t in self.transforms.items()}
        if not params:
            raise UsageError("fit: neither model nor guide has a parameter to train")
        mutable = {name: values[name] for name in seen.recorder.mutable}
        self.optimizer = optimizer_of(self.settings)
        averaged = jax.tree.map(jnp.array, params) if self.settings.ema else None
        self.penalty = vectors = None
        objective = self.objective.settings
        if objective.penalised:
            seed = self.settings.seed
            self.penalty = Penalty(self.model, self.guide, objective, self.full_weight, seed)
            vectors = self.penalty.vectors
        optimizer = jax.jit(self.optimizer.init)(params)
        self.now = self._placed(State(params, mutable, optimizer, averaged, vectors))

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
                key = random.fold_in(self._aside, start)
                sums = self._validated(self.now.params, self.now.mutable, values, key)
                total = total + np.asarray(sums, dtype=np.float64)
        mean = total / len(self.valid)
        return float(mean[0]), mean[1:]

    def _validation_sums(self, params: Any, mutable: Any, values: Array, rng_key: Any) -> Array:
        assert self.valid is not None
        binarise, noise = random.split(rng_key)
        x = self.valid.prepared(values, binarise)
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

    def _probe(self) -> Any:
        """Stored images that the posterior's range is read from."""
        stored = self.train.values[:PROBE]
        return np.asarray(stored) if self.train.streamed else stored

    def posterior_range(self) -> dict[str, np.ndarray] | None:
        """What the first training images' posteriors span; see `loop.Trainer`."""
        local = self.local
        with quiet(self.model, self.guide):
            found = self._spans(local.params, local.mutable, self._probe())
        if not self.sites or set(found["posterior_loc"]) != set(self.sites):
            return None
        counts = {site: np.asarray(part) for site, part in found.pop("code_counts").items()}
        return loop.code_use(counts, self.sites) | {
            name: np.array([by_site[site] for site in self.sites], dtype=np.float64)
            for name, by_site in found.items()
            if set(by_site) == set(self.sites)
        }

    @property
    def _spans(self) -> Callable[..., Any]:
        if not hasattr(self, "_jitted_spans"):

            def spans(params: Any, mutable: Any, values: Array) -> Any:
                x = self.train.prepared(values, self._aside)
                data = {**self.constrained(params), **fresh(mutable)}
                with handlers.substitute(data=data), handlers.seed(rng_seed=self._aside):
                    kl, trace = unit_divergence(self.objective, self.model, self.guide, x)
                    found = moments_of(trace)
                    counts = code_counts(trace)
                row = {
                    name: {site: _ends(part[i]) for site, part in found.items()}
                    for i, name in enumerate(("posterior_loc", "posterior_scale"))
                }
                row["code_counts"] = counts
                if len(x) > 1 and set(kl) == set(found):
                    row["active_units"] = {
                        site: (loc.var(axis=0, ddof=1) > loop.ACTIVE).sum()
                        for site, (loc, _) in found.items()
                    }
                    row["active_units_kl"] = {
                        site: (part.mean(0) > loop.ACTIVE).sum() for site, part in kl.items()
                    }
                return row

            self._jitted_spans = jax.jit(spans)
        return self._jitted_spans

    def prior_samples(self, num_samples: int) -> np.ndarray | None:
        """Mean images (n, c, h, w) of prior draws; None for programs that do not generate."""
        params = {**self.constrained(self.local.params), **self.local.mutable}
        try:
            drawn = sample(self.model, num_samples, params=params, seed=self.settings.seed + 1)
            return np.asarray(drawn["x_mean"])
        except (TypeError, KeyError, UsageError):
            return None

    @property
    def _aside(self) -> Any:
        """A key for looking at the pair while it trains."""
        return random.key(self.settings.seed + 1)

    def constrained(self, params: Any) -> dict[str, Any]:
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


class _Held:
    """A program as a static argument of `jit`, equal to itself alone."""

    def __init__(self, program: Any) -> None:
        self.program = program


class _Seen:
    """What one traced pass of a pair shows."""

    def look(self, model: _Held, guide: _Held, x: Array, rng_key: Any) -> Any:
        """Values of parameters outside of modules, and whether data lie in the support."""
        self.recorder = SiteRecorder()
        with self.recorder, handlers.seed(rng_seed=rng_key):
            model_trace, self.guide = traces(model.program, guide.program, x)
        sites = {n: s for n, s in model_trace.items() if s["type"] == "sample"}
        self.observed = {name: site for name, site in sites.items() if site["is_observed"]}
        self.latents = {name: site for name, site in sites.items() if not site["is_observed"]}
        self.auxiliary = [
            name
            for name, site in self.guide.items()
            if site["type"] == "sample" and not site["is_observed"] and name not in sites
        ]
        inside = {n: jnp.all(s["fn"].support(s["value"])) for n, s in self.observed.items()}
        own = self.recorder.module_values()
        asked = {**self.recorder.params, **self.recorder.mutable}
        return {name: site["value"] for name, site in asked.items() if name not in own}, inside


@jax.jit
def _copied(tree: Any) -> Any:
    """A tree's leaves in buffers of their own, all by one call."""
    return jax.tree.map(jnp.copy, tree)


def _ends(values: Array) -> Array:
    """(2,): the lowest and the highest."""
    return jnp.stack([values.min(), values.max()])
