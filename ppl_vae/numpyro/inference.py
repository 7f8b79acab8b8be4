"""What a trained pair knows of images: importance weights, terms by site, posterior moments."""

from __future__ import annotations

__all__ = ["log_weights", "moments_of", "posterior_moments", "site_terms", "stream_log_weights"]

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array, random
from jax.sharding import Mesh
from numpyro.infer.autoguide import AutoGuide

from ppl_vae.errors import UsageError
from ppl_vae.numpyro.asking import asked, prepared, running
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.densities import repeated
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.guide import Guide
from ppl_vae.numpyro.mesh import everywhere, mesh_of, put, spread
from ppl_vae.numpyro.objective import Objective, traces

ROWS = 8192  # images times samples that pass through the nets at once, unless `model.rows` says
BLOCK = 1000  # images of one draw each, at most as many
DRAWS = 32  # of a posterior whose moments have no closed form
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
        block: images times samples that pass through the nets at once.
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
    """`log_weights` a block of images at a time: arrays (num_samples, images of the block)."""
    if num_samples < 1:
        raise UsageError(f"num_samples: expected at least 1, came {num_samples}")
    rows = block or int(getattr(model, "rows", ROWS))
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        size = max(1, min(len(data), 100, rows, HELD // num_samples))
        at_once = max(1, min(rows // size, num_samples))
        if isinstance(guide, AutoGuide):  # a posterior for each place in the batch
            size, at_once = len(data), 1
        mesh = mesh_of() if spread else None
        if mesh is not None:
            values = jax.tree.map(lambda leaf: put(leaf, everywhere(mesh)), values)

        def weights(values: Any, stored: Array, binarise: Any, noise: Any) -> Array:
            images = data.prepared(stored, binarise)
            with running(values, noise):
                return _weights(model, guide, images, at_once, mesh)

        weights = _jitted(weights, mesh)
        for start in range(0, len(data), size):
            stored = data.values[start : start + size]
            # All samples are weights of one binarisation of the image.
            binarise, noise = random.split(random.fold_in(key, start))
            parts = [
                np.asarray(weights(values, stored, binarise, random.fold_in(noise, done)))
                for done in range(0, num_samples, at_once)
            ]
            yield np.concatenate(parts)[:num_samples]


def _jitted(fn: Callable[..., Array], mesh: Mesh | None) -> Callable[..., Array]:
    """Compiled for one device, or for those of a mesh, which all have arguments and result."""
    if mesh is None:
        return jax.jit(fn)
    alike = everywhere(mesh)
    compiled = jax.jit(fn, out_shardings=alike)
    return lambda *args: compiled(*jax.tree.map(lambda leaf: put(leaf, alike), args))


def _weights(model: Any, guide: Any, x: Array, repeats: int, mesh: Mesh | None = None) -> Array:
    """(repeats, n) log weights."""
    n = len(x)
    kwargs = {}
    if isinstance(guide, Guide):  # the image is encoded once, whatever the number of samples
        with bind(guide.name, guide) as bound:
            features = bound.encode(x)
        many = jax.tree.map(lambda t: repeated(t, repeats, n), features)
        kwargs["features"] = spread(many, mesh)
    many = spread(repeated(x, repeats, n), mesh)
    terms = Objective().terms(model, guide, many, analytic=False, **kwargs)
    shared = [name for name, part in terms.kl.items() if part.ndim == 0]
    if shared:
        raise UsageError(
            f"log_weights: site {shared[0]} is shared between images, so there is no weight for "
            "each image: put it into the data plate, or condition the model on its value"
        )
    return terms.log_weight().reshape(repeats, n)


def site_terms(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
) -> dict[str, Any]:
    """{"log_likelihood": (n,), "kl": {site: (n,)}}: the bound's terms by image, nats, one draw.

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
    block: int | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{site: (loc, scale)} of q(z_l | x, z above), (n, …) each, under one draw of those above.

    A flow has no closed form for them: they are estimated from 32 draws.
    """

    def found(x: Array) -> Any:
        return moments_of(traces(model, guide, x)[1])

    return _in_blocks(found, model, guide, x, params, seed, batch_norm, block)


def _in_blocks(
    fn: Callable[[Array], Any],
    model: Any,
    guide: Any,
    x: Any,
    params: dict[str, Any] | None,
    seed: int,
    batch_norm: str,
    block: int | None,
) -> Any:
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        whole = isinstance(guide, AutoGuide)
        most = block or min(BLOCK, int(getattr(model, "rows", BLOCK)))
        size = len(data) if whole else most

        @jax.jit
        def run(values: Any, stored: Array, rng_key: Any) -> Any:
            images, noise = prepared(data, stored, rng_key)
            with running(values, noise):
                return fn(images)

        parts = [
            run(values, data.values[start : start + size], random.fold_in(key, start))
            for start in range(0, len(data), size)
        ]
    return jax.tree.map(lambda *arrays: np.concatenate([np.asarray(a) for a in arrays]), *parts)


def moments_of(guide_trace: Any) -> dict[str, Any]:
    """{site: (loc, scale)} of a guide's trace, of the sites that have both."""
    found = {}
    for name, site in guide_trace.items():
        fn: Any = unwrapped(site["fn"]) if site["type"] == "sample" else None
        if isinstance(fn, dist.TransformedDistribution):  # a flow: estimates
            draws = fn.sample(numpyro.prng_key(), (DRAWS,))
            found[name] = (draws.mean(0), draws.std(0, ddof=1))
        elif hasattr(fn, "loc") and hasattr(fn, "scale"):
            found[name] = (fn.loc, fn.scale)
    return found
