"""How a trained pair is asked: evaluation mode, learned parameters, a random stream of its own.

`batch_norm` says what batch norm uses:

- "running": the statistics gathered in training;
- "batch": those of the batch at hand;
- "recomputed": averages over fresh passes, at the temperature asked for (Vahdat & Kautz 2020,
  section 4), after which the stored ones are put back.
"""

from __future__ import annotations

__all__ = ["again", "asked", "batch_norms", "keeps_order", "prepared", "running"]

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, random
from numpyro import handlers
from numpyro.infer.autoguide import AutoGuide

from ppl_vae.checks import check_images
from ppl_vae.errors import UsageError, nearest
from ppl_vae.numpyro.bind import SiteRecorder, StateRecorder, fresh
from ppl_vae.numpyro.data import DeviceImages
from ppl_vae.numpyro.guide import quiet
from ppl_vae.numpyro.objective import traces

BATCH_NORM = ("running", "batch", "recomputed")
PASSES = 20  # over which recomputed statistics are averaged


@contextmanager
def asked(
    model: Any,
    guide: Any,
    x: Any,
    params: dict[str, Any] | None,
    seed: int,
    batch_norm: str,
    *modules: Any,
) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    """(images `x` on the device, {site: value} of parameters and state, random key).

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`; None for none.
        params: what `fit` learned for plain functions.
        seed: of the draws.
        batch_norm: "running", "batch" or "recomputed", see above.
        modules: those behind `model` where it is a handler around them.

    Raises:
        UsageError: images that the model does not take, no such `batch_norm`, or "recomputed" from
            one image alone.
    """
    if batch_norm not in BATCH_NORM:
        raise UsageError(f"batch_norm: unknown {batch_norm!r}: {nearest(batch_norm, BATCH_NORM)}")
    key = random.key(seed)
    with quiet(model, guide, *modules):
        data = None if x is None else DeviceImages(x, None, _dtype(x, model, guide))
        if data is not None:
            check_images(data, model)

        def one_pass(rng_key: Any, stored: Any) -> None:
            if data is None:
                model(n=100)
            elif guide is None:
                model(prepared(data, stored, rng_key)[0])
            else:
                traces(model, guide, prepared(data, stored, rng_key)[0])

        values = {**_module_values(one_pass, data), **(params or {})}
        norms = batch_norms(model, guide, *modules)
        if batch_norm == "running" or not norms:
            yield data, values, key
        elif batch_norm == "batch":
            with _training(norms):
                yield data, values, key
        else:
            values = _recomputed(one_pass, data, values, norms, random.fold_in(key, 1))
            yield data, values, key


@contextmanager
def again(model: Any, guide: Any, batch_norm: str) -> Iterator[None]:
    """The modes of `asked` once more, for whoever has left it with what it gave."""
    with quiet(model, guide), ExitStack() as stack:
        if batch_norm == "batch":
            stack.enter_context(_training(batch_norms(model, guide)))
        yield


def keeps_order(guide: Any) -> bool:
    """True for automatic guides, which keep a posterior for each place in the batch."""
    return isinstance(guide, AutoGuide)


def prepared(data: DeviceImages, stored: Array, rng_key: Any) -> tuple[Array, Any]:
    """(images (n, c, h, w) of `stored` values, a key for further draws); both from `rng_key`."""
    binarise, noise = random.split(rng_key)
    return data.prepared(stored, binarise), noise


@contextmanager
def running(values: dict[str, Any], rng_key: Any) -> Iterator[None]:
    """Within it programs run under `values` {site: value}, and draw by `rng_key`."""
    with handlers.substitute(data=fresh(values)), handlers.seed(rng_seed=rng_key):
        yield


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

    parts = [None] * PASSES
    if data is not None:
        size = 256
        starts = range(0, min(len(data), PASSES * size), size)
        parts = [data.values[s : s + size] for s in starts if len(data) - s > 1]  # it needs two
    if data is not None and not parts:
        raise UsageError(
            f"batch_norm: recomputed needs two images or more, came {len(data)}: give more, or "
            "take running"
        )
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


def batch_norms(*modules: Any) -> list[nnx.BatchNorm]:
    """Batch-norm layers of the modules among the arguments."""
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
