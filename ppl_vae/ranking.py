"""What both PPLs' calibration ranks share: checks, and ties broken at random."""

from __future__ import annotations

__all__ = ["ROUNDING", "Counts", "check_counts", "flat", "ranks"]

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from ppl_vae.errors import UsageError

Counts: TypeAlias = dict[tuple[str, str], Any]
"""{(kind, site): arrays}: ("z", site), ("log_prior", site), ("log_likelihood", "")."""

ROUNDING = 16  # in units of precision: log densities this close tie, as where they ignore z


def check_counts(num_simulations: int, num_draws: int, automatic: str) -> None:
    """UsageError where there is nothing to simulate, or an automatic guide (its name) to answer."""
    for name, value in (("num_simulations", num_simulations), ("num_draws", num_draws)):
        if value < 1:
            raise UsageError(f"{name}: expected at least 1, came {value}")
    if automatic:
        raise UsageError(
            f"{automatic} keeps one posterior for each image of a batch, so it has no answer to a "
            "simulated image: take an amortised guide"
        )


def flat(tree: Mapping[str, Any]) -> Counts:
    """{(kind, site): array} of {"z": {site: array}, "log_likelihood": array, …}."""
    return {
        (kind, site): array
        for kind, part in tree.items()
        for site, array in (part.items() if isinstance(part, Mapping) else [("", part)])
    }


def ranks(counts: Counts, seed: int) -> dict[str, Any]:
    r"""Ranks from (draws below the truth, draws equal to it, whether any is NaN), int64.

    .. math:: r = \#\{d: f_d < f^*\} + U\{0, …, \#\{d: f_d = f^*\}\}

    A truth that ties with some draws takes any of the places among them, so that ranks stay
    uniform (Modrák et al. 2023, arXiv 2211.02383).

    Raises:
        UsageError: NaN, with the first quantity that has it.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for (kind, site), (below, equal, broken) in sorted(counts.items()):
        wrong = int(np.asarray(broken).reshape(len(broken), -1).any(axis=1).sum())
        if wrong:
            raise UsageError(
                f"calibration_ranks: NaN in {f'{kind} {site}'.strip()} for {wrong} of "
                f"{len(broken)} simulations: evaluate weights from before training went wrong"
            )
        rank = np.asarray(below, np.int64) + rng.integers(0, np.asarray(equal, np.int64) + 1)
        if site:
            found.setdefault(kind, {})[site] = rank
        else:
            found[kind] = rank
    return found
