"""What the latents cost and tell: divergence by unit, the guide's density across images.

Everything is asked of programs through their traces, so any pair will do whose latents belong to
one image each.
"""

from __future__ import annotations

__all__ = ["cross_log_prob", "latent_free_log_prob", "unit_divergence", "unit_kl"]

from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence
from torch.utils import _pytree as pytree

from ppl_vae.checks import divergent
from ppl_vae.errors import UsageError
from ppl_vae.pyro.asking import asked, keeps_order
from ppl_vae.pyro.densities import repeated
from ppl_vae.pyro.distributions import unwrapped
from ppl_vae.pyro.guide import Guide
from ppl_vae.pyro.objective import Objective, per_datum, traces
from ppl_vae.pyro.walking import _refuse_fixed, choose
from ppl_vae.pyro.weighing import ROWS


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
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.
        block: images that pass through the nets at once.
    """
    objective, total = Objective(), dict[str, Any]()
    with asked(model, guide, x, params, seed, batch_norm) as data:
        block = len(data) if keeps_order(guide) else block
        for start in range(0, len(data), block):
            images = data.batch(slice(start, start + block))
            for site, kl in unit_divergence(objective, model, guide, images)[0].items():
                total[site] = total.get(site, 0.0) + kl.double().sum(0)
        count = len(data)
    return {site: (kl / count).cpu().numpy() for site, kl in total.items()}


def unit_divergence(
    objective: Objective, model: Any, guide: Any, x: Tensor
) -> tuple[dict[str, Tensor], Any]:
    """({site: (n, *event_shape)}: divergence by unit of one pass, see `unit_kl`; guide trace)."""
    model_trace, guide_trace = traces(model, guide, x)
    n, analytic = len(x), objective._same_order(model_trace, guide_trace, guide)
    samples = [name for name, s in model_trace.nodes.items() if s["type"] == "sample"]
    known, found = divergent(samples, list(guide_trace.nodes)), {}
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"] or name not in known:
            continue
        value = site["value"]
        q, p = _factors(guide_trace.nodes[name]["fn"]), _factors(site["fn"])
        if q is None or p is None or value.shape[:1] != (n,):
            continue
        kl = _closed_form(q, p) if analytic else None
        kl = q.log_prob(value) - p.log_prob(value) if kl is None else kl
        found[name] = kl.expand(value.shape)
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
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.
        block: rows that pass through the nets at once.

    Raises:
        UsageError: no images, or an automatic guide, which keeps a posterior for each place in
            the batch.
    """
    _refuse_fixed(guide, "cross_log_prob")
    if not len(x):
        raise UsageError("x: expected at least one image, came none")
    parts: dict[str, list[Tensor]] = {}
    with asked(model, guide, x, params, seed, batch_norm) as data:
        images, n = data.batch(slice(None)), len(data)
        drawn = _latents(_guide_trace(model, guide, images), n)
        values = {name: site["value"] for name, site in drawn.items()}
        features = guide.encode(images) if isinstance(guide, Guide) else None
        size = max(1, (block or ROWS) // n)
        for start in range(0, n, size):
            some = {name: value[start : start + size] for name, value in values.items()}
            for name, log_prob in _scored(model, guide, images, features, some).items():
                parts.setdefault(name, []).append(log_prob.cpu())
    return {name: torch.cat(rows).numpy() for name, rows in parts.items()}


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
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.
        block: images that are scored at once.

    Raises:
        UsageError: an image whose own latents would be all that there are.
    """
    with asked(model, guide, x, params, seed, batch_norm) as data:
        count = len(data) if keeps_order(guide) else min(num_draws, len(data))
        if count < 2:
            raise UsageError(
                f"num_draws: expected at least 2, and as many images, came {num_draws} for "
                f"{len(data)}: an image is scored under the latents of others"
            )
        likelihood = unwrapped(
            traces(model, guide, data.batch(slice(0, count)))[0].nodes["x"]["fn"]
        )
        found = []
        for start in range(0, len(data), block):
            images = data.batch(slice(start, start + block))
            log_prob = likelihood.log_prob(images[:, None])
            log_prob = log_prob.expand(len(images), count, *log_prob.shape[2:])
            log_prob = log_prob.reshape(len(images), count, -1).double()
            index = torch.arange(start, start + len(images), device=images.device)
            own = index[:, None] == torch.arange(count, device=images.device)
            log_prob = log_prob.masked_fill(own[..., None], -torch.inf)
            others = (count - own.sum(1)).log()[:, None]
            found.append((log_prob.logsumexp(1) - others).sum(1))
        return torch.cat(found).cpu().numpy()


def _scored(
    model: Any, guide: Any, images: Tensor, features: Any, draws: dict[str, Tensor]
) -> dict[str, Tensor]:
    """{site: (draws, images)}: log densities of each draw under each image's posterior."""
    n, count = len(images), len(next(iter(draws.values())))
    known = {name: value.repeat_interleave(n, 0) for name, value in draws.items()}
    kwargs = {}
    if features is not None:  # the images are encoded once, whatever the number of draws
        kwargs["features"] = pytree.tree_map(lambda t: repeated(t, count, n), features)
    with choose(lambda name, fn: known.get(name)):
        trace = _guide_trace(model, guide, repeated(images, count, n), **kwargs)
    return {
        name: per_datum(site["fn"].log_prob(site["value"]), site, n * count).reshape(count, n)
        for name, site in _latents(trace, n * count).items()
    }


def _guide_trace(model: Any, guide: Any, x: Tensor, **kwargs: Any) -> Any:
    if isinstance(guide, GuideMessenger):
        return traces(model, guide, x, **kwargs)[1]
    return prune_subsample_sites(poutine.trace(guide).get_trace(x))


def _latents(trace: Any, n: int) -> dict[str, Any]:
    """The sites of a guide's trace that hold a value for each of n images, in its order."""
    return {
        name: site
        for name, site in trace.nodes.items()
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
        return dist.Normal(base.mean, base.variance.sqrt())
    return None
