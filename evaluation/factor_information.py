r"""Mutual information of units and factors, and the two scores read off it: MIG and modularity.

.. math:: I(z_i; v_k) = \sum_{b, v} p(b, v) \log \frac{p(b, v)}{p(b)\, p(v)}

over a histogram of the unit's values. Counting makes it positive for independent variables too, by
about (bins - 1)(values - 1) / (2 n) nats for n images: hence the chance levels of
`evaluation.disentanglement`, and a thousand images or more.
"""

from __future__ import annotations

__all__ = ["factor_entropy", "modularity", "mutual_information", "mutual_information_gap"]

from typing import Any

import numpy as np

from evaluation._factors import Array, Coded, coded
from ppl_vae.errors import UsageError

NUM_BINS = 20


def mutual_information(codes: Any, factors: Any, *, num_bins: int = NUM_BINS) -> Array:
    """I(z_i; v_k), nats, (units, factors).

    Args:
        codes: (images, units), posterior means.
        factors: (images, factors), true values or their positions on a grid.
        num_bins: bins of equal width over each unit's range, 20 as in Locatello et al. 2019. A unit
            with no more values than this, or than a factor has, is taken as it is.

    Raises:
        UsageError: see `evaluation.disentanglement`.

    >>> v = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> np.round(mutual_information(v, v) / np.log(2), 12).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    images = coded(codes, factors)
    return _information(images, num_bins)[images.position]


def factor_entropy(factors: Any) -> Array:
    """H(v_k), nats, (factors,)."""
    return np.array([_entropy(column) for column in np.asarray(factors).T])


def mutual_information_gap(codes: Any, factors: Any, *, num_bins: int = NUM_BINS) -> float:
    r"""How much more one unit knows of each factor than any other unit does.

    .. math::
        MIG = \frac1K \sum_k \frac{1}{H(v_k)} \Big( I(z_{j(k)}; v_k)
            - \max_{j \ne j(k)} I(z_j; v_k) \Big), \quad j(k) = \arg\max_j I(z_j; v_k)

    The paper integrates over q(z | x); here z is the code itself, the posterior mean, as Locatello
    et al. 2019 have it.

    Args:
        codes, factors, num_bins: see `mutual_information`.

    Returns:
        In [0, 1]; near 0 for noise.

    Reference: Chen, Li, Grosse & Duvenaud 2018, Isolating sources of disentanglement in
    variational autoencoders, section 4.1.
    """
    images = coded(codes, factors, units=2)
    ranked = np.sort(_information(images, num_bins), axis=0)
    return float(((ranked[-1] - ranked[-2]) / factor_entropy(images.classes)).mean())


def modularity(codes: Any, factors: Any, *, num_bins: int = NUM_BINS) -> float:
    r"""How far each unit knows of one factor only.

    With m_ik = I(z_i; v_k), its largest entry θ_i = max_k m_ik at k*, and K factors

    .. math:: 1 - \frac{1}{N} \sum_i \frac{\sum_{k \ne k^*} m_{ik}^2}{\theta_i^2 (K - 1)}

    over the N units that know anything at all (the others have no ideal to be compared with). A
    unit that knows one factor a little counts as much as one that knows it well, so a high value
    says nothing of how much the code holds.

    Args:
        codes, factors, num_bins: see `mutual_information`.

    Returns:
        In [0, 1]. Noise does not score 0: see the chance level of `evaluation.disentanglement`.

    Reference: Ridgeway & Mozer 2018, Learning deep disentangled embeddings with the F-statistic
    loss, section 2.
    """
    images = coded(codes, factors)
    known = _information(images, num_bins)
    known = known[images.codes.any(axis=0)]
    best = known.max(axis=1, initial=0.0)
    known, best = known[best > 0], best[best > 0]
    if not len(known):
        return 0.0
    others = (known**2).sum(axis=1) - best**2
    return float(1 - (others / (best**2 * (images.num_factors - 1))).mean())


def _information(images: Coded, num_bins: int) -> Array:
    if num_bins < 2:
        raise UsageError(f"num_bins: expected at least 2, came {num_bins}")
    most = max(num_bins, *images.counts)
    units = [_binned(z, num_bins, most) for z in images.codes.T]
    return np.array([[_mutual(unit, v) for v in images.classes.T] for unit in units])


def _binned(z: Array, num_bins: int, most: int) -> Array:
    """(images,) number of each value's bin."""
    values, inverse = np.unique(z, return_inverse=True)
    if len(values) <= most:
        return inverse
    edges = np.linspace(values[0], values[-1], num_bins + 1)[1:-1]
    return np.searchsorted(edges, z, side="right")


def _mutual(a: Array, b: Array) -> float:
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    # Rounding may leave a hair below 0 where the two are independent.
    return max(0.0, float((joint[seen] * np.log(joint[seen] / apart[seen])).sum()))


def _entropy(classes: Array) -> float:
    _, counts = np.unique(classes, return_counts=True)
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum())
