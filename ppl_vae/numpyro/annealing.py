r"""Annealed importance sampling by Hamiltonian moves, from the prior or the guide to p(x, z).

What the path is, and whose it is, stands in `ppl_vae.annealing`. Step sizes are found by pilot
chains, one for each image and temperature, and then frozen: chains that adapt bound nothing.
"""

from __future__ import annotations

__all__ = ["annealed_log_weights", "stream_annealed_log_weights"]

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from ppl_vae.annealing import (
    ADAPTATION,
    WARM_UP,
    Annealed,
    AnnealingSettings,
    joined,
    schedule,
    stretched,
)
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.asking import again, asked, keeps_order, running
from ppl_vae.numpyro.densities import Densities

ROWS = 4096  # images times chains that move at once

Path = Callable[[Array], tuple[Array, Array]]
"""u (rows, D) to log p_0 and log p(x, z) - log p_0, (rows,) each."""


def annealed_log_weights(
    model: Any,
    guide: Any,
    x: Any,
    settings: AnnealingSettings | None = None,
    *,
    latents: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
) -> Annealed:
    """Log weights of annealed chains, which bound log p(x) from below, and from above if wanted.

    Takes any pair that `log_weights` takes, of continuous sites. The logarithm of the chains'
    mean weight bounds log p(x) from below on average (`evaluation.annealed_bounds`).

    Args:
        model, guide: the guide may be None where the path starts at the prior.
        x: images (n, c, h, w), or `ppl_vae.data.Images`; binarised once for all chains.
        settings: path, chains and moves.
        latents: {site: (n, …)}, exact posterior draws, known where x was simulated from them:
            chains run back from them too.
        params: what `fit` learned for plain functions.
        seed: of the draws.
        batch_norm: "running" alone; see `ppl_vae.numpyro.asking`.
        block: images times chains that move at once.

    Returns:
        Annealed: log weights (chain, image), nats, forward and, with `latents`, reverse; acceptance
        and step sizes of the moves.

    Raises:
        UsageError: a discrete site, one shared between images, rows that depend on each other,
            another `batch_norm`, or no guide, or an automatic one, to start from.
    """
    return joined(
        stream_annealed_log_weights(
            model,
            guide,
            x,
            settings,
            latents=latents,
            params=params,
            seed=seed,
            batch_norm=batch_norm,
            block=block,
        )
    )


