"""The model at given latents: log densities, of the image pixel by pixel too, and new images."""

from __future__ import annotations

__all__ = [
    "IMAGES", "at", "densities", "log_densities", "pixel_log_likelihood", "replicates",
    "simulate", "weighted_draws",
]  # fmt: skip

from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.utils import _pytree as pytree

from ppl_vae.checks import check_cover
from ppl_vae.errors import UsageError
from ppl_vae.pyro.asking import asked
from ppl_vae.pyro.distributions import unwrapped
from ppl_vae.pyro.objective import per_datum, traces
from ppl_vae.pyro.sampling import _values

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
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.

    Returns:
        (draws, n) each, nats, higher is more probable.

    Raises:
        UsageError: latents that are not the model's, or a site that images share.
    """

    def found(x: Tensor, z: Latents) -> dict[str, Any]:
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

    def found(x: Tensor, z: Latents) -> Tensor:
        site = at(model, x, z).nodes["x"]
        pixels: Tensor = unwrapped(site["fn"]).log_prob(site["value"])
        if pixels.dim() < 2:
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
) -> dict[str, Tensor]:
    """Latents and images drawn from the model together, a hundred images at a time.

    Args:
        model: a program that generates, `model(n=...)`.
        num: how many images, at least 1.
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.

    Returns:
        {site: (num, …)}, and "x" (num, c, h, w).

    Raises:
        UsageError: num below 1.
    """
    if num < 1:
        raise UsageError(f"num: expected at least 1, came {num}")
    with asked(model, None, None, params, seed, batch_norm, lambda: model(n=IMAGES)):
        sizes = [min(IMAGES, num - start) for start in range(0, num, IMAGES)]
        draws = [_values(poutine.trace(model).get_trace(n=size)) for size in sizes]
    names = [name for name in draws[0] if name != "x_mean"]
    return {name: torch.cat([one[name] for one in draws]) for name in names}


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
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.

    Returns:
        (S, n, c, h, w).

    Raises:
        UsageError: num_draws below 1.
    """
    if num_draws < 1:
        raise UsageError(f"num_draws: expected at least 1, came {num_draws}")
    with asked(model, guide, x, params, seed, batch_norm) as data:
        images = data.batch(slice(None))
        draws = [
            traces(model, guide, images)[0].nodes["x"]["fn"].sample().cpu().numpy()
            for _ in range(num_draws)
        ]
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
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.

    Returns:
        ({site: (S, n, …)}, (S, n) of log p(x, z) - log q(z | x), nats).

    Raises:
        UsageError: num_draws below 1, or a site that images share.
    """
    if num_draws < 1:
        raise UsageError(f"num_draws: expected at least 1, came {num_draws}")
    draws = []
    with asked(model, guide, x, params, seed, batch_norm) as data:
        images = data.batch(slice(None))
        for _ in range(num_draws):
            model_trace, guide_trace = traces(model, guide, images)
            parts, n = densities(model_trace, len(images)), len(images)
            log_q = [
                per_datum(site["fn"].log_prob(site["value"]), site, n)
                for site in guide_trace.nodes.values()
                if site["type"] == "sample" and not site["is_observed"]
            ]
            z = {site: model_trace.nodes[site]["value"] for site in parts["log_prior"]}
            log_p = parts["log_likelihood"] + sum(parts["log_prior"].values())
            draws.append((z, log_p - sum(log_q)))
    latents = {site: torch.stack([z[site] for z, _ in draws]).cpu().numpy() for site in draws[0][0]}
    return latents, torch.stack([weight for _, weight in draws]).cpu().numpy()


def at(model: Any, x: Tensor, latents: Latents) -> Any:
    """The model's trace with its latents at the values given, under the caller's handlers."""
    known = poutine.Trace()
    for name, value in latents.items():
        known.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    trace = poutine.trace(poutine.replay(model, trace=known)).get_trace(x)
    trace = prune_subsample_sites(trace)
    sites = (name for name, site in trace.nodes.items() if site["type"] == "sample")
    latent = dict.fromkeys(s for s in sites if not _seen(trace.nodes[s]))
    check_cover(dict.fromkeys(latents), latent)
    return trace


def densities(trace: Any, n: int) -> dict[str, Any]:
    """`log_densities` of a trace of n images."""
    log_likelihood: Any = 0.0
    log_prior = {}
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        log_prob = per_datum(site["fn"].log_prob(site["value"]), site, n)
        if log_prob.dim() == 0:
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
    with asked(model, guide, x, params, seed, batch_norm) as data:
        images = data.batch(slice(None))
        z = {
            site: torch.as_tensor(np.asarray(value)).to(images.device)
            for site, value in latents.items()
        }
        draws = len(next(iter(z.values())))
        parts = [fn(images, {site: value[i] for site, value in z.items()}) for i in range(draws)]
    return pytree.tree_map(lambda *tensors: torch.stack(tensors).cpu().numpy(), *parts)
