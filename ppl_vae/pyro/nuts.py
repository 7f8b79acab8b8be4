"""The true posterior of chosen images by the No-U-Turn Sampler, beside draws from the guide."""

from __future__ import annotations

__all__ = ["nuts"]

from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from torch import Tensor
from torch.distributions import biject_to

from ppl_vae.chains import Chains, check_chains, refuse_discrete
from ppl_vae.pyro.asking import asked
from ppl_vae.pyro.densities import is_discrete
from ppl_vae.pyro.distributions import unwrapped
from ppl_vae.pyro.objective import traces
from ppl_vae.pyro.replay import at, densities


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

    One chain after the other, which takes minutes where NumPyro takes seconds: the zoo's runs are
    better carried over (`ppl_vae.load(run, ppl="numpyro")`). Step size and diagonal mass matrix
    adapt in the warm-up (Hoffman & Gelman 2014, The No-U-Turn Sampler, arXiv 1111.4246).

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
    with asked(model, guide, x, params, seed, batch_norm) as data:
        images = data.batch(slice(None))
        starts, supports = _guide_draws(model, guide, images, num_chains * num_draws)
        # MCMC hides its program from the handlers around it, so the parameters go inside.
        program = model if params is None else poutine.substitute(model, data=params)
        settings = {"max_tree_depth": max_tree_depth, "target_accept_prob": target_accept}
        draws: dict[str, list[Tensor]] = {site: [] for site in starts}
        diverging = []
        for c in range(num_chains):
            for i in range(len(images)):
                start = {
                    site: biject_to(supports[site]).inv(value[c, i : i + 1])
                    for site, value in starts.items()
                }
                kernel = NUTS(program, **settings)
                found, bad = _chain(kernel, images[i : i + 1], start, num_warmup, num_draws)
                diverging.append(bad)
                for site, value in found.items():
                    draws[site].append(value)
        shape = (num_chains, len(images), num_draws)
        posterior = {
            site: torch.stack(parts).reshape(*shape, *parts[0].shape[2:]).transpose(1, 2)
            for site, parts in draws.items()
        }
        stats = {
            "diverging": np.stack(diverging).reshape(shape).swapaxes(1, 2),
            "lp": _log_joint(model, images, posterior),
        }
    return Chains(images.cpu().numpy(), _numpy(posterior), _numpy(starts), stats)


def _chain(
    kernel: Any, image: Tensor, start: dict[str, Tensor], num_warmup: int, num_draws: int
) -> tuple[dict[str, Tensor], np.ndarray]:
    """({site: (draws, 1, …)}, whether each draw's trajectory diverged) of one image."""
    diverged: list[int] = []

    def note(kernel: Any, z: Any, stage: str, i: int) -> None:
        diverged[:] = kernel.diagnostics()["divergences"] if stage.startswith("Sample") else []

    mcmc = MCMC(
        kernel,
        num_samples=num_draws,
        warmup_steps=num_warmup,
        initial_params=start,
        hook_fn=note,
        disable_progbar=True,
    )
    with torch.enable_grad():
        mcmc.run(image)
    bad = np.zeros(num_draws, dtype=bool)
    bad[diverged] = True
    return {site: value.detach() for site, value in mcmc.get_samples().items()}, bad


def _guide_draws(model: Any, guide: Any, images: Tensor, num: int) -> tuple[Any, Any]:
    """({site: (num, n, …)} from the guide, {site: support}); UsageError where not to be sampled."""
    draws: dict[str, list[Tensor]] = {}
    supports = {}
    for _ in range(num):
        trace, _ = traces(model, guide, images)
        if not draws:
            densities(trace, len(images))  # refuses shared latents
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            supports[name] = site["fn"].support
            if is_discrete(site["fn"]):
                raise refuse_discrete(name, type(unwrapped(site["fn"])).__name__)
            draws.setdefault(name, []).append(site["value"])
    return {name: torch.stack(values) for name, values in draws.items()}, supports


def _log_joint(model: Any, images: Tensor, posterior: dict[str, Tensor]) -> np.ndarray:
    """(chain, draw, image): log p(x, z), nats."""
    num_chains, num_draws = next(iter(posterior.values())).shape[:2]
    rows = []
    for c in range(num_chains):
        for d in range(num_draws):
            parts = densities(
                at(model, images, {site: value[c, d] for site, value in posterior.items()}),
                len(images),
            )
            rows.append(parts["log_likelihood"] + sum(parts["log_prior"].values()))
    return torch.stack(rows).reshape(num_chains, num_draws, len(images)).cpu().numpy()


def _numpy(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy() for name, value in tensors.items()}
