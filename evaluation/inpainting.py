r"""How well missing parts are filled in, and what simple fillings score beside it.

Images are (n, c, h, w) in [0, 1], known (n, 1, h, w) is true where a pixel is known, completions
are (count, n, c, h, w). PSNR is of the missing pixels alone, SSIM (Wang et al. 2004) of the whole
completed image; both are higher for better.
"""

from __future__ import annotations

__all__ = [
    "biharmonic_fill",
    "completion_scores",
    "mean_fill",
    "nearest_fill",
    "pixelwise_log_prob",
    "psnr",
    "ssim",
]

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

MAX_PSNR = 100.0  # dB, of a filling that is exact


def completion_scores(images: Array, known: Array, completions: Array) -> xr.Dataset:
    """Scores of each image's completions.

    Args:
        images: (n, c, h, w) in [0, 1], the originals.
        known: (n, 1, h, w), true or 1 where a pixel is known.
        completions: (count, n, c, h, w) in [0, 1].

    Returns:
        Dataset over "image": `psnr_mean` (dB) and `ssim_mean` of the completions' mean, `psnr_best`
        and `ssim_best` of the best one (known only with the original at hand: an upper end, no
        method), all higher for better, and `diversity`, the root mean square difference of two
        completions over missing pixels (grey values; 0 says that all are the same, NaN that there
        is one alone).

    Raises:
        UsageError: shapes that do not fit, or no completion.
    """
    images, known = _checked(images, known)
    if completions.ndim != 5 or completions.shape[1:] != images.shape or not len(completions):
        raise UsageError(
            f"completions: expected shape (count, {', '.join(map(str, images.shape))}), came "
            f"{completions.shape}"
        )
    middle = completions.mean(axis=0)
    by_draw = [[score(images, known, one) for one in completions] for score in (psnr, ssim)]
    found = {
        "psnr_mean": psnr(images, known, middle),
        "psnr_best": np.max(by_draw[0], axis=0),
        "ssim_mean": ssim(images, known, middle),
        "ssim_best": np.max(by_draw[1], axis=0),
        "diversity": _diversity(completions, known),
    }
    return xr.Dataset({name: ("image", value) for name, value in found.items()})


def psnr(images: Array, known: Array, filled: Array) -> Array:
    r"""Peak signal-to-noise ratio over the missing pixels, higher is better.

    .. math:: -10 \log_{10} \text{mean}_{i \text{ missing}} (x_i - \hat x_i)^2

    Args:
        images, known: as of `completion_scores`.
        filled: (n, c, h, w) in [0, 1].

    Returns:
        (n,), dB, 100 at most: an exact filling, or nothing missing.

    Raises:
        UsageError: shapes that do not fit.
    """
    images, known = _checked(images, known)
    missing = np.broadcast_to(~known, images.shape)
    squares = np.where(missing, np.square(images - filled), 0.0).sum(axis=(1, 2, 3))
    error = squares / np.maximum(missing.sum(axis=(1, 2, 3)), 1)
    return np.asarray(-10.0 * np.log10(np.maximum(error, 10 ** (-MAX_PSNR / 10))))


def ssim(images: Array, known: Array, filled: Array) -> Array:
    """Structural similarity of the completed images, higher is better, window of 7 pixels at most.

    Args:
        images, known: as of `completion_scores`.
        filled: (n, c, h, w) in [0, 1]; its known pixels are not looked at.

    Returns:
        (n,), 1 at most; NaN where a side is shorter than 3 pixels.

    Raises:
        UsageError: shapes that do not fit.
    """
    from skimage.metrics import structural_similarity

    images, known = _checked(images, known)
    side = min(*images.shape[2:], 7)
    window = side if side % 2 else side - 1
    if window < 3:
        return np.full(len(images), np.nan)
    filled = np.where(known, images, filled)
    return np.array(
        [
            structural_similarity(a, b, win_size=window, data_range=1.0, channel_axis=0)
            for a, b in zip(images.astype(np.float64), filled.astype(np.float64), strict=True)
        ]
    )


