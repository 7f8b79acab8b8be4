"""The model at given latents: log densities, of the image pixel by pixel too, and new images."""

from __future__ import annotations

__all__ = [
    "IMAGES", "at", "densities", "log_densities", "pixel_log_likelihood", "replicates",
    "simulate", "weighted_draws",
]  # fmt: skip

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro import handlers

from ppl_vae.checks import check_cover
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.asking import asked, prepared, running
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.objective import _log_prob, per_datum, traces
from ppl_vae.numpyro.sampling import _values

Latents = dict[str, Any]

IMAGES = 100  # simulated at once


def log_densities(
    model: Any,
    guide: Any,
    x: Any,
    latents: Latents,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> dict[str, Any]:
    """{"log_likelihood": log p(x | z), "log_prior": {site: log p(z_l | z above)}} at given latents.

    Args:
        guide: its parameters are not used; it comes along as everywhere.
        x: images (n, c, h, w) or `ppl_vae.data.Images`; dynamic ones are binarised by `seed`.
        latents: {site: (draws, n, …)}, all of the model's latent sites.
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.

    Returns:
        (draws, n) each, nats, higher is more probable.

    Raises:
        UsageError: latents that are not the model's, or a site that images share.
    """

    def found(x: Array, z: Latents) -> dict[str, Any]:
        return densities(at(model, x, z), len(x))

    return _each(found, model, guide, x, latents, params, seed, batch_norm)


def pixel_log_likelihood(
    model: Any,
    guide: Any,
    x: Any,
    latents: Latents,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> np.ndarray:
    """log p(x_d | z) of every number of an image at given latents: nats, higher is better.

    Args:
        guide, x, latents, params, seed, batch_norm: see `log_densities`.

    Returns:
        (draws, n, pixels), pixels being c · h · w.

    Raises:
        UsageError: latents that are not the model's, or a likelihood that is no product over
            pixels.
    """

    def found(x: Array, z: Latents) -> Array:
        site = at(model, x, z)["x"]
        pixels = unwrapped(site["fn"]).log_prob(site["value"])
        if pixels.ndim < 2:
            raise UsageError(
                f"site x: {type(unwrapped(site['fn'])).__name__} has one density for all of an "
                "image: pixels can be left out where the likelihood is a product over them"
            )
        return pixels.reshape(len(x), -1)

    return np.asarray(_each(found, model, guide, x, latents, params, seed, batch_norm))


def simulate(
    model: Any,
    num: int,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> dict[str, Array]:
    """Latents and images drawn from the model together, a hundred images at a time.

    Args:
        model: a program that generates, `model(n=...)`.
        num: how many images, at least 1.
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.

    Returns:
        {site: (num, …)}, and "x" (num, c, h, w).

    Raises:
        UsageError: num below 1.
    """
    if num < 1:
        raise UsageError(f"num: expected at least 1, came {num}")
    with asked(model, None, None, params, seed, batch_norm) as (_, values, key):
        size = min(num, IMAGES)

        @jax.jit
        def draw(values: Any, rng_key: Any) -> dict[str, Array]:
            with running(values, rng_key):
                return _values(handlers.trace(model).get_trace(n=size))

        draws = [draw(values, one) for one in random.split(key, math.ceil(num / size))]
    names = [name for name in draws[0] if name != "x_mean"]
    return {name: jnp.concatenate([one[name] for one in draws])[:num] for name in names}


def replicates(
    model: Any,
    guide: Any,
    x: Any,
    num_draws: int,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> np.ndarray:
    """New images from p(x | z), with z drawn anew from the guide's posterior of each image.

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`; dynamic ones are binarised once, by `seed`.
        num_draws: S, at least 1.
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.

    Returns:
        (S, n, c, h, w).

    Raises:
        UsageError: num_draws below 1.
    """
    if num_draws < 1:
        raise UsageError(f"num_draws: expected at least 1, came {num_draws}")
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):

        @jax.jit
        def draw(values: Any, stored: Array, rng_key: Any, binarise: Any) -> Array:
            noise, pixels = random.split(rng_key)
            images = data.prepared(stored, binarise)
            with running(values, noise):
                fn = traces(model, guide, images)[0]["x"]["fn"]
                return fn.sample(pixels)

        binarise, key = random.split(key)
        keys = random.split(key, num_draws)
        draws = [np.asarray(draw(values, data.values, one, binarise)) for one in keys]
    return np.stack(draws)


def weighted_draws(
    model: Any,
    guide: Any,
    x: Any,
    num_draws: int,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draws from the guide, and their log importance weights.

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`; dynamic ones are binarised once, by `seed`.
        num_draws: S, at least 1.
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.

    Returns:
        ({site: (S, n, …)}, (S, n) of log p(x, z) - log q(z | x), nats).

    Raises:
        UsageError: num_draws below 1, or a site that images share.
    """
    if num_draws < 1:
        raise UsageError(f"num_draws: expected at least 1, came {num_draws}")
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        images, key = prepared(data, data.values, key)

        @jax.jit
        def draw(values: Any, images: Array, rng_key: Any) -> Any:
            with running(values, rng_key):
                model_trace, guide_trace = traces(model, guide, images)
            parts, n = densities(model_trace, len(images)), len(images)
            log_q = [
                per_datum(_log_prob(site), site, n, guide_trace)
                for site in guide_trace.values()
                if site["type"] == "sample" and not site["is_observed"]
            ]
            z = {site: model_trace[site]["value"] for site in parts["log_prior"]}
            return z, parts["log_likelihood"] + sum(parts["log_prior"].values()) - sum(log_q)

        draws = [draw(values, images, one) for one in random.split(key, num_draws)]
    latents = {site: np.stack([np.asarray(z[site]) for z, _ in draws]) for site in draws[0][0]}
    return latents, np.stack([np.asarray(weight) for _, weight in draws])


def at(model: Any, x: Array, latents: Latents) -> Any:
    """The model's trace with its latents at the values given, under the caller's handlers."""
    trace = handlers.trace(handlers.substitute(model, data=latents)).get_trace(x)
    sites = (name for name, site in trace.items() if site["type"] == "sample")
    check_cover(dict.fromkeys(latents), dict.fromkeys(s for s in sites if not _seen(trace[s])))
    return trace


def densities(trace: Any, n: int) -> dict[str, Any]:
    """`log_densities` of a trace of n images."""
    log_likelihood: Any = 0.0
    log_prior = {}
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        log_prob = per_datum(site["fn"].log_prob(site["value"]), site, n, trace)
        if log_prob.ndim == 0:
            raise UsageError(
                f"site {name} is shared between images, so there is no density for each image: "
                "put it into the data plate, or condition the model on its value"
            )
        if _seen(site):
            log_likelihood = log_likelihood + log_prob
        else:
            log_prior[name] = log_prob
    return {"log_likelihood": log_likelihood, "log_prior": log_prior}


def _seen(site: Any) -> bool:
    return bool(site["is_observed"])


def _each(
    fn: Any,
    model: Any,
    guide: Any,
    x: Any,
    latents: Latents,
    params: dict[str, Any] | None,
    seed: int,
    batch_norm: str,
) -> Any:
    """`fn(images, latents)` of each draw, stacked."""
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        images, noise = prepared(data, data.values, key)

        @jax.jit
        def run(values: Any, images: Array, z: Latents) -> Any:
            with running(values, noise):
                return fn(images, z)

        draws = len(next(iter(latents.values())))
        z = {site: jnp.asarray(value) for site, value in latents.items()}
        parts = [run(values, images, {s: v[i] for s, v in z.items()}) for i in range(draws)]
    return jax.tree.map(lambda *arrays: np.stack([np.asarray(a) for a in arrays]), *parts)
