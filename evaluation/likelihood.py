r"""The importance-weighted likelihood of images, from log weights, with what is needed to trust it.

.. math:: L_K = \log \frac{1}{K} \sum_{k=1}^{K} w_k, \qquad w_k = p(x, z_k) / q(z_k \mid x)

L_1 is the ELBO, and E[L_K] rises to log p(x) with K (Burda, Grosse & Salakhutdinov 2015, Importance
Weighted Autoencoders, arXiv 1509.00519). How heavy the tail of the weights is, Pareto's k tells
(Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto Smoothed Importance Sampling, arXiv 1507.02646).
"""

from __future__ import annotations

__all__ = ["K_BAD", "K_MIN_SAMPLES", "importance_weighted_nll"]

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr
from arviz_stats.base import array_stats

from evaluation._reading import in_order
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

K_BAD = 0.7  # above it the estimate's error no longer falls as 1 / sqrt(K) (Vehtari et al. 2024)
K_MIN_SAMPLES = 25  # a fifth of the samples is the tail, and the fit needs five

_ONE_IMAGE = {  # name: (units, long_name)
    "nll": ("nats per image", "-log p(x) by the bound L_K, lower is better"),
    "elbo": ("nats per image", "evidence lower bound L_1, higher is better"),
    "ess": ("1", "effective sample size of the importance weights, at most num_samples"),
    "pareto_k": ("1", "shape of the generalised Pareto tail of the importance weights"),
}
_SCALARS = {
    "nll_mean": ("nats per image", "mean over images of -log p(x) by L_K, lower is better"),
    "nll_se": ("nats per image", "standard error of nll_mean over images"),
    "elbo_mean": ("nats per image", "mean over images of the evidence lower bound"),
    "elbo_se": ("nats per image", "standard error of elbo_mean over images"),
    "pareto_k_bad": ("1", f"share of images whose pareto_k is over {K_BAD}"),
    "bits_per_dim": ("bits per dimension", "nll_mean / (num_dims log 2)"),
    "num_samples": ("1", "importance samples an image, K"),
    "num_images": ("1", "images averaged over"),
}


def importance_weighted_nll(
    log_weights: Any | Iterable[Any], *, num_dims: float | None = None
) -> xr.Dataset:
    r"""Negative log-likelihood of each image by L_K, its error and its diagnostics.

    Args:
        log_weights: (num_samples, images) in nats, log p(x, z) - log q(z | x); or an iterable of
            such blocks, in order, which is worked off block by block: memory is that of the largest
            block and some numbers an image. A DataArray is read by its dims "sample" and "image".
            -inf is a weight of zero. NaN and +inf are refused, never filtered.
        num_dims: numbers scored in an image (channels x height x width, a mean where parts are
            hidden), for bits per dimension.

    Returns:
        `nll`, `elbo`, `ess`, `pareto_k`: (image,); scalars `nll_mean`, `nll_se`, `elbo_mean`,
        `elbo_se` (ddof = 1, NaN for one image), `pareto_k_bad`, `num_samples`, `num_images`, and
        `bits_per_dim` where `num_dims` is given; units and meaning in each one's attributes.
        `pareto_k` is NaN where it cannot be (fewer than 25 samples) or need not be known (equal
        weights) and inf where fewer weights than the tail holds differ from zero: its note
        attribute says so.

    Everything is worked out in float64, one image at a time: how the images are cut into
    blocks changes no bit.

    >>> result = importance_weighted_nll(np.log([[1.0, 2.0], [3.0, 2.0]]))
    >>> result.nll.values.round(4), result.ess.values
    (array([-0.6931, -0.6931]), array([1.6, 2. ]))
    """
    if num_dims is not None and num_dims < 1:
        raise UsageError(f"num_dims: expected the numbers in one image, 1 or more, came {num_dims}")
    measured: list[_Measured] = []
    num_samples = None
    for block in blocks_of(log_weights):
        if num_samples is not None and len(block) != num_samples:
            raise UsageError(
                f"log_weights: a block has {len(block)} samples, those before it {num_samples}: "
                "give every image the same number of samples"
            )
        num_samples = len(block)
        _refuse_non_finite(block, first_image=len(measured))
        precision = float(np.finfo(block.dtype).eps) if block.dtype.kind == "f" else 0.0
        buffer = np.empty(num_samples, dtype=np.float64)
        for i in range(block.shape[1]):
            buffer[:] = block[:, i]
            measured.append(_measure(buffer, precision))
        del block  # before the next one is made
    if num_samples is None or not measured:
        raise UsageError(
            "log_weights: expected at least one image, came none: give (num_samples, images)"
        )
    return _dataset(measured, num_samples, num_dims)


class _Measured(NamedTuple):
    nll: float
    elbo: float
    ess: float
    pareto_k: float
    note: str  # why pareto_k is no finite number, "" where it is one


def blocks_of(log_weights: Any) -> Iterator[Array]:
    """Blocks (num_samples, images) of whatever came, each checked for its shape and type."""
    if hasattr(log_weights, "ndim"):
        yield _block(log_weights)
    elif isinstance(log_weights, list | tuple) and not any(hasattr(b, "ndim") for b in log_weights):
        yield _block(np.asarray(log_weights))
    elif isinstance(log_weights, Iterable):
        yield from map(_block, log_weights)
    else:
        raise UsageError(
            "log_weights: expected an array (num_samples, images) or an iterable of such blocks, "
            f"came {type(log_weights).__name__}"
        )


