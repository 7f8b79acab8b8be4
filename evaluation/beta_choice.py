"""Beta chosen by a metric on a few labelled images, and judged on the rest.

Nothing in the bound says which beta disentangles: a metric needs true factors. The proposal is to
label a few images, take the beta that the metric likes best on them, and report the metric of that
beta on labelled images that had no part in the choice, beside what the best beta would have given.
"""

from __future__ import annotations

__all__ = ["choose_beta"]

import numpy as np
import xarray as xr

from ppl_vae.errors import UsageError


def choose_beta(few: xr.DataArray, rest: xr.DataArray) -> xr.Dataset:
    """The beta of the highest mean score on the few, and its scores on the rest.

    Args:
        few: (beta_norm, seed), a metric on the small labelled subset, higher is better.
        rest: (beta_norm, seed), the same metric of the same trained models on other images.

    Returns:
        `chosen`: beta_norm; `score`, `sd`: mean and standard deviation over seeds on the rest at
        the chosen beta; `best`: the beta_norm that is best on the rest, `best_score` its mean;
        `regret`: `best_score` - `score`, at least 0.

    Raises:
        UsageError: other axes, no finite score.

    >>> def scores(*rows): return xr.DataArray([*rows], {"beta_norm": [0.1, 1.0], "seed": [0, 1]})
    >>> found = choose_beta(scores([0.5, 0.7], [0.9, 0.9]), scores([0.8, 0.9], [0.6, 0.8]))
    >>> float(found.chosen), round(float(found.score), 3), round(float(found.regret), 3)
    (1.0, 0.7, 0.15)
    """
    for name, scores in (("few", few), ("rest", rest)):
        if set(scores.dims) != {"beta_norm", "seed"} or not np.isfinite(scores.values).all():
            raise UsageError(
                f"{name}: expected finite scores over beta_norm and seed, came {dict(scores.sizes)}"
            )
    if not (np.array_equal(few.beta_norm, rest.beta_norm) and np.array_equal(few.seed, rest.seed)):
        raise UsageError("few, rest: expected the same beta_norm and seeds: score the same models")
    on_few, on_rest = few.mean("seed"), rest.mean("seed")
    chosen, best = (mean.beta_norm[int(np.argmax(mean.values))] for mean in (on_few, on_rest))
    at_chosen = rest.sel(beta_norm=chosen)
    ddof = 1 if rest.sizes["seed"] > 1 else 0
    score, best_score = float(at_chosen.mean()), float(on_rest.max())
    return xr.Dataset(
        {
            "chosen": ((), float(chosen), {"long_name": "beta_norm chosen on the few"}),
            "score": ((), score, {"units": "1", "long_name": "its mean score on the rest"}),
            "sd": ((), float(at_chosen.std(ddof=ddof)), {"long_name": "over seeds"}),
            "best": ((), float(best), {"long_name": "beta_norm best on the rest"}),
            "best_score": ((), best_score, {"units": "1"}),
            "regret": ((), best_score - score, {"units": "1", "long_name": "lost by the choice"}),
        }
    )
