"""What is looked at while a pair trains: its posteriors, and samples of its prior."""

from __future__ import annotations

__all__ = ["posterior_range", "prior_samples", "spans"]

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers

from ppl_vae.errors import UsageError
from ppl_vae.histories import ACTIVE, code_use
from ppl_vae.numpyro.bind import fresh
from ppl_vae.numpyro.coding import code_counts
from ppl_vae.numpyro.guide import quiet
from ppl_vae.numpyro.inference import moments_of
from ppl_vae.numpyro.information import unit_divergence
from ppl_vae.numpyro.sampling import sample

if TYPE_CHECKING:
    from ppl_vae.numpyro.trainer import NumPyroTrainer


def posterior_range(trainer: NumPyroTrainer) -> dict[str, np.ndarray] | None:
    """What the first training images' posteriors span, a row of `ppl_vae.histories`.

    None where not every site's posterior has a mean and a deviation.
    """
    local = trainer.local
    with quiet(trainer.model, trainer.guide):
        found = trainer.spans(local.params, local.mutable, trainer.probe())
    sites = trainer.sites
    if not sites or set(found["posterior_loc"]) != set(sites):
        return None
    counts = {site: np.asarray(part) for site, part in found.pop("code_counts").items()}
    return code_use(counts, sites) | {
        name: np.array([by_site[site] for site in sites], dtype=np.float64)
        for name, by_site in found.items()
        if set(by_site) == set(sites)
    }


def spans(trainer: NumPyroTrainer, params: Any, mutable: Any, values: Array) -> Any:
    """{name: {site: part of its row}} of stored images; to be traced."""
    x = trainer.train.prepared(values, trainer.aside)
    data = {**trainer.constrained(params), **fresh(mutable)}
    with handlers.substitute(data=data), handlers.seed(rng_seed=trainer.aside):
        kl, trace = unit_divergence(trainer.objective, trainer.model, trainer.guide, x)
        found, counts = moments_of(trace), code_counts(trace)
        known = moments_of(trace, estimated=False)
    row = {
        name: {site: _ends(part[i]) for site, part in found.items()}
        for i, name in enumerate(("posterior_loc", "posterior_scale"))
    }
    row["code_counts"] = counts
    n = len(x)
    apart = set(known) == set(found) and all(loc.shape[:1] == (n,) for loc, _ in known.values())
    if n > 1 and apart and not counts:  # draws' noise would make units of a flow look active
        row["active_units"] = {
            site: (loc.var(axis=0, ddof=1) > ACTIVE).sum() for site, (loc, _) in known.items()
        }
    if n > 1 and set(kl) == set(found):
        row["active_units_kl"] = {site: (part.mean(0) > ACTIVE).sum() for site, part in kl.items()}
    return row


def prior_samples(trainer: NumPyroTrainer, num_samples: int) -> np.ndarray | None:
    """Mean images (n, c, h, w) of prior draws; None for programs that do not generate."""
    params = {**trainer.constrained(trainer.local.params), **trainer.local.mutable}
    seed = trainer.settings.seed + 1
    try:
        return np.asarray(sample(trainer.model, num_samples, params=params, seed=seed)["x_mean"])
    except (TypeError, KeyError, UsageError):
        return None


def _ends(values: Array) -> Array:
    """(2,): the lowest and the highest."""
    return jnp.stack([values.min(), values.max()])