def _block(block: Any) -> Array:
    block = in_order(block, ("sample", "image"), "log_weights")
    if hasattr(block, "detach"):  # a tensor that may need a gradient or lie on another device
        block = block.detach().cpu()
    array = np.asarray(block)
    if array.ndim != 2:
        raise UsageError(
            f"log_weights: expected (num_samples, images), came shape {array.shape}: "
            "for one image give w[:, None]"
        )
    if array.shape[0] == 0:
        raise UsageError(
            "log_weights: expected one sample or more an image, came none: raise num_samples"
        )
    if array.dtype.kind not in "fiu":
        raise UsageError(f"log_weights: expected floating-point numbers, came {array.dtype}")
    return array


def _refuse_non_finite(block: Array, first_image: int) -> None:
    # The maximum is NaN or +inf wherever any weight is, and -inf where all of them are.
    highest = block.max(axis=0)
    wrong = np.flatnonzero(~np.isfinite(highest))
    if not len(wrong):
        return
    image, others = wrong[0], f" (and {len(wrong) - 1} more images here)" if len(wrong) > 1 else ""
    weights, name = block[:, image], f"{first_image + image}{others}"
    if highest[image] == -np.inf:
        raise UsageError(
            f"log_weights: all {len(weights)} weights of image {name} are -inf: "
            "the model gives this image no probability; check its range against the likelihood's"
        )
    raise UsageError(
        f"log_weights: {int(np.isnan(weights).sum())} NaN and "
        f"{int(np.isposinf(weights).sum())} +inf among "
        f"the {len(weights)} weights of image {name}: log p or log q overflowed there; "
        "look at that image, or evaluate weights from before training went wrong"
    )


def _measure(log_w: Array, precision: float) -> _Measured:
    """All of one image, from its log weights (num_samples,), float64 and contiguous."""
    highest = float(log_w.max())
    weights = np.exp(log_w - highest)
    total = float(weights.sum())
    pareto_k, note = _pareto_k(log_w, precision)
    return _Measured(
        nll=-(highest + math.log(total / len(log_w))),
        elbo=float(log_w.mean()),
        ess=total**2 / float(np.square(weights).sum()),
        pareto_k=pareto_k,
        note=note,
    )


def _pareto_k(log_w: Array, precision: float) -> tuple[float, str]:
    """Pareto's k of the largest weights, or why there is none.

    arviz-stats (0.8 to 1.3 at least) fits the 3 sqrt(K) largest weights, below 226 samples the
    largest fifth, and wants the *negative* log weights. Where the exceedances of the tail over what
    lies below it are zero it divides by them and answers some small k, so those cases are told
    apart here.
    """
    num_samples = len(log_w)
    if num_samples < K_MIN_SAMPLES:
        return math.nan, f"unknown: {num_samples} samples are too few, give {K_MIN_SAMPLES} or more"
    size = math.floor(3 * math.sqrt(num_samples)) if num_samples > 225 else num_samples // 5
    tail = np.sort(log_w)[-size - 1 :]  # the cutoff, then the tail
    if tail[-1] - tail[1] <= 64 * precision * max(1.0, abs(tail[-1])):
        return math.nan, "not needed: the largest weights are equal up to rounding"
    weights = np.exp(tail - tail[-1])
    if weights[int(size / 4 + 0.5)] - weights[0] < np.finfo(np.float64).tiny:
        if weights[0] > 0:
            return math.nan, "unknown: ties among the largest weights"
        return math.inf, "inf: fewer weights than the tail holds differ from zero"
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        k = float(array_stats.psislw(-log_w)[1])
    if math.isfinite(k):
        return k, ""
    return math.inf, "inf: the weights span too many orders of magnitude to fit"


def _dataset(measured: list[_Measured], num_samples: int, num_dims: float | None) -> xr.Dataset:
    images = len(measured)
    values = {name: np.array([getattr(m, name) for m in measured]) for name in _ONE_IMAGE}
    scalars: dict[str, float | int] = {"num_samples": num_samples, "num_images": images}
    for name in ("nll", "elbo"):
        scalars[f"{name}_mean"] = float(values[name].mean())
        scalars[f"{name}_se"] = _standard_error(values[name])
    k = values["pareto_k"]
    scalars["pareto_k_bad"] = (
        float((k > K_BAD).mean()) if num_samples >= K_MIN_SAMPLES else math.nan
    )
    if num_dims is not None:
        scalars["bits_per_dim"] = scalars["nll_mean"] / (num_dims * math.log(2.0))
    result = xr.Dataset(
        {name: ("image", value) for name, value in values.items()} | scalars,
        coords={"image": ("image", np.arange(images), {"long_name": "position among the images"})},
        attrs={"bound": f"L_{num_samples}", "reference": "Burda et al. 2015, arXiv 1509.00519"},
    )
    for name, (units, long_name) in (_ONE_IMAGE | _SCALARS).items():
        if name in result:
            result[name].attrs.update(units=units, long_name=long_name)
    notes = Counter(m.note for m in measured if m.note)
    if notes:
        result["pareto_k"].attrs["note"] = "; ".join(
            f"{n} of {images} images {note}" for note, n in notes.items()
        )
    return result


def _standard_error(values: Array) -> float:
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1)) / math.sqrt(len(values))
