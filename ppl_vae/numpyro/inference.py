"""What a trained pair knows of images: the bound's terms by site, posterior moments."""

from __future__ import annotations

__all__ = ["moments_of", "posterior_moments", "site_terms"]

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array, random

from ppl_vae.memory import images_at_once
from ppl_vae.numpyro.asking import asked, keeps_order, prepared, running
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.objective import Objective, traces

BLOCK = 1000  # images of one draw each, at most as many
DRAWS = 32  # of a posterior whose moments have no closed form


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
    """The bound's terms by image, from one draw of the guide.

    Divergences are in closed form where that is right, else log q - log p of the draw. Every latent
    has to belong to one image.

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`.
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.
        block: images at once; None takes 1000, or as many as large models and likelihoods allow
            (`ppl_vae.memory.images_at_once`).

    Returns:
        {"log_likelihood": (n,), "kl": {site: (n,)}}, nats: log p(x | z), higher is better, and what
        each site costs. ELBO is the first less the sum of the others.
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
    """Mean and deviation of each unit of q(z_l | x, z above), under one draw of those above.

    A flow has no closed form for them: they are estimated from 32 draws. Sites without them are
    left out.

    Args:
        x, params, seed, batch_norm, block: see `site_terms`.

    Returns:
        {site: (loc, scale)}, (n, …) each, in the latent's units.
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
        whole = keeps_order(guide)
        most = block or images_at_once(model, BLOCK)
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


def moments_of(guide_trace: Any, estimated: bool = True) -> dict[str, Any]:
    """{site: (loc, scale)} of a guide's trace, of the sites that have both.

    Args:
        estimated: take a flow's from draws; False leaves it out.
    """
    found = {}
    for name, site in guide_trace.items():
        fn: Any = unwrapped(site["fn"]) if site["type"] == "sample" else None
        if isinstance(fn, dist.TransformedDistribution):  # a flow
            if not estimated:
                continue
            draws = fn.sample(numpyro.prng_key(), (DRAWS,))
            found[name] = (draws.mean(0), draws.std(0, ddof=1))
        elif hasattr(fn, "loc") and hasattr(fn, "scale"):
            found[name] = (fn.loc, fn.scale)
    return found
