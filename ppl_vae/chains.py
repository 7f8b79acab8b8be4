"""What both PPLs' chains share: the form of what they found, and checks before they start."""

from __future__ import annotations

__all__ = ["Chains", "check_chains", "refuse_discrete"]

from dataclasses import dataclass
from typing import Any

from ppl_vae.errors import UsageError


@dataclass(frozen=True)
class Chains:
    """Draws from the posterior of a few images, and from the guide for the same images.

    Attributes:
        x: (image, c, h, w), as the likelihood saw them.
        posterior: {site: (chain, draw, image, …)} by Markov chains.
        guide: {site: (draw, image, …)}; chains started from the first of them.
        stats: {name: (chain, draw, image)} of the sampler, in ArviZ's names; `lp` is
            log p(x, z), nats.
    """

    x: Any
    posterior: dict[str, Any]
    guide: dict[str, Any]
    stats: dict[str, Any]


def check_chains(num_chains: int, num_warmup: int, num_draws: int, batch_norm: str) -> None:
    """UsageError where chains would have nothing to do, or nothing to be told apart by."""
    least = {"num_chains": (num_chains, 2), "num_warmup": (num_warmup, 1)}
    for name, (value, lowest) in {**least, "num_draws": (num_draws, 4)}.items():
        if value < lowest:
            raise UsageError(f"{name}: expected at least {lowest}, came {value}")
    if batch_norm == "batch":
        raise UsageError(
            "batch_norm: expected 'running' or 'recomputed' for chains of one image, came 'batch'"
        )


def refuse_discrete(site: str, distribution: str) -> UsageError:
    """The error about a site that Hamiltonian transitions cannot move."""
    return UsageError(
        f"site {site}: {distribution} is discrete, and Hamiltonian transitions need gradients: "
        "sum it out in the model, or judge the guide by calibration"
    )
