"""Simulated latents and images, and where the true latents rank among the guide's draws."""

from __future__ import annotations

__all__ = ["calibration_ranks"]

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ppl_vae.pyro.asking import asked, keeps_order
from ppl_vae.pyro.densities import repeated
from ppl_vae.pyro.guide import Guide
from ppl_vae.pyro.objective import traces
from ppl_vae.pyro.replay import IMAGES, at, densities, simulate
from ppl_vae.pyro.weighing import ROWS
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
        batch_norm: see `ppl_vae.pyro.asking`.
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
    with asked(model, guide, x, params, guide_seed, batch_norm) as data:
        for start in range(0, num_simulations, size):
            rows = slice(start, start + size)
            images = data.batch(rows)
            z = {site: value[rows].to(images.device) for site, value in truth.items()}
            parts = [
                _counts(model, guide, images, z, min(at_once, num_draws - done))
                for done in range(0, num_draws, at_once)
            ]
            found.append(pytree.tree_map(lambda *p: sum(a.cpu().numpy() for a in p), *parts))
    return ranks(pytree.tree_map(lambda *p: np.concatenate(p), *found), tie_seed)


def _counts(model: Any, guide: Any, x: Tensor, z: Any, repeats: int) -> Counts:
    """{quantity: (draws below the truth, draws equal to it, whether there is NaN)} by image."""
    n, kwargs = len(x), {}
    truth = flat({"z": z, **densities(at(model, x, z), n)})
    if isinstance(guide, Guide):  # the image is encoded once, whatever the number of draws
        features = guide.encode(x)
        kwargs["features"] = pytree.tree_map(lambda t: repeated(t, repeats, n), features)
    trace, _ = traces(model, guide, repeated(x, repeats, n), **kwargs)
    here = {site: trace.nodes[site]["value"] for site in z}
    draws = flat({"z": here, **densities(trace, repeats * n)})
    slack = ROUNDING * torch.finfo(x.dtype).eps
    return {
        key: _compared(true, draws[key], repeats, 0.0 if key[0] == "z" else slack)
        for key, true in truth.items()
    }


def _compared(
    truth: Tensor, draws: Tensor, repeats: int, slack: float
) -> tuple[Tensor, Tensor, Tensor]:
    draws = draws.reshape(repeats, *truth.shape)
    tie = (draws - truth).abs() <= slack * truth.abs().clamp(min=1)
    below = (draws < truth) & ~tie
    broken = draws.isnan().any(0) | truth.isnan()
    return below.sum(0), tie.sum(0), broken
