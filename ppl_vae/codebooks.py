"""What codebooks of both PPLs share: their checks, and the fixed grid."""

from __future__ import annotations

__all__ = [
    "EPSILON",
    "ROUNDS",
    "check_codebook",
    "check_codes",
    "check_label",
    "check_levels",
    "grid",
    "perplexity",
]

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl_vae.errors import UsageError, nearest

EPSILON = 1e-5  # added to every code's count
ROUNDS = 10  # of Lloyd's algorithm


def check_codebook(
    num_codes: int, dim: int, update: str, decay: float, start: str, restart: float
) -> None:
    """UsageError names the argument that cannot be."""
    for name, value, least in (("codes", num_codes, 2), ("code_dim", dim, 1)):
        if value < least:
            raise UsageError(f"{name}: expected at least {least}, came {value}")
    for name, text, known in (
        ("update", update, ("ema", "gradient")),
        ("start", start, ("kmeans", "random")),
    ):
        if text not in known:
            raise UsageError(f"{name}: unknown {text!r}: {nearest(text, known)}")
    for name, share in (("decay", decay), ("restart", restart)):
        if not 0 <= share < 1:
            raise UsageError(f"{name}: expected at least 0 and below 1, came {share}")


def check_levels(levels: Sequence[int]) -> None:
    """UsageError where a grid would have no levels to choose from."""
    if not levels or min(levels) < 2:
        raise UsageError(f"levels: expected one number of levels or more, each at least 2, "
                         f"came {list(levels)}")  # fmt: skip


def check_codes(indices: Any, num_codes: int, sides: Sequence[int]) -> None:
    """UsageError where `indices` (n, h, w) are not codes of such maps."""
    shape, expected = tuple(indices.shape), ", ".join(map(str, sides))
    if len(shape) != 3 or shape[1:] != tuple(sides):
        raise UsageError(f"codes: expected indices of shape (n, {expected}), came {shape}")
    low, high = (int(np.asarray(end)) for end in (indices.min(), indices.max()))
    if low < 0 or high >= num_codes:
        raise UsageError(
            f"codes: expected indices from 0 to {num_codes - 1}, came {low} to {high}: take those "
            "of the model's own codebook"
        )


def check_label(label: Any, num_labels: int, count: int) -> None:
    """UsageError where `label`, one or `count` of them, is none of a model's labels."""
    if not num_labels:
        raise UsageError(
            "label: expected none, for a model without priors for labels, "
            f"came {label}: learn them (ppl-vae prior RUN --set labels=true)"
        )
    given = np.asarray(label)
    if given.shape not in ((), (count,)) or given.min() < 0 or given.max() >= num_labels:
        raise UsageError(
            f"label: expected 0 to {num_labels - 1}, one or {count} of them, came {label}"
        )


def grid(levels: Sequence[int]) -> np.ndarray:
    """(K, len(levels)): every combination of evenly spaced levels in [-1, 1], last one fastest.

    >>> grid((2, 3)).tolist()
    [[-1.0, -1.0], [-1.0, 0.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    return np.array(list(itertools.product(*(np.linspace(-1, 1, n) for n in levels))))


def perplexity(counts: Any) -> Any:
    r"""exp of the entropy of each column's shares: counts (codes, …) to (…), of none 1.

    >>> float(perplexity(np.array([2.0, 1.0, 1.0, 0.0])))  # 2 ** 1.5
    2.82842712474619
    """
    shares = counts / np.maximum(counts.sum(axis=0), np.finfo(float).tiny)
    terms = -shares * np.log(np.where(shares > 0, shares, 1.0))
    return np.exp(terms.sum(axis=0))
