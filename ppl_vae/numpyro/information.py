"""What the latents cost and tell: divergence by unit, the guide's density across images.

Everything is asked of programs through their traces, so any pair will do whose latents belong to
one image each.
"""

from __future__ import annotations

__all__ = ["cross_log_prob", "latent_free_log_prob", "unit_divergence", "unit_kl"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array, random
from numpyro import handlers
from numpyro.distributions.kl import kl_divergence

from ppl_vae.checks import divergent
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.asking import asked, keeps_order, prepared, running
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.densities import repeated
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.guide import Guide
from ppl_vae.numpyro.objective import Objective, per_datum, traces
from ppl_vae.numpyro.walking import _refuse_fixed, choose
from ppl_vae.numpyro.weighing import ROWS


def unit_kl(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int = 1000,
) -> dict[str, np.ndarray]:
    r"""{site: (*event_shape)}: divergence by unit, mean over images, nats: what the unit costs.

    .. math:: \frac1N \sum_n KL(q(z_{lu} | x_n, z_{>l}), p(z_{lu} | z_{>l}))

    Under one draw of the sites above. For factorised sites the units add up to the site's
    divergence; a multivariate normal is taken by its marginals. A site that is neither, or that
    images share, is left out, and so is one that the guide samples before sites which the model
    samples first: log q - log p is then a part of the bound, but no divergence. Where there is no
    closed form a unit has log q - log p of the draw, whose mean may come out below 0.

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`.
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.
        block: images that pass through the nets at once.
    """
    objective, total = Objective(), dict[str, Any]()
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        block = len(data) if keeps_order(guide) else block

        @jax.jit
        def run(values: Any, stored: Array, rng_key: Any) -> dict[str, Array]:
            images, noise = prepared(data, stored, rng_key)
            with running(values, noise):
                kl, _ = unit_divergence(objective, model, guide, images)
            return {site: part.sum(0) for site, part in kl.items()}

        for start in range(0, len(data), block):
            stored = data.values[start : start + block]
            for site, kl in run(values, stored, random.fold_in(key, start)).items():
                total[site] = total.get(site, 0.0) + np.asarray(kl, dtype=np.float64)
        count = len(data)
    return {site: kl / count for site, kl in total.items()}


def unit_divergence(
    objective: Objective, model: Any, guide: Any, x: Array
) -> tuple[dict[str, Array], Any]:
    """({site: (n, *event_shape)}: divergence by unit of one pass, see `unit_kl`; guide trace)."""
    model_trace, guide_trace = traces(model, guide, x)
    n, analytic = len(x), objective._same_order(model_trace, guide_trace, guide)
    samples = [name for name, s in model_trace.items() if s["type"] == "sample"]
    known, found = divergent(samples, list(guide_trace)), {}
    for name, site in model_trace.items():
        if site["type"] != "sample" or site["is_observed"] or name not in known:
            continue
        value = site["value"]
        q, p = _factors(guide_trace[name]["fn"]), _factors(site["fn"])
        if q is None or p is None or value.shape[:1] != (n,):
            continue
        kl = _closed_form(q, p) if analytic else None
        kl = q.log_prob(value) - p.log_prob(value) if kl is None else kl
        found[name] = jnp.broadcast_to(kl, value.shape)
    return found, guide_trace


def cross_log_prob(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
) -> dict[str, np.ndarray]:
    r"""Density of each image's draw under every image's posterior: {site: (draw, image)}, nats.

    Entry (i, j) is log q(z_l | z_before, x_j) at the draw z ~ q(z | x_i); sites come in the order
    in which the guide samples them, so that running sums over sites are joint densities. The cost
    is that of n² images through the pair.

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`; dynamic ones are binarised once, by `seed`.
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.
        block: rows that pass through the nets at once.

    Raises:
        UsageError: no images, or an automatic guide, which keeps a posterior for each place in
            the batch.
    """
    _refuse_fixed(guide, "cross_log_prob")
    if not len(x):
        raise UsageError("x: expected at least one image, came none")
    order: list[str] = []  # what comes out of `jit` is sorted by name
    parts: list[dict[str, np.ndarray]] = []
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        n = len(data)
        size = max(1, min(n, (block or ROWS) // n))
        binarise, noise = random.split(key)
        images = data.prepared(data.values, binarise)

        @jax.jit
        def draw(values: Any, images: Array) -> tuple[dict[str, Array], dict[str, Any]]:
            with running(values, noise):
                found = _latents(_guide_trace(model, guide, images), n)
                kwargs = _features(guide, images)
            order[:] = list(found)
            return {name: site["value"] for name, site in found.items()}, kwargs

        @jax.jit
        def score(values: Any, images: Array, some: dict[str, Array], kwargs: Any) -> Any:
            known = {name: jnp.repeat(value, n, axis=0) for name, value in some.items()}
            many = jax.tree.map(lambda t: repeated(t, size, n), kwargs)
            with running(values, noise), choose(lambda name, fn: known.get(name)):
                trace = _guide_trace(model, guide, repeated(images, size, n), **many)
            rows = n * size
            return {
                name: per_datum(site["fn"].log_prob(site["value"]), site, rows, trace)
                for name, site in _latents(trace, rows).items()
            }

        drawn, kwargs = draw(values, images)
        for start in range(0, n, size):  # the last block is filled up: one shape, one compilation
            index = np.minimum(np.arange(start, start + size), n - 1)
            some = {name: value[index] for name, value in drawn.items()}
            found = score(values, images, some, kwargs)
            kept = min(size, n - start)
            parts.append({k: np.asarray(v).reshape(size, n)[:kept] for k, v in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in order}


def latent_free_log_prob(
    model: Any,
    guide: Any,
    x: Any,
    num_draws: int = 100,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int = 16,
) -> np.ndarray:
    r"""What the model would give each image if its latents told nothing of it: (n,), nats.

    .. math:: \sum_d \log \frac1{S_n} \sum_{s \ne n} p(x_{nd} | z_s), \qquad z_s \sim q(z | x_s)

    S_n counts the s other than n: S - 1 for the first S images, S for the others.

    The product of the likelihood's marginals over the latents of other images, pixel by pixel
    where the likelihood factorises so, else over the whole image: the baseline that log p(x | z)
    is held against, for what the latents save. Higher is more probable.

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`.
        num_draws: S, at least 2; the latents are those of the first so many images, under an
            automatic guide of all.
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.
        block: images that are scored at once.

    Raises:
        UsageError: an image whose own latents would be all that there are.
    """
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        count = len(data) if keeps_order(guide) else min(num_draws, len(data))
        if count < 2:
            raise UsageError(
                f"num_draws: expected at least 2, and as many images, came {num_draws} for "
                f"{len(data)}: an image is scored under the latents of others"
            )
        binarise, noise = random.split(key)
        images = data.prepared(data.values, binarise)

        @jax.jit
        def score(values: Any, background: Array, some: Array, index: Array) -> Array:
            with running(values, noise):
                site = traces(model, guide, background)[0]["x"]
            log_prob = unwrapped(site["fn"]).log_prob(some[:, None])
            rest = log_prob.shape[2:]
            log_prob = jnp.broadcast_to(log_prob, (len(some), count, *rest))
            log_prob = log_prob.reshape(len(some), count, -1)
            own = index[:, None] == jnp.arange(count)
            log_prob = jnp.where(own[..., None], -jnp.inf, log_prob)
            others = jnp.log(count - own.sum(1))[:, None]
            return (jax.nn.logsumexp(log_prob, axis=1) - others).sum(1)

        found = []
        for start in range(0, len(data), block):
            index = np.minimum(np.arange(start, start + block), len(data) - 1)
            part = score(values, images[:count], images[index], index)
            found.append(np.asarray(part, dtype=np.float64)[: len(data) - start])
        return np.concatenate(found)


def _guide_trace(model: Any, guide: Any, x: Array, **kwargs: Any) -> Any:
    if isinstance(guide, Guide):
        return traces(model, guide, x, **kwargs)[1]
    return handlers.trace(guide).get_trace(x)


def _features(guide: Any, images: Array) -> dict[str, Any]:
    """The images encoded once, whatever the number of draws."""
    if not isinstance(guide, Guide):
        return {}
    with bind(guide.name, guide) as bound:
        return {"features": bound.encode(images)}


def _latents(trace: Any, n: int) -> dict[str, Any]:
    """The sites of a guide's trace that hold a value for each of n images, in its order."""
    return {
        name: site
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"] and site["value"].shape[:1] == (n,)
    }


def _closed_form(q: Any, p: Any) -> Any:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _factors(fn: Any) -> Any:
    """A distribution of one number a unit: inside `fn`, or its marginals; None where neither is."""
    base = unwrapped(fn)
    if not base.event_shape:
        return base
    if isinstance(base, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return dist.Normal(base.mean, jnp.sqrt(base.variance))
    return None
