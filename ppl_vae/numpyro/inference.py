"""What a trained pair is asked: importance weights, terms by site, draws, reconstructions.

All of it runs in evaluation mode; `batch_norm` says what batch norm uses:

- "running": the statistics gathered in training;
- "batch": those of the batch at hand;
- "recomputed": averages over fresh passes, at the temperature asked for (Vahdat & Kautz 2020,
  section 4), after which the stored ones are put back.
"""

from __future__ import annotations

__all__ = [
    "log_weights",
    "moments",
    "posterior_moments",
    "posterior_sample",
    "reconstruct",
    "sample",
    "site_terms",
    "stream_log_weights",
    "temperature",
]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, random
from numpyro import handlers
from numpyro.infer.autoguide import AutoGuide
from numpyro.primitives import Messenger

from ppl_vae.errors import UsageError, nearest
from ppl_vae.numpyro.bind import SiteRecorder, StateRecorder, bind, fresh
from ppl_vae.numpyro.data import DeviceImages
from ppl_vae.numpyro.distributions import tempered, unwrapped
from ppl_vae.numpyro.guide import Guide, quiet
from ppl_vae.numpyro.objective import Objective, traces

BATCH_NORM = ("running", "batch", "recomputed")
ROWS = 8192  # images times samples that pass through the nets at once
RECOMPUTED_PASSES = 20


def log_weights(
    model: Any,
    guide: Any,
    x: Any,
    num_samples: int,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
) -> Array:
    """Log importance weights log p(x, z) - log q(z | x) of draws from the guide.

    Takes any NumPyro model and guide whose data plate is sized by len(x): rows of `x` are repeated
    and the pair is called with that longer batch, in blocks, so programs see no further axes.

    Args:
        x: images (n, c, h, w) in the likelihood's range, or `ppl_vae.data.Images`.
        num_samples: K.
        params: what `fit` learned for plain functions.
        seed: of the draws.
        batch_norm: see the module.
        block: images times samples that pass through the nets at once.

    Returns:
        (num_samples, images), nats.

    Raises:
        UsageError: K below 1, or a latent shared between images.
    """
    blocks = stream_log_weights(
        model,
        guide,
        x,
        num_samples,
        params=params,
        seed=seed,
        batch_norm=batch_norm,
        block=block,
    )
    return jnp.asarray(np.concatenate(list(blocks), axis=1))


