r"""Annealed importance sampling by Hamiltonian moves, from the prior or the guide to p(x, z).

What the path is, and whose it is, stands in `ppl_vae.annealing`. Step sizes are found by pilot
chains, one for each image and temperature, and then frozen: chains that adapt bound nothing.
"""

from __future__ import annotations

__all__ = ["annealed_log_weights", "stream_annealed_log_weights"]

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

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
from ppl_vae.pyro.asking import asked, keeps_order
from ppl_vae.pyro.densities import Densities

ROWS = 4096  # images times chains that move at once

Path = Callable[[Tensor], tuple[Tensor, Tensor]]
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
        batch_norm: "running" alone; see `ppl_vae.pyro.asking`.
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
    for start in range(0, len(x), size):
        # Nothing global is held while the caller has the block: `asked` ends before it is given.
        with asked(model, guide, x, params, seed, batch_norm) as data:
            torch.manual_seed(seed + start)  # each block has a stream of its own
            part = slice(start, start + size)
            images = data.batch(part)
            exact = {
                name: torch.as_tensor(np.asarray(value[part]), device=images.device)
                for name, value in (latents or {}).items()
            }
            found = _annealed(Densities(model, guide, settings.start), images, exact, settings)
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


def _annealed(
    densities: Densities, x: Tensor, exact: dict[str, Tensor], settings: AnnealingSettings
) -> Annealed:
    n, start, count = len(x), settings.start, settings.num_temperatures
    known = densities.known(x, settings.pilot_chains)
    u = densities.draw(known[0], start, **known[1])
    log_steps = _pilots(_path(densities, *known), u, n, settings)
    steps = stretched(log_steps.cpu().numpy(), count)
    moves = torch.as_tensor(steps, dtype=x.dtype, device=x.device)
    betas = schedule(count)

    known = densities.known(x, settings.num_chains)
    path = _path(densities, *known)
    u = densities.draw(known[0], start, **known[1])
    forward, acceptance = _run(path, u, n, betas, moves, settings.num_leapfrogs)
    reverse = None
    if exact:
        many = {k: v.repeat(settings.num_chains, *(1,) * (v.dim() - 1)) for k, v in exact.items()}
        u = densities.at(many, known[0], **known[1])
        reverse, _ = _run(path, u, n, betas[::-1], moves.flip(0), settings.num_leapfrogs)
    return Annealed(forward, reverse, acceptance, steps)


def _path(densities: Densities, x: Tensor, known: dict[str, Any]) -> Path:
    def path(u: Tensor) -> tuple[Tensor, Tensor]:
        found = densities(u, x, **known)
        if found.log_guide is None:
            return found.log_prior, found.log_likelihood
        return found.log_guide, found.log_joint - found.log_guide

    return path


def _run(
    path: Path, u: Tensor, n: int, betas: np.ndarray, steps: Tensor, num_leapfrogs: int
) -> tuple[np.ndarray, np.ndarray]:
    """(log weights (chain, image), mean acceptance (image,)) of chains along `betas`."""
    chains = len(u) // n
    place = _Place(u, path(u)[1])
    log_weights = torch.zeros(len(u), dtype=torch.float64, device=u.device)
    accepted = torch.zeros(n, device=u.device)
    for t in range(1, len(betas)):
        log_weights += (betas[t] - betas[t - 1]) * place.ratio.double()
        if t == len(betas) - 1:
            break
        step = steps[t].repeat(chains)[:, None]
        place, acceptance = _move(path, place, float(betas[t]), step, num_leapfrogs)
        accepted += acceptance.reshape(chains, n).mean(0)
    moves = len(betas) - 2
    mean = (accepted / moves if moves else accepted * math.nan).cpu().numpy()
    return log_weights.reshape(chains, n).cpu().numpy(), mean


def _pilots(path: Path, u: Tensor, n: int, settings: AnnealingSettings) -> Tensor:
    """(pilot temperature, image): log step sizes that led to the acceptance aimed at."""
    chains = len(u) // n
    place = _Place(u, path(u)[1])
    log_step = torch.full((n,), math.log(u.shape[1] ** -0.25), dtype=u.dtype, device=u.device)
    betas = schedule(settings.pilot_temperatures)
    found = []
    for beta in [*np.zeros(WARM_UP), *betas]:
        step = log_step.exp().repeat(chains)[:, None]
        place, acceptance = _move(path, place, float(beta), step, settings.num_leapfrogs)
        mean = acceptance.reshape(chains, n).mean(0)
        log_step = log_step + ADAPTATION * (mean - settings.target_acceptance)
        found.append(log_step)
    return torch.stack(found[WARM_UP:])


class _Place(NamedTuple):
    """Where the chains stand: u (rows, D), and log p(x, z) - log p_0 (rows,) there."""

    u: Tensor
    ratio: Tensor


def _move(
    path: Path, place: _Place, beta: float, step: Tensor, num_leapfrogs: int
) -> tuple[_Place, Tensor]:
    """(the next place, probability (rows,) that the move was accepted with).

    Leapfrogs of size `step` (rows, 1) and the Metropolis test leave the density at β as it is.
    """
    before, slope, _ = _at(path, place.u, beta)
    u, momentum = place.u, torch.randn_like(place.u)
    velocity = momentum + 0.5 * step * slope
    for i in range(num_leapfrogs):
        u = u + step * velocity
        after, slope, ratio = _at(path, u, beta)
        velocity = velocity + (step if i < num_leapfrogs - 1 else 0.5 * step) * slope
    change = after - before - 0.5 * (velocity.square() - momentum.square()).sum(1)
    acceptance = change.clamp(max=0.0).exp().nan_to_num(nan=0.0)  # a move out of range: refused
    accepted = torch.rand_like(acceptance) < acceptance
    return (
        _Place(
            torch.where(accepted[:, None], u, place.u), torch.where(accepted, ratio, place.ratio)
        ),
        acceptance,
    )


def _at(path: Path, u: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(log density at β, its slope, log p(x, z) - log p_0) at u."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        base, ratio = path(u)
        value = base + beta * ratio if beta > 0 else base
        (slope,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), slope, ratio.detach()
