r"""The guide's answer for each image, optimised for that image alone (Cremer et al. 2018).

.. math:: L[q^*] = \max_{m, s} E_{u \sim N(m, s^2)}[\log p(x, u)] + \sum_i \log s_i + \tfrac D2
    \log 2 \pi e

with a mean and a deviation for every unit of every image, in one of two families:

- "mean_field": u is the latents themselves, so all units of all sites are independent Normals
  (on the unconstrained number where a site is not real), begun at the moments of the guide's draws;
- "conditional": u is the guide's own noise, so each site keeps the guide's dependence on the
  latents before it and gets a shift and a factor of its own, begun at the guide itself.

With one latent site and a diagonal Normal guide the two are one family.
"""

from __future__ import annotations

__all__ = ["FAMILIES", "local_elbo"]

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import UsageError, nearest
from ppl_vae.pyro.asking import asked, keeps_order
from ppl_vae.pyro.densities import Densities

FAMILIES = {"mean_field": "site", "conditional": "guide"}
ROWS = 4096  # images times samples that pass through the nets at once
MOMENTS = 64  # draws of the guide that a mean field begins at


def local_elbo(
    model: Any,
    guide: Any,
    x: Any,
    *,
    family: str = "conditional",
    num_steps: int = 500,
    num_samples: int = 8,
    learning_rate: float = 0.05,
    eval_samples: int = 500,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
) -> dict[str, np.ndarray]:
    """ELBO of each image under its own optimised posterior, nats, higher is better.

    Args:
        x: images (n, c, h, w), or `ppl_vae.data.Images`; binarised once.
        family: see the module's docstring.
        num_steps, num_samples, learning_rate: of Adam, its rate falling by a cosine.
        eval_samples: fresh draws of the ELBO that is returned.
        params: what `fit` learned for plain functions.
        seed: of the draws.
        batch_norm: "running" alone; see `ppl_vae.pyro.asking`.
        block: images times samples that pass through the nets at once.

    Returns:
        {"elbo": (n,), "begun": (n,), "curve": (num_steps,)}: of the optimised posterior, of the one
        it began at ("conditional": the guide's), and the mean over images along the way.

    Raises:
        UsageError: no such family, a discrete site, or an answer that is not Normal.
    """
    _check(guide, family, batch_norm, num_steps, num_samples, eval_samples)
    size = max(1, min(100, (block or ROWS) // num_samples))
    found = []
    for start in range(0, len(x), size):
        with asked(model, guide, x, params, seed, batch_norm) as data:
            torch.manual_seed(seed + start)
            images = data.batch(slice(start, start + size))
            densities = Densities(model, guide, FAMILIES[family])
            begun = _begin(densities, images, family)
            best, curve = _optimise(densities, images, begun, num_steps, num_samples, learning_rate)
            elbos = [
                _measured(densities, images, at, eval_samples, num_samples) for at in (best, begun)
            ]
            found.append([*elbos, curve * len(images)])
    after, before = (np.concatenate([part[i] for part in found]) for i in (0, 1))
    curve = np.sum([part[2] for part in found], axis=0) / len(x)
    return {"elbo": after, "begun": before, "curve": curve}


def _check(
    guide: Any, family: str, batch_norm: str, num_steps: int, num_samples: int, eval_samples: int
) -> None:
    if family not in FAMILIES:
        raise UsageError(f"family: unknown {family!r}: {nearest(family, FAMILIES)}")
    if batch_norm != "running":
        raise UsageError(
            f"batch_norm: expected running for local answers, came {batch_norm}: each image's "
            "answer is to be its own"
        )
    if keeps_order(guide):
        raise UsageError(
            "guide: expected one that answers any batch of images, came an automatic guide, whose "
            "posteriors are each image's own already"
        )
    numbers = {"num_steps": num_steps, "num_samples": num_samples, "eval_samples": eval_samples}
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"{name}: expected at least 1, came {value}")


def _begin(densities: Densities, x: Tensor, family: str) -> tuple[Tensor, Tensor]:
    """(mean, log deviation) (n, D) to begin with."""
    many, known = densities.known(x, MOMENTS)
    u = densities.draw(many, "guide", **known)
    if family == "conditional":
        if not densities.normal:
            raise UsageError(
                "family: expected mean_field for a guide with other answers than Normal ones, came "
                "conditional, which shifts and rescales a Normal"
            )
        zero = torch.zeros(len(x), u.shape[1], dtype=u.dtype, device=u.device)
        return zero, zero.clone()
    u = u.reshape(MOMENTS, len(x), -1)
    return u.mean(0), u.std(0).clamp(min=1e-6).log()


def _optimise(
    densities: Densities,
    x: Tensor,
    begun: tuple[Tensor, Tensor],
    num_steps: int,
    num_samples: int,
    learning_rate: float,
) -> tuple[tuple[Tensor, Tensor], np.ndarray]:
    """(mean and log deviation uphill of `begun`, (num_steps,) mean ELBO along the way)."""
    many, known = densities.known(x, num_samples)
    loc, log_scale = parameters = tuple(part.clone().requires_grad_() for part in begun)
    adam = torch.optim.Adam(parameters, learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, num_steps)
    curve = []
    for _ in range(num_steps):
        with torch.enable_grad():
            elbo = _elbo(densities, many, known, (loc, log_scale)).sum() / num_samples
            slopes = torch.autograd.grad(-elbo, parameters)
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = slope
        adam.step()
        falling.step()
        curve.append(elbo.detach() / len(x))
    best = loc.detach(), log_scale.detach()
    return best, torch.stack(curve).double().cpu().numpy()


def _measured(
    densities: Densities, x: Tensor, at: tuple[Tensor, Tensor], total: int, at_once: int
) -> np.ndarray:
    """(n,): the ELBO by `total` draws or the next multiple of `at_once`."""
    many, known = densities.known(x, at_once)
    rounds = math.ceil(total / at_once)
    elbo = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for _ in range(rounds):
        each = _elbo(densities, many, known, at)
        elbo += each.reshape(at_once, len(x)).mean(0)
    return (elbo / rounds).cpu().numpy()


def _elbo(
    densities: Densities, many: Tensor, known: dict[str, Any], at: tuple[Tensor, Tensor]
) -> Tensor:
    """(rows,): one draw's log p(x, u) and the entropy in closed form."""
    repeats = len(many) // len(at[0])
    loc, log_scale = (part.repeat(repeats, 1) for part in at)
    u = loc + log_scale.exp() * torch.randn_like(loc)
    entropy = (log_scale + 0.5 * math.log(2 * math.pi * math.e)).sum(1)
    return densities(u, many, **known).log_joint + entropy