def stream_log_weights(
    model: Any,
    guide: Any,
    x: Any,
    num_samples: int,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
) -> Iterator[np.ndarray]:
    """`log_weights` a block of images at a time: arrays (num_samples, images of the block)."""
    if num_samples < 1:
        raise UsageError(f"num_samples: expected at least 1, came {num_samples}")
    rows = block or ROWS
    with _asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        size = max(1, min(len(data), 100, rows))
        at_once = max(1, min(rows // size, num_samples))
        if isinstance(guide, AutoGuide):  # a posterior for each place in the batch
            size, at_once = len(data), 1

        @jax.jit
        def weights(values: Any, stored: Array, rng_key: Any) -> Array:
            images, noise = _prepared(data, stored, rng_key)
            with _running(values, noise):
                return _weights(model, guide, images, at_once)

        for start in range(0, len(data), size):
            stored = data.values[start : start + size]
            image_key = random.fold_in(key, start)
            parts = [
                np.asarray(weights(values, stored, random.fold_in(image_key, done)))
                for done in range(0, num_samples, at_once)
            ]
            yield np.concatenate(parts)[:num_samples]


def _weights(model: Any, guide: Any, x: Array, repeats: int) -> Array:
    """(repeats, n) log weights."""
    n = len(x)
    kwargs = {}
    if isinstance(guide, Guide):  # the image is encoded once, whatever the number of samples
        with bind(guide.name, guide) as bound:
            features = bound.encode(x)
        kwargs["features"] = jax.tree.map(lambda t: _repeated(t, repeats, n), features)
    many = _repeated(x, repeats, n)
    terms = Objective().terms(model, guide, many, analytic=False, **kwargs)
    shared = [name for name, part in terms.kl.items() if part.ndim == 0]
    if shared:
        raise UsageError(
            f"log_weights: site {shared[0]} is shared between images, so there is no weight for "
            "each image: put it into the data plate, or condition the model on its value"
        )
    return terms.log_weight().reshape(repeats, n)


def _repeated(t: Any, repeats: int, n: int) -> Any:
    if not hasattr(t, "ndim") or t.ndim == 0 or t.shape[0] != n:
        return t
    return jnp.tile(t, (repeats, *(1 for _ in t.shape[1:])))


def site_terms(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int = 1000,
) -> dict[str, Any]:
    """{"log_likelihood": (n,), "kl": {site: (n,)}}: the bound's terms of each image, nats, one draw.

    Divergences are in closed form where that is right, else log q - log p of the draw.
    """
    objective = Objective()

    def terms(x: Array) -> dict[str, Any]:
        found = objective.terms(model, guide, x)
        return {"log_likelihood": sum(found.log_likelihood.values()), "kl": found.kl}

    return _in_blocks(terms, model, guide, x, params, seed, batch_norm, block)


def posterior_moments(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int = 1000,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{site: (loc, scale)} of q(z_l | x, z above) under one draw of the latents above, (n, …) each."""

    def found(x: Array) -> Any:
        return moments(model, guide, x)

    return _in_blocks(found, model, guide, x, params, seed, batch_norm, block)


def _in_blocks(
    fn: Callable[[Array], Any],
    model: Any,
    guide: Any,
    x: Any,
    params: dict[str, Any] | None,
    seed: int,
    batch_norm: str,
    block: int,
) -> Any:
    with _asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        block = len(data) if isinstance(guide, AutoGuide) else block

        @jax.jit
        def run(values: Any, stored: Array, rng_key: Any) -> Any:
            images, noise = _prepared(data, stored, rng_key)
            with _running(values, noise):
                return fn(images)

        parts = [
            run(values, data.values[start : start + block], random.fold_in(key, start))
            for start in range(0, len(data), block)
        ]
    return jax.tree.map(lambda *arrays: np.concatenate([np.asarray(a) for a in arrays]), *parts)


def moments(model: Any, guide: Any, x: Array) -> dict[str, tuple[Array, Array]]:
    """`posterior_moments` of one batch, in whatever mode the modules are."""
    _, guide_trace = traces(model, guide, x)
    found = {}
    for name, site in guide_trace.items():
        fn = unwrapped(site["fn"]) if site["type"] == "sample" else None
        if hasattr(fn, "loc") and hasattr(fn, "scale"):
            found[name] = (fn.loc, fn.scale)
    return found


def sample(
    model: Any,
    num_samples: int,
    *,
    temperature: float = 1.0,
    batch_norm: str = "running",
    params: dict[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Array]:
    """Draws from the prior: {site: (n, …)}, "x" (n, c, h, w), and "x_mean", the likelihood's mean.

    Args:
        temperature: factor on the scale of every latent's prior.
        batch_norm: see the module.
    """
    if num_samples < 1:
        raise UsageError(f"num_samples: expected at least 1, came {num_samples}")
    generate = _temperature_handler(temperature)(model)
    with _asked(generate, None, None, params, seed, batch_norm, model) as (_, values, key):

        @jax.jit
        def draw(values: Any, rng_key: Any) -> dict[str, Array]:
            with _running(values, rng_key):
                return _values(handlers.trace(generate).get_trace(n=num_samples))

        return draw(values, key)


def posterior_sample(
    model: Any,
    guide: Any,
    x: Any,
    num_samples: int = 1,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> dict[str, Array]:
    """Draws from the guide: {site: (num_samples, n, …)}, and "x_mean", the likelihood's mean."""
    with _asked(model, guide, x, params, seed, batch_norm) as (data, values, key):

        @jax.jit
        def draw(values: Any, stored: Array, rng_key: Any) -> dict[str, Array]:
            images, noise = _prepared(data, stored, rng_key)
            with _running(values, noise):
                return _values(traces(model, guide, images)[0])

        keys = random.split(key, num_samples)
        draws = [draw(values, data.values, one) for one in keys]
    return {name: jnp.stack([one[name] for one in draws]) for name in draws[0] if name != "x"}


def reconstruct(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> Array:
    """Mean of p(x | z) for one draw z ~ q(z | x) an image: (n, c, h, w)."""
    return posterior_sample(model, guide, x, params=params, seed=seed, batch_norm=batch_norm)[
        "x_mean"
    ][0]


class temperature(Messenger):  # noqa: N801, a handler is named like a function
    """Handler: the scale of each latent's prior times `factor`; the data's site "x" stays as it is.

    `temperature(0.7)(model)(n=16)` draws 16 images.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def __call__(self, program: Any) -> Any:  # type: ignore[override]
        def cooled(*args: Any, **kwargs: Any) -> Any:
            with self:
                return program(*args, **kwargs)

        return cooled

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and not msg["is_observed"] and msg["name"] != "x":
            msg["fn"] = tempered(msg["fn"], self.factor)


def _temperature_handler(factor: float) -> Callable[[Any], Any]:
    if not factor > 0:
        raise UsageError(f"temperature: expected above 0, came {factor}")
    return (lambda model: model) if factor == 1.0 else temperature(factor)


def _values(trace: Any) -> dict[str, Array]:
    found = {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}
    if "x" in found:
        found["x_mean"] = trace["x"]["fn"].mean
    return found


def _prepared(data: DeviceImages, stored: Array, rng_key: Any) -> tuple[Array, Any]:
    binarise, noise = random.split(rng_key)
    return data.prepared(stored, binarise), noise


@contextmanager
def _running(values: dict[str, Any], rng_key: Any) -> Iterator[None]:
    with handlers.substitute(data=fresh(values)), handlers.seed(rng_seed=rng_key):
        yield


@contextmanager
def _asked(
    model: Any,
    guide: Any,
    x: Any,
    params: dict[str, Any] | None,
    seed: int,
    batch_norm: str,
    *modules: Any,
) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    """(data, {site: value} of parameters and state, key), with the pair in evaluation mode."""
    if batch_norm not in BATCH_NORM:
        raise UsageError(f"batch_norm: unknown {batch_norm!r}: {nearest(batch_norm, BATCH_NORM)}")
    key = random.key(seed)
    with quiet(model, guide, *modules):
        data = None if x is None else DeviceImages(x, None, _dtype(x, model, guide))

        def one_pass(rng_key: Any, stored: Any) -> None:
            if data is None:
                model(n=100)
            else:
                traces(model, guide, _prepared(data, stored, rng_key)[0])

        values = {**_module_values(one_pass, data), **(params or {})}
        norms = _norms(model, guide, *modules)
        if batch_norm == "running" or not norms:
            yield data, values, key
        elif batch_norm == "batch":
            with _training(norms):
                yield data, values, key
        else:
            values = _recomputed(one_pass, data, values, norms, random.fold_in(key, 1))
            yield data, values, key


def _module_values(one_pass: Callable[..., None], data: DeviceImages | None) -> dict[str, Any]:
    """{site: value} of every module that the pair binds; found by an abstract pass."""
    recorder = SiteRecorder()

    def look(rng_key: Any) -> int:
        with recorder, handlers.seed(rng_seed=rng_key):
            one_pass(rng_key, None if data is None else data.values)
        return 0

    jax.eval_shape(look, random.key(0))
    return recorder.module_values()


def _recomputed(
    one_pass: Callable[..., None],
    data: DeviceImages | None,
    values: dict[str, Any],
    norms: list[nnx.BatchNorm],
    key: Any,
) -> dict[str, Any]:
    """`values` with batch norm's statistics averaged over fresh passes."""

    @jax.jit
    def statistics(stored: Any, rng_key: Any) -> Any:
        recorder = StateRecorder()
        with recorder, handlers.substitute(data=fresh(values)), handlers.seed(rng_seed=rng_key):
            one_pass(rng_key, stored)
        return recorder.values

    parts = [None] * RECOMPUTED_PASSES
    if data is not None:
        size = 256
        starts = range(0, min(len(data), RECOMPUTED_PASSES * size), size)
        parts = [data.values[s : s + size] for s in starts if len(data) - s > 1]  # it needs two
    with _training(norms, momentum=0.0):  # a pass leaves its own statistics behind
        found = [statistics(part, random.fold_in(key, i)) for i, part in enumerate(parts)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *found)
    return {**values, **mean}


@contextmanager
def _training(norms: list[nnx.BatchNorm], momentum: float | None = None) -> Iterator[None]:
    held = [norm.momentum for norm in norms]
    for norm in norms:
        norm.use_running_average = False
        norm.momentum = norm.momentum if momentum is None else momentum
    try:
        yield
    finally:
        for norm, old in zip(norms, held, strict=True):
            norm.use_running_average, norm.momentum = True, old


def _norms(*modules: Any) -> list[nnx.BatchNorm]:
    return [
        part
        for module in modules
        if isinstance(module, nnx.Module)
        for _, part in nnx.iter_graph(module)
        if isinstance(part, nnx.BatchNorm)
    ]


def _dtype(x: Any, *modules: Any) -> Any:
    for module in modules:
        if isinstance(module, nnx.Module):
            leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
            if leaves:
                return leaves[0].dtype
    given = getattr(x, "dtype", None)
    floating = given is not None and jnp.issubdtype(given, jnp.floating)
    return jnp.result_type(given) if floating else jnp.float32
