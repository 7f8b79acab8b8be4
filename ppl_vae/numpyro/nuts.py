"""The true posterior of chosen images by the No-U-Turn Sampler, beside draws from the guide."""

from __future__ import annotations

__all__ = ["nuts"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from numpyro import handlers
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import unconstrain_fn

from ppl_vae.chains import Chains, check_chains, refuse_discrete
from ppl_vae.numpyro.asking import asked, prepared, running
from ppl_vae.numpyro.bind import fresh
from ppl_vae.numpyro.densities import is_discrete
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.objective import traces
from ppl_vae.numpyro.replay import at, densities

FIELDS = {  # NumPyro's name: ArviZ's
    "diverging": "diverging",
    "energy": "energy",
    "num_steps": "n_steps",
    "accept_prob": "acceptance_rate",
    "adapt_state.step_size": "step_size",
}


def nuts(
    model: Any,
    guide: Any,
    x: Any,
    *,
    num_chains: int = 4,
    num_warmup: int = 500,
    num_draws: int = 500,
    max_tree_depth: int = 10,
    target_accept: float = 0.8,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> Chains:
    """Draws from p(z | x) of each image, by chains that start from draws of the guide.

    Chains of all images run side by side; step size and diagonal mass matrix adapt in the warm-up,
    each chain for itself (Hoffman & Gelman 2014, The No-U-Turn Sampler, arXiv 1111.4246).

    Args:
        x: a few images (n, c, h, w) or `ppl_vae.data.Images`; dynamic ones are binarised by `seed`.
        num_warmup, num_draws: iterations of each chain, thrown away and kept.
        max_tree_depth: at most 2 to that power leapfrog steps an iteration.
        target_accept: mean acceptance that the step size is adapted to.
        params: what `fit` learned for plain functions.

    Returns:
        For `evaluation.posterior_tree`. Chains that have not converged look the same: see
        `evaluation.convergence`.

    Raises:
        UsageError: a discrete site, a latent shared between images, statistics of the batch for
            batch norm (there is one image).
    """
    check_chains(num_chains, num_warmup, num_draws, batch_norm)
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        images, key = prepared(data, data.values, key)
        guide_key, chain_key = random.split(key)
        starts = _guide_draws(model, guide, images, values, guide_key, num_chains * num_draws)

        first = {site: draws[:num_chains, :, None] for site, draws in starts.items()}

        kernel = {"max_tree_depth": max_tree_depth, "target_accept_prob": target_accept}
        sizes = {"num_warmup": num_warmup, "num_samples": num_draws, "num_chains": num_chains}
        # All images at once: each is a batch of its own for the model's plate.
        run = jax.jit(jax.vmap(_chains(model, kernel, sizes), in_axes=(None, 0, 1, 0), out_axes=2))
        keys = random.split(chain_key, len(images))
        draws, fields = run(values, images[:, None], first, keys)
        posterior = {site: np.asarray(value)[:, :, :, 0] for site, value in draws.items()}
        stats = {own: np.asarray(fields[name]) for name, own in FIELDS.items()}
        stats["lp"] = _log_joint(model, images, values, posterior)
    shown = {site: np.asarray(value) for site, value in starts.items()}
    return Chains(np.asarray(images), posterior, shown, stats)


def _chains(model: Any, kernel: dict[str, Any], sizes: dict[str, int]) -> Any:
    """Function from (values, one image as a batch, starts, key) to draws and statistics."""

    def run(values: Any, image: Array, first: Any, rng_key: Any) -> Any:
        def program() -> None:
            with handlers.substitute(data=fresh(values)):
                model(image)

        mcmc = MCMC(NUTS(program, **kernel), **sizes, chain_method="vectorized", progress_bar=False)
        start = jax.vmap(lambda z: unconstrain_fn(program, (), {}, z))(first)
        mcmc.run(rng_key, init_params=start, extra_fields=tuple(FIELDS))
        draws = mcmc.get_samples(group_by_chain=True)
        return draws, mcmc.get_extra_fields(group_by_chain=True)

    return run


def _guide_draws(
    model: Any, guide: Any, images: Array, values: Any, rng_key: Any, num: int
) -> dict[str, Array]:
    """{site: (num, n, …)} from the guide; UsageError where a site cannot be sampled."""
    n = len(images)

    @jax.jit
    def draw(values: Any, images: Array, rng_key: Any) -> Any:
        with running(values, rng_key):
            trace, _ = traces(model, guide, images)
            _check_sites(trace)
            densities(trace, n)  # refuses shared latents
            return {
                name: site["value"]
                for name, site in trace.items()
                if site["type"] == "sample" and not site["is_observed"]
            }

    draws = [draw(values, images, key) for key in random.split(rng_key, num)]
    return {site: jnp.stack([one[site] for one in draws]) for site in draws[0]}


def _check_sites(trace: Any) -> None:
    for name, site in trace.items():
        if site["type"] != "sample" or site["is_observed"]:
            continue
        if is_discrete(site["fn"]):
            raise refuse_discrete(name, type(unwrapped(site["fn"])).__name__)


def _log_joint(model: Any, images: Array, values: Any, posterior: Any) -> np.ndarray:
    """(chain, draw, image): log p(x, z), nats."""

    @jax.jit
    def found(values: Any, images: Array, z: Any) -> Array:
        with running(values, random.key(0)):
            parts = densities(at(model, images, z), len(images))
        return parts["log_likelihood"] + sum(parts["log_prior"].values())

    num_chains, num_draws = next(iter(posterior.values())).shape[:2]
    flat = {s: v.reshape(num_chains * num_draws, *v.shape[2:]) for s, v in posterior.items()}
    rows = [
        np.asarray(found(values, images, {s: v[i] for s, v in flat.items()}))
        for i in range(num_chains * num_draws)
    ]
    return np.stack(rows).reshape(num_chains, num_draws, len(images))
