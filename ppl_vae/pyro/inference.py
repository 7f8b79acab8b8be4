"""What a trained pair knows of images: the bound's terms by site, posterior moments."""

from __future__ import annotations

__all__ = ["moments_of", "posterior_moments", "site_terms"]

from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from ppl_vae.memory import images_at_once
from ppl_vae.pyro.asking import asked, keeps_order
from ppl_vae.pyro.distributions import unwrapped
from ppl_vae.pyro.objective import Objective, traces

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
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.
        block: images at once; None takes 1000, or as many as large models and likelihoods allow
            (`ppl_vae.memory.images_at_once`).

    Returns:
        {"log_likelihood": (n,), "kl": {site: (n,)}}, nats: log p(x | z), higher is better, and what
        each site costs. ELBO is the first less the sum of the others.
    """
    objective, found = Objective(), []
    with asked(model, guide, x, params, seed, batch_norm) as data:
        size = len(data) if keeps_order(guide) else block or images_at_once(model, BLOCK)
        for start in range(0, len(data), size):
            terms = objective.terms(model, guide, data.batch(slice(start, start + size)))
            likelihood = sum(terms.log_likelihood.values())
            found.append({"log_likelihood": likelihood, "kl": terms.kl})
    return pytree.tree_map(lambda *parts: torch.cat(parts).cpu().numpy(), *found)


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
    with asked(model, guide, x, params, seed, batch_norm) as data:
        size = len(data) if keeps_order(guide) else block or images_at_once(model, BLOCK)
        found = [
            moments_of(traces(model, guide, data.batch(slice(start, start + size)))[1])
            for start in range(0, len(data), size)
        ]
    return {
        site: tuple(np.concatenate([part[site][i] for part in found]) for i in (0, 1))  # type: ignore[misc]
        for site in found[0]
    }


def moments_of(guide_trace: Any, estimated: bool = True) -> dict[str, Any]:
    """{site: (loc, scale)} of a guide's trace, of the sites that have both.

    Args:
        estimated: take a flow's from draws; False leaves it out.
    """
    found = {}
    for name, site in guide_trace.nodes.items():
        fn: Any = unwrapped(site["fn"]) if site["type"] == "sample" else None
        if isinstance(fn, torch.distributions.TransformedDistribution):  # a flow
            if not estimated:
                continue
            draws = fn.sample(torch.Size((DRAWS,)))
            found[name] = (draws.mean(0).cpu().numpy(), draws.std(0).cpu().numpy())
        elif hasattr(fn, "loc") and hasattr(fn, "scale"):
            found[name] = (fn.loc.cpu().numpy(), fn.scale.cpu().numpy())
    return found
