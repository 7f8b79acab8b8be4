"""Simulated latents and images, and where the true latents rank among the guide's draws."""

from __future__ import annotations

__all__ = ["calibration_ranks"]

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from ppl_vae.numpyro.asking import asked, keeps_order, running
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.densities import repeated
from ppl_vae.numpyro.guide import Guide
from ppl_vae.numpyro.objective import traces
from ppl_vae.numpyro.replay import IMAGES, at, densities, simulate
from ppl_vae.numpyro.weighing import ROWS
from ppl_vae.ranking import ROUNDING, Counts, check_counts, flat, ranks


def calibration_ranks(
    model: Any,
    guide: Any,
    num_simulations: int = 1000,
    num_draws: int = 99,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
) -> dict[str, Any]:
    """Ranks of simulated truths among draws from the guide, for `evaluation.calibration`.

    For each simulation z*, x ~ p(z, x) and z_1 … z_D ~ q(z | x); a rank is the number of draws
    whose test quantity lies below the truth's. Draws of all sites are joint.

    Args:
        num_simulations: S.
        num_draws: D.
        params: what `fit` learned for plain functions.
        seed: of simulations, draws and ties.
        batch_norm: see `ppl_vae.numpyro.asking`.
        block: images times draws that pass through the nets at once.

    Returns:
        {"z": {site: (S, …)}, "log_likelihood": (S,), "log_prior": {site: (S,)}}, int64 in 0 … D:
        ranks of every unit, of log p(x | z), and of log p(z_l | z above).

    Raises:
        UsageError: no simulation or draw asked for, an automatic guide, a latent shared between
            images, NaN.
    """
    check_counts(num_simulations, num_draws, type(guide).__name__ if keeps_order(guide) else "")
    truth_seed, guide_seed, tie_seed = map(int, np.random.SeedSequence(seed).generate_state(3))
    truth = simulate(model, num_simulations, params=params, seed=truth_seed, batch_norm=batch_norm)
    x = truth.pop("x")
    size = min(num_simulations, IMAGES)
    chunks = math.ceil(num_draws * size / (block or ROWS))
    at_once = math.ceil(num_draws / chunks)
    found = []
    with asked(model, guide, x, params, guide_seed, batch_norm) as (data, values, key):

        @jax.jit
        def counts(values: Any, x: Array, z: Any, rng_key: Any, left: Any) -> Counts:
            with running(values, rng_key):
                return _counts(model, guide, x, z, at_once, left)

        for start in range(0, num_simulations, size):
            rows = slice(start, start + size)
            z = {site: value[rows] for site, value in truth.items()}
            keys = random.split(random.fold_in(key, start), chunks)
            parts = [
                counts(values, data.values[rows], z, one, num_draws - i * at_once)
                for i, one in enumerate(keys)
            ]
            found.append(jax.tree.map(lambda *p: np.sum([np.asarray(a) for a in p], 0), *parts))
    return ranks(jax.tree.map(lambda *p: np.concatenate(p), *found), tie_seed)


def _counts(model: Any, guide: Any, x: Array, z: Any, repeats: int, left: Any) -> Counts:
    """{quantity: (draws below the truth, draws equal to it, whether there is NaN)} by image.

    Draws from the `left`-th on are not counted.
    """
    n, kwargs = len(x), {}
    truth = flat({"z": z, **densities(at(model, x, z), n)})
    if isinstance(guide, Guide):  # the image is encoded once, whatever the number of draws
        with bind(guide.name, guide) as bound:
            features = bound.encode(x)
        kwargs["features"] = jax.tree.map(lambda t: repeated(t, repeats, n), features)
    trace, _ = traces(model, guide, repeated(x, repeats, n), **kwargs)
    here = {site: trace[site]["value"] for site in z}
    draws = flat({"z": here, **densities(trace, repeats * n)})
    use = jnp.arange(repeats) < left
    slack = ROUNDING * jnp.finfo(x.dtype).eps
    return {
        key: _compared(true, draws[key], use, 0.0 if key[0] == "z" else slack)
        for key, true in truth.items()
    }


def _compared(truth: Array, draws: Array, use: Array, slack: Any) -> tuple[Array, Array, Array]:
    draws = draws.reshape(len(use), *truth.shape)
    use = use.reshape(-1, *(1 for _ in truth.shape))
    tie = jnp.abs(draws - truth) <= slack * jnp.maximum(jnp.abs(truth), 1)
    below = (draws < truth) & ~tie
    broken = jnp.isnan(draws).any(0) | jnp.isnan(truth)
    return (below & use).sum(0), (tie & use).sum(0), broken
