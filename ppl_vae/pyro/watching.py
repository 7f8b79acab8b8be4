"""What is looked at while a pair trains: its posteriors, and samples of its prior."""

from __future__ import annotations

__all__ = ["posterior_range", "prior_samples"]

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_vae.errors import UsageError
from ppl_vae.histories import ACTIVE, code_use
from ppl_vae.pyro.coding import code_counts
from ppl_vae.pyro.inference import moments_of
from ppl_vae.pyro.information import unit_divergence
from ppl_vae.pyro.sampling import sample

if TYPE_CHECKING:
    from ppl_vae.pyro.trainer import PyroTrainer


def posterior_range(trainer: PyroTrainer) -> dict[str, np.ndarray] | None:
    """What the first training images' posteriors span, a row of `ppl_vae.histories`.

    None where not every site's posterior has a mean and a deviation.
    """
    with trainer.aside(), torch.no_grad():
        images = trainer.probe()
        kl, trace = unit_divergence(trainer.objective, trainer.model, trainer.guide, images)
        found, counts = moments_of(trace), code_counts(trace)
        known = moments_of(trace, estimated=False)
    sites = trainer.sites
    if not found or set(found) != set(sites):
        return None
    row: dict[str, Any] = {
        "posterior_loc": [(found[site][0].min(), found[site][0].max()) for site in sites],
        "posterior_scale": [(found[site][1].min(), found[site][1].max()) for site in sites],
    }
    n = len(images)
    apart = set(known) == set(sites) and all(loc.shape[:1] == (n,) for loc, _ in known.values())
    if n > 1 and apart and not counts:  # draws' noise would make units of a flow look active
        spread = [known[site][0].var(axis=0, ddof=1) for site in sites]
        row["active_units"] = [(part > ACTIVE).sum() for part in spread]
    if n > 1 and set(kl) == set(sites):
        row["active_units_kl"] = [(kl[site].mean(0) > ACTIVE).sum().cpu() for site in sites]
    row |= code_use(counts, sites)
    return {name: np.array(values, dtype=np.float64) for name, values in row.items()}


def prior_samples(trainer: PyroTrainer, num_samples: int) -> np.ndarray | None:
    """Mean images (n, c, h, w) of prior draws; None for programs that do not generate."""
    try:
        with trainer.aside():
            return sample(trainer.model, num_samples)["x_mean"].cpu().numpy()
    except (TypeError, KeyError, UsageError):
        return None
