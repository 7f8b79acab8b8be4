"""Importance weights of images, in blocks as large as memory allows."""

from __future__ import annotations

__all__ = ["ROWS", "log_weights", "stream_log_weights"]

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.sharding import Mesh

from ppl_vae.errors import UsageError
from ppl_vae.memory import rows_within
from ppl_vae.numpyro import ranks
from ppl_vae.numpyro.asking import again, asked, batch_norms, keeps_order, running
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.densities import repeated
from ppl_vae.numpyro.guide import Guide
from ppl_vae.numpyro.memory import free, needed
from ppl_vae.numpyro.mesh import everywhere, mesh_of, put, spread
from ppl_vae.numpyro.objective import Objective

ROWS = 8192  # images times samples that pass through the nets at once, at most
HELD = 1_000_000  # weights that a block of images has at most: memory is flat in samples too


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
    spread: bool = False,
) -> Array:
    """Log importance weights log p(x, z) - log q(z | x) of draws from the guide.

    Takes any NumPyro model and guide whose data plate is sized by len(x): rows of `x` are repeated
    and the pair is called with that longer batch, in blocks, so programs see no further axes.

    Args:
        x: images (n, c, h, w) in the likelihood's range, or `ppl_vae.data.Images`.
        num_samples: K.
        params: what `fit` learned for plain functions.
        seed: of the draws.
        batch_norm: see `ppl_vae.numpyro.asking`.
        block: images times samples that pass through the nets at once; None takes what fits into
            a quarter of the memory that is free. The weights are the same, to rounding.
        spread: share images times samples among all devices, those of JAX's other processes
            among them, all of which have to call; the weights are one device's to rounding.

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
        spread=spread,
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
    spread: bool = False,
) -> Iterator[np.ndarray]:
    """`log_weights` a block of images at a time.

    Args:
        model, guide, x, num_samples, params, seed, batch_norm, block, spread: see `log_weights`.

    Yields:
        (num_samples, images of the block), nats, the images in their order.

    Raises:
        UsageError: see `log_weights`; when the first block is asked for.
    """
    if num_samples < 1:
        raise UsageError(f"num_samples: expected at least 1, came {num_samples}")
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        # A batch's own statistics are of the whole of it, and so is an automatic guide.
        whole = keeps_order(guide)
        apart = not whole and not (batch_norm == "batch" and batch_norms(model, guide))
        weigher = _weigh_apart if apart else _weigh_together
        mesh = mesh_of() if spread else None
        if mesh is not None:
            values = jax.tree.map(lambda leaf: put(leaf, everywhere(mesh)), values)
        passes = _Passes(weigher, (model, guide, data, values, key), num_samples, mesh)
        if whole:
            passes.size, passes.at_once = len(data), 1
        else:
            passes.fit(block or ROWS, chosen=block is not None or not apart)
    for start in range(0, len(data), passes.size):
        # Nothing is changed in the modules while the caller has the block.
        with again(model, guide, batch_norm):
            stored = data.values[start : start + passes.size]
            parts = [
                np.asarray(passes(stored, start, done))
                for done in range(0, num_samples, passes.at_once)
            ]
        yield np.concatenate(parts)[:num_samples]


class _Passes:
    """Log weights of some images and samples at a time, compiled once for each shape.

    Args:
        weigher: `_weigh_apart` or `_weigh_together`.
        pair: its first arguments: model, guide, images, values of parameters, random key.
        num_samples: of all passes.
        mesh: of the devices that share a pass, or None.

    Attributes:
        size, at_once: images and samples of a pass.
    """

    def __init__(
        self,
        weigher: Callable[..., Array],
        pair: tuple[Any, Any, Any, Any, Any],
        num_samples: int,
        mesh: Mesh | None,
    ) -> None:
        model, guide, self.data, self.values, self.key = pair
        self.num_samples, self.mesh = num_samples, mesh
        self.size = self.at_once = 1
        self._compiled: dict[Any, Any] = {}

        def run(at_once: int, *given: Any) -> Array:
            return weigher(model, guide, self.data, at_once, mesh, *given)

        shardings: dict[str, Any] = {} if mesh is None else {"out_shardings": everywhere(mesh)}
        self._run = jax.jit(run, static_argnums=(0,), **shardings)

    def fit(self, rows: int, chosen: bool) -> None:
        """Passes of `rows` at most; unless they were `chosen`, of no more than memory holds."""
        self._shape(rows)
        if chosen or not len(self.data):
            return
        stored = self.data.values[: self.size]
        used = needed(self.program(stored, 0, 0))
        here = free(next(iter(self.data.values.devices())))
        fits = rows_within(here, used / (self.size * self.at_once), rows)
        if self.mesh is not None:  # all processes run one program
            fits = ranks.least(fits)
        if fits < self.size * self.at_once:
            self._shape(fits)

    def _shape(self, rows: int) -> None:
        most = max(1, min(len(self.data), 100, HELD // self.num_samples))
        self.size = min(most, rows)
        self.at_once = max(1, min(rows // self.size, self.num_samples))

    def __call__(self, stored: Array, start: int, done: int) -> Array:
        """(at_once, images): samples from `done` on of the stored images from `start` on."""
        found: Array = self.program(stored, start, done)(*self._arguments(stored, start, done))
        return found

    def _arguments(self, stored: Array, start: int, done: int) -> tuple[Any, ...]:
        given = (self.values, self.key, stored, jnp.uint32(start), jnp.uint32(done))
        if self.mesh is None:
            return given
        alike = everywhere(self.mesh)
        return tuple(jax.tree.map(lambda leaf: put(leaf, alike), part) for part in given)

    def program(self, stored: Array, start: int, done: int) -> Any:
        """Compiled for such a pass."""
        name = (stored.shape, self.at_once)
        if name not in self._compiled:
            given = self._arguments(stored, start, done)
            self._compiled[name] = self._run.lower(self.at_once, *given).compile()
        return self._compiled[name]


def _weigh_apart(
    model: Any, guide: Any, data: Any, at_once: int, mesh: Mesh | None, *given: Any
) -> Array:
    """(at_once, n) log weights, each row a batch of one with a random key of its own.

    The key is that of the image's and the sample's numbers, so that no cut of the work changes it.
    """
    values, key, stored, start, done = given
    n = len(stored)
    keys = jax.vmap(partial(random.fold_in, key))(start + jnp.arange(n, dtype=jnp.uint32))
    # All samples are weights of one binarisation of the image.
    binarise, encode, draw = (
        jax.vmap(partial(random.fold_in, data=i))(keys) for i in range(3)
    )  # fmt: skip
    images = jax.vmap(lambda value, k: data.prepared(value[None], k)[0])(stored, binarise)
    leaves: list[Any] = []
    shape: Any = None
    if isinstance(guide, Guide):  # the image is encoded once, whatever the number of samples
        with running(values, encode[0]), bind(guide.name, guide) as bound:
            leaves, shape = jax.tree.flatten(bound.encode(images))
    by_row = [hasattr(leaf, "ndim") and leaf.ndim > 0 and len(leaf) == n for leaf in leaves]
    samples = done + jnp.arange(at_once, dtype=jnp.uint32)
    of_samples = jax.vmap(lambda s: jax.vmap(lambda k: random.fold_in(k, s))(draw))(samples)
    rows = [images, *(leaf for leaf, own in zip(leaves, by_row, strict=True) if own)]
    many = spread([repeated(leaf, at_once, n) for leaf in rows], mesh)

    def weight(k: Any, x: Array, *own: Array) -> Array:
        told = iter(own)
        kwargs = {}
        if shape is not None:
            of_row = [
                next(told)[None] if is_own else leaf
                for leaf, is_own in zip(leaves, by_row, strict=True)
            ]
            kwargs["features"] = jax.tree.unflatten(shape, of_row)
        with running(values, k):
            return _log_weight(model, guide, x[None], **kwargs)[0]

    return jax.vmap(weight)(of_samples.reshape(-1), *many).reshape(at_once, n)


def _weigh_together(
    model: Any, guide: Any, data: Any, at_once: int, mesh: Mesh | None, *given: Any
) -> Array:
    """(at_once, n) log weights, all rows one batch under one random key."""
    values, key, stored, start, done = given
    n = len(stored)
    binarise, noise = random.split(random.fold_in(key, start))
    images = data.prepared(stored, binarise)
    with running(values, random.fold_in(noise, done)):
        kwargs = {}
        if isinstance(guide, Guide):
            with bind(guide.name, guide) as bound:
                features = bound.encode(images)
            many = jax.tree.map(lambda t: repeated(t, at_once, n), features)
            kwargs["features"] = spread(many, mesh)
        x = spread(repeated(images, at_once, n), mesh)
        return _log_weight(model, guide, x, **kwargs).reshape(at_once, n)


def _log_weight(model: Any, guide: Any, x: Array, **kwargs: Any) -> Array:
    """(n,) log weights of one draw each."""
    terms = Objective().terms(model, guide, x, analytic=False, **kwargs)
    shared = [name for name, part in terms.kl.items() if part.ndim == 0]
    if shared:
        raise UsageError(
            f"log_weights: site {shared[0]} is shared between images, so there is no weight for "
            "each image: put it into the data plate, or condition the model on its value"
        )
    return terms.log_weight()