def pixelwise_log_prob(train_mean: Array, count: int, images: Array, known: Array) -> Array:
    """(n,): log p(missing) of binary images whose pixels are independent of each other, nats.

    Each pixel is Bernoulli with the training images' mean (c, h, w), moved by one success and one
    failure over its `count` images (Laplace's rule), so that no pixel is certain.
    """
    images, known = _checked(images, known)
    share = (train_mean * count + 1.0) / (count + 2.0)
    scored = images * np.log(share) + (1.0 - images) * np.log1p(-share)
    return np.asarray(np.where(known, 0.0, scored).sum(axis=(1, 2, 3)))


def mean_fill(train_mean: Array, images: Array, known: Array) -> Array:
    """Missing pixels as the training images' mean.

    Args:
        train_mean: (c, h, w) in [0, 1].
        images, known: as of `completion_scores`.

    Returns:
        (n, c, h, w), known pixels as they are.

    Raises:
        UsageError: shapes that do not fit.
    """
    images, known = _checked(images, known)
    return np.where(known, images, train_mean)


def nearest_fill(train: Array, images: Array, known: Array, *, block: int = 2048) -> Array:
    """Missing pixels of the training image that is nearest on the known pixels (Euclidean).

    `train`: (m, c, h, w) uint8, or floats in [0, 1]; read `block` images at a time.
    """
    images, known = _checked(images, known)
    every = np.broadcast_to(known, images.shape).reshape(len(images), -1).astype(np.float64)
    wanted = images.reshape(len(images), -1) * every
    scale = 255.0 if train.dtype == np.uint8 and train.max() > 1 else 1.0
    lowest = np.full(len(images), np.inf)
    index = np.zeros(len(images), dtype=np.int64)
    for start in range(0, len(train), block):
        rows = train[start : start + block].reshape(-1, wanted.shape[1]) / scale
        # |k (a - b)|^2 without |k a|^2, which changes nothing in the order
        squares = every @ np.square(rows).T - 2.0 * wanted @ rows.T
        best = squares.argmin(axis=1)
        value = squares[np.arange(len(images)), best]
        better = value < lowest
        lowest[better], index[better] = value[better], start + best[better]
    return np.where(known, images, train[index] / scale)


def biharmonic_fill(images: Array, known: Array) -> Array:
    """Missing pixels by the biharmonic equation from the known ones (Damelin & Hoang 2018).

    Args:
        images, known: as of `completion_scores`.

    Returns:
        (n, c, h, w), known pixels as they are, missing ones cut to [0, 1].

    Raises:
        UsageError: shapes that do not fit.
    """
    from skimage.restoration import inpaint_biharmonic

    images, known = _checked(images, known)
    filled = [
        inpaint_biharmonic(image.astype(np.float64), ~mask[0], channel_axis=0)
        for image, mask in zip(images, known, strict=True)
    ]
    return np.where(known, images, np.clip(filled, 0.0, 1.0))


def _diversity(completions: Array, known: Array) -> Array:
    """Root of twice the unbiased variance over draws, averaged over missing pixels."""
    if len(completions) < 2:
        return np.full(completions.shape[1], math.nan)
    missing = np.broadcast_to(~known, completions.shape[1:])
    variance = np.where(missing, completions.var(axis=0, ddof=1), 0.0).sum(axis=(1, 2, 3))
    return np.asarray(np.sqrt(2.0 * variance / np.maximum(missing.sum(axis=(1, 2, 3)), 1)))


def _checked(images: Array, known: Array) -> tuple[Array, Array]:
    if images.ndim != 4 or known.shape != (len(images), 1, *images.shape[2:]):
        raise UsageError(
            "known: expected images (n, c, h, w) and what is known of them (n, 1, h, w), came "
            f"{images.shape} and {known.shape}"
        )
    return images, known.astype(bool)
