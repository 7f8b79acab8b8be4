r"""How the codes of discrete latents are used: counts, perplexity, and what blank patches leave.

.. math:: \mathrm{perplexity} = \exp\Big(-\sum_k \pi_k \log \pi_k\Big), \qquad
          \pi_k = \text{share of positions with code } k
"""

from __future__ import annotations

__all__ = ["code_usage"]

from typing import Any

import numpy as np
import xarray as xr

from ppl_vae.codebooks import perplexity
from ppl_vae.errors import UsageError


def code_usage(indices: Any, num_codes: int, images: Any = None) -> xr.Dataset:
    """Counts of each code over maps of codes, and their perplexity.

    Args:
        indices: (n, h, w) whole numbers from 0 to num_codes - 1.
        num_codes: K.
        images: (n, c, height, width) that the codes are of. Where a patch of them is blank (all
            of one value, the commonest blank one), a position can say no more than that, so the
            codes' perplexity stays below a ceiling: blanks under one code, all else evenly over
            the others. A position stands for the patch below it; nets see further, so that the
            ceiling is a yardstick, no bound.

    Returns:
        `count`: (code,); `used`: codes with any; `perplexity`; `position_perplexity`: (y, x), of
        each position over images; `ceiling` and `blank_share`, with images.

    >>> usage = code_usage(np.array([[[0, 1]], [[0, 1]]]), 4)
    >>> int(usage.used), float(usage.perplexity)
    (2, 2.0)
    """
    indices = np.asarray(indices)
    if indices.ndim != 3 or not indices.size:
        raise UsageError(f"indices: expected (n, h, w), came shape {indices.shape}")
    if num_codes < 1 or indices.min() < 0 or indices.max() >= num_codes:
        raise UsageError(
            f"indices: expected 0 to {num_codes - 1}, came {indices.min()} to {indices.max()}: "
            "give the codebook's own number of codes"
        )
    count = np.bincount(indices.reshape(-1).astype(np.int64), minlength=num_codes)
    by_position = np.stack([(indices == code).mean(0) for code in range(num_codes)])
    data: dict[str, Any] = {
        "count": ("code", count, {"units": "positions"}),
        "used": ((), int((count > 0).sum()), {"units": "codes"}),
        "perplexity": ((), perplexity(count), {"units": "codes"}),
        "position_perplexity": (("y", "x"), perplexity(by_position), {"units": "codes"}),
    }
    if images is not None:
        blank = _blank_share(np.asarray(images), indices.shape[1:])
        data["blank_share"] = ((), blank, {"units": "share of positions"})
        data["ceiling"] = ((), _ceiling(blank, num_codes), {"units": "codes"})
    return xr.Dataset(data, attrs={"num_codes": num_codes, "num_images": len(indices)})


def _blank_share(images: Any, sides: tuple[int, ...]) -> float:
    """Share of patches that are all of the commonest single value."""
    ends = [np.linspace(0, size, n + 1).round().astype(int)
            for size, n in zip(images.shape[-2:], sides, strict=True)]  # fmt: skip
    found: dict[float, int] = {}
    for top, bottom in zip(ends[0][:-1], ends[0][1:], strict=True):
        for left, right in zip(ends[1][:-1], ends[1][1:], strict=True):
            patch = images[:, :, top : max(bottom, top + 1), left : max(right, left + 1)]
            flat = patch.reshape(len(images), -1)
            for value in flat[(flat == flat[:, :1]).all(1), 0]:
                found[float(value)] = found.get(float(value), 0) + 1
    return max(found.values(), default=0) / (len(images) * sides[0] * sides[1])


def _ceiling(blank: float, num_codes: int) -> float:
    """Largest perplexity of K codes one of which has at least the share `blank`."""
    if blank <= 1 / num_codes:
        return float(num_codes)
    rest = np.full(num_codes - 1, (1 - blank) / max(num_codes - 1, 1))
    return float(perplexity(np.concatenate([[blank], rest])))
