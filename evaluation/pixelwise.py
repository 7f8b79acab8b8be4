r"""Leaving pixels out: how well the rest of an image foretells each of them.

.. math:: elpd = \sum_d \log p(x_d \mid x_{-d}), \qquad
    p(x_d | x_{-d}) = 1 / E_{p(z | x)}[1 / p(x_d | z)]

by Pareto-smoothed importance sampling (Vehtari, Gelman & Gabry 2017, arXiv 1507.04544). Draws from
the guide, which are not from p(z | x), are weighted by p(x, z) / q(z | x) besides (Magnusson,
Andersen, Jonasson & Vehtari 2019, Bayesian leave-one-out cross-validation for large data, arXiv
1904.10679).
"""

from __future__ import annotations

__all__ = ["leave_one_image_out", "leave_one_pixel_out"]

import warnings
from typing import Any, NoReturn

import arviz_stats
import numpy as np
import xarray as xr

from evaluation._reading import in_order
from ppl_vae.errors import UsageError

K_GOOD = 0.7


def leave_one_image_out(*_: Any, **__: Any) -> NoReturn:
    """Refused: it has no meaning with one latent for each image.

    Raises:
        UsageError: always, with the reason.
    """
    raise UsageError(
        "leave_one_image_out: an image's latent is learned from that image alone, so with the "
        "image left out its posterior is the prior, and the score is log p(x) again: take "
        "importance_weighted_nll on held-out images, or leave_one_pixel_out"
    )


def leave_one_pixel_out(
    log_likelihood: Any, log_weights: Any | None = None, *, num_chains: int = 1
) -> xr.Dataset:
    """Expected log predictive density of each pixel given all others of its image (arviz-stats).

    Args:
        log_likelihood: (draws, images, pixels) of log p(x_d | z), nats, as
            `ppl_vae.<ppl>.pixel_log_likelihood` gives it; a DataArray is read by its dims draw,
            image and pixel.
        log_weights: (draws, images), log p(x, z) - log q(z | x) of draws from the guide; None for
            draws from the posterior itself, by converged chains.
        num_chains: into how many chains the draws of a posterior fall, one after the other.

    Returns:
        `elpd`, `elpd_se`, `p_loo`, `pareto_k_bad` (share of pixels above 0.7) by image; `elpd_i`,
        `pareto_k` (image, pixel). Higher elpd is better; p_loo is what the pixels themselves add.

    Raises:
        UsageError: arrays that do not fit each other or the chains, or numbers that are not
            finite.
    """
    names = ("draw", "image", "pixel")
    values = np.asarray(in_order(log_likelihood, names, "log_likelihood"), dtype=np.float64)
    if values.ndim != 3 or not values.size or len(values) % max(num_chains, 1):
        raise UsageError(
            "log_likelihood: expected (draws, images, pixels) with a whole number of draws for "
            f"each of {num_chains} chains, came shape {values.shape}"
        )
    log_weights = in_order(log_weights, names[:2], "log_weights")
    weights = None if log_weights is None else np.asarray(log_weights, dtype=np.float64)
    if weights is not None and weights.shape != values.shape[:2]:
        raise UsageError(
            f"log_weights: expected {values.shape[:2]}, draws and images of log_likelihood, came "
            f"{weights.shape}"
        )
    if not np.isfinite(values).all():
        raise UsageError("log_likelihood: NaN or infinity: a pixel has no probability at a draw")
    if weights is not None and not np.isfinite(weights).all():
        raise UsageError("log_weights: NaN or infinity: a draw has no weight")
    images = [
        _one_image(values[:, i], None if weights is None else weights[:, i], num_chains)
        for i in range(values.shape[1])
    ]
    result = xr.concat(images, "image").assign_coords(image=np.arange(len(images)))
    for name, long_name in {
        "elpd": "log predictive density of the pixels, each given the others, higher is better",
        "elpd_se": "standard error of elpd over pixels",
        "elpd_i": "the same, pixel by pixel",
    }.items():
        result[name].attrs.update(units="nats", long_name=long_name)
    for name, long_name in {
        "p_loo": "effective number of latent units, by how much the pixels themselves add",
        "pareto_k": "shape of the generalised Pareto tail of a pixel's importance weights",
        "pareto_k_bad": f"share of pixels whose pareto_k is over {K_GOOD}",
    }.items():
        result[name].attrs.update(units="1", long_name=long_name)
    return result


def _one_image(values: Any, log_weights: Any | None, num_chains: int) -> xr.Dataset:
    shape = (num_chains, len(values) // num_chains)
    draws = xr.Dataset(
        {"x": (("chain", "draw", "pixel"), values.reshape(*shape, -1))},
        coords={"chain": np.arange(shape[0]), "draw": np.arange(shape[1])},
    )
    tree = xr.DataTree.from_dict({"log_likelihood": draws, "posterior": draws})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of high k: told as pareto_k_bad
        if log_weights is None:
            found = arviz_stats.loo(tree, pointwise=True, reff=1.0 if num_chains == 1 else None)
        else:
            found = arviz_stats.loo_approximate_posterior(
                tree,
                log_p=log_weights,
                log_q=np.zeros_like(log_weights),  # only their difference counts
                pointwise=True,
            )
    k = np.asarray(found.pareto_k)
    return xr.Dataset(
        {
            "elpd": float(found.elpd),
            "elpd_se": float(found.se),
            "p_loo": float(found.p),
            "pareto_k_bad": float((k > K_GOOD).mean()),
            "elpd_i": ("pixel", np.asarray(found.elpd_i)),
            "pareto_k": ("pixel", k),
        }
    )