def stream_annealed_log_weights(
    model: Any,
    guide: Any,
    x: Any,
    settings: AnnealingSettings | None = None,
    *,
    latents: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
) -> Iterator[Annealed]:
    """`annealed_log_weights` a block of images at a time.

    Args:
        model, guide, x, settings, latents, params, seed, batch_norm, block: see
            `annealed_log_weights`.

    Yields:
        Annealed of the block's images, which come in their order.

    Raises:
        UsageError: see `annealed_log_weights`; when the first block is asked for.
    """
    settings = settings or AnnealingSettings()
    guide = _checked(guide, settings, batch_norm)
    size = max(1, (block or ROWS) // max(settings.num_chains, settings.pilot_chains))
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        calls = _Calls(Densities(model, guide, settings.start), settings)
    for start in range(0, len(data), size):
        part = slice(start, start + size)
        binarise, noise = random.split(random.fold_in(key, start))
        images = data.batch(part, binarise)
        exact = {name: jnp.asarray(value[part]) for name, value in (latents or {}).items()}
        # Nothing is changed in the modules while the caller has the block.
        with again(model, guide, batch_norm):
            found = _annealed(calls, values, images, exact, noise, settings)
        yield found


def _checked(guide: Any, settings: AnnealingSettings, batch_norm: str) -> Any:
    """The guide, or None where the path does not need it."""
    if batch_norm != "running":
        raise UsageError(
            f"batch_norm: expected running for annealing, came {batch_norm}: the chains and what "
            "they were simulated from need one and the same model"
        )
    if settings.start == "prior":
        return None
    if guide is None or keeps_order(guide):
        raise UsageError(
            f"start: expected prior with {'no' if guide is None else 'an automatic'} guide, came "
            "guide: chains need a guide that answers any batch of images"
        )
    return guide


class _Calls:
    """What is compiled, once for all blocks of one size."""

    def __init__(self, densities: Densities, settings: AnnealingSettings) -> None:
        start, pilots, chains = settings.start, settings.pilot_chains, settings.num_chains

        def pilot(values: Any, x: Array, rng_key: Any) -> Array:
            first, then = random.split(rng_key)
            with running(values, first):
                known = densities.known(x, pilots)
                u = densities.draw(known[0], start, **known[1])
                return _pilots(_path(densities, *known), u, len(x), then, settings)

        def start_chains(values: Any, x: Array, rng_key: Any) -> Array:
            with running(values, rng_key):
                many, known = densities.known(x, chains)
                return densities.draw(many, start, **known)

        def start_back(values: Any, x: Array, exact: Any, rng_key: Any) -> Array:
            with running(values, rng_key):
                many, known = densities.known(x, chains)
                exact = {k: jnp.tile(v, (chains, *(1,) * (v.ndim - 1))) for k, v in exact.items()}
                return densities.at(exact, many, **known)

        def anneal(
            values: Any, x: Array, u: Array, betas: Array, steps: Array, rng_key: Any
        ) -> Any:
            with running(values, rng_key):
                path = _path(densities, *densities.known(x, chains))
                return _run(path, u, len(x), betas, steps, rng_key, settings.num_leapfrogs)

        self.pilot, self.start_chains = jax.jit(pilot), jax.jit(start_chains)
        self.start_back, self.anneal = jax.jit(start_back), jax.jit(anneal)


def _annealed(
    calls: _Calls, values: Any, x: Array, exact: Any, key: Any, settings: AnnealingSettings
) -> Annealed:
    n, count = len(x), settings.num_temperatures
    keys = random.split(key, 5)
    steps = stretched(np.asarray(calls.pilot(values, x, keys[0])), count)
    betas, moves = jnp.asarray(schedule(count)), jnp.asarray(steps, x.dtype)
    u = calls.start_chains(values, x, keys[1])
    increments, accepted = calls.anneal(values, x, u, betas, moves, keys[2])
    forward = _summed(increments, n)
    acceptance = np.asarray(accepted).mean(0) if count > 2 else np.full(n, math.nan)
    reverse = None
    if exact:
        u = calls.start_back(values, x, exact, keys[3])
        increments, _ = calls.anneal(values, x, u, betas[::-1], moves[::-1], keys[4])
        reverse = _summed(increments, n)
    return Annealed(forward, reverse, acceptance, steps)


def _summed(increments: Any, n: int) -> np.ndarray:
    """(chain, image), added up in float64 whatever they were worked out in."""
    total = np.asarray(increments).sum(0, dtype=np.float64)
    return np.asarray(total.reshape(-1, n))


def _path(densities: Densities, x: Array, known: dict[str, Any]) -> Path:
    def path(u: Array) -> tuple[Array, Array]:
        found = densities(u, x, **known)
        if found.log_guide is None:
            return found.log_prior, found.log_likelihood
        return found.log_guide, found.log_joint - found.log_guide

    return path


def _run(
    path: Path, u: Array, n: int, betas: Array, steps: Array, key: Any, num_leapfrogs: int
) -> tuple[Array, Array]:
    """(increments of log weights (temperature, row), acceptance (temperature, image))."""
    chains, betas = len(u) // n, betas.astype(u.dtype)

    def advance(place: _Place, at: Any) -> Any:
        before, beta, step, rng_key = at
        increment = (beta - before) * place.ratio
        step = jnp.tile(step, chains)[:, None]
        place, acceptance = _move(path, place, beta, step, num_leapfrogs, rng_key)
        return place, (increment, acceptance.reshape(chains, n).mean(0))

    keys = random.split(key, len(betas))
    inner = (betas[:-2], betas[1:-1], steps[1:-1], keys[1:-1])
    place, (increments, accepted) = lax.scan(advance, _Place(u, path(u)[1]), inner)
    last = (betas[-1] - betas[-2]) * place.ratio
    return jnp.concatenate([increments, last[None]]), accepted


def _pilots(path: Path, u: Array, n: int, key: Any, settings: AnnealingSettings) -> Array:
    """(pilot temperature, image): log step sizes that led to the acceptance aimed at."""
    chains = len(u) // n
    betas = np.concatenate([np.zeros(WARM_UP), schedule(settings.pilot_temperatures)])

    def advance(state: Any, at: Any) -> Any:
        place, log_step = state
        beta, rng_key = at
        step = jnp.tile(jnp.exp(log_step), chains)[:, None]
        place, acceptance = _move(path, place, beta, step, settings.num_leapfrogs, rng_key)
        mean = acceptance.reshape(chains, n).mean(0)
        log_step = log_step + ADAPTATION * (mean - settings.target_acceptance)
        return (place, log_step), log_step

    first = jnp.full(n, math.log(u.shape[1] ** -0.25), u.dtype)
    along = (jnp.asarray(betas, u.dtype), random.split(key, len(betas)))
    found: Array = lax.scan(advance, (_Place(u, path(u)[1]), first), along)[1]
    return found[WARM_UP:]


class _Place(NamedTuple):
    """Where the chains stand: u (rows, D), and log p(x, z) - log p_0 (rows,) there."""

    u: Array
    ratio: Array


def _move(
    path: Path, place: _Place, beta: Array, step: Array, num_leapfrogs: int, key: Any
) -> tuple[_Place, Array]:
    """(the next place, probability (rows,) that the move was accepted with).

    Leapfrogs of size `step` (rows, 1) and the Metropolis test leave the density at β as it is.
    """
    kick, test = random.split(key)
    before, slope, _ = _at(path, place.u, beta)
    momentum = random.normal(kick, place.u.shape, place.u.dtype)

    def leap(_: Any, state: Any) -> Any:
        u, half, _, slope, _ = state
        velocity = half + 0.5 * step * slope
        u = u + step * velocity
        value, slope, ratio = _at(path, u, beta)
        return u, velocity + 0.5 * step * slope, value, slope, ratio

    state = (place.u, momentum, before, slope, place.ratio)
    u, velocity, after, _, ratio = lax.fori_loop(0, num_leapfrogs, leap, state)
    change = after - before - 0.5 * (jnp.square(velocity) - jnp.square(momentum)).sum(1)
    # NaN is a move out of range: refused.
    acceptance = jnp.nan_to_num(jnp.exp(jnp.minimum(change, 0.0)), nan=0.0)
    accepted = random.uniform(test, acceptance.shape, acceptance.dtype) < acceptance
    place = _Place(
        jnp.where(accepted[:, None], u, place.u), jnp.where(accepted, ratio, place.ratio)
    )
    return place, acceptance


def _at(path: Path, u: Array, beta: Array) -> tuple[Array, Array, Array]:
    """(log density at β, its slope, log p(x, z) - log p_0) at u."""

    def value(u: Array) -> Any:
        base, ratio = path(u)
        each = base + jnp.where(beta > 0, beta * ratio, 0.0)
        return each.sum(), (each, ratio)

    slope, (each, ratio) = jax.grad(value, has_aux=True)(u)
    return each, slope, ratio
