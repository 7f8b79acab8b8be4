"""Scores from fits of the factors to the units: DCI and SAP."""

from __future__ import annotations

__all__ = ["DCI", "dci", "sap_score"]

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from evaluation._factors import Array, categorical_flags, coded
from ppl_vae.errors import UsageError

DEPTHS = (2, 4, 8, 16)
NUM_TREES = 10
_LEAST = 20  # images that a fit, its choice of depth and its judgement can be cut from


class DCI(NamedTuple):
    """What `dci` gives.

    Attributes:
        disentanglement, completeness, informativeness: higher is better, 1 at best.
        importance: (units, factors), R, each column's sum 1 (or 0 where the fit uses no unit).
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Array


def dci(codes: Any, factors: Any, *, categorical: Collection[int] = (), seed: int = 0) -> DCI:
    r"""Disentanglement, completeness and informativeness from the importance of units for factors.

    Each factor is predicted from all units by a random forest (10 trees; depth 2, 4, 8 or 16, by
    the error on a fifth of the images): a regressor, or a classifier where the factor is
    categorical. R_ik is the share of unit i in the fall of impurity that predicts factor k.

    .. math::
        D &= \sum_i \rho_i \Big( 1 + \sum_k P_{ik} \log_K P_{ik} \Big), \quad
            P_{ik} = R_{ik} / \sum_{k'} R_{ik'}, \quad \rho_i = \sum_k R_{ik} / \sum_{jk} R_{jk} \\
        C &= \frac1K \sum_k \Big( 1 + \sum_i \tilde P_{ik} \log_D \tilde P_{ik} \Big), \quad
            \tilde P_{ik} = R_{ik} / \sum_{i'} R_{i'k}

    for D units and K factors. Informativeness is judged on another fifth of the images and averaged
    over factors. The paper gives the error of the prediction relative to that of the mean, NRMSE;
    this is 1 - NRMSE² (R²), and for a categorical factor likewise 1 - error / error of the
    commonest value: 1 for a perfect prediction, 0 for the best without the code, below 0 for worse.

    Args:
        codes: (images, units), posterior means.
        factors: (images, factors), true values or their positions on a grid; the fits see the
            positions.
        categorical: positions of the factors whose values have no order.
        seed: of the forests and of the cut into fifths.

    Returns:
        DCI: the three scores, higher is better, and R (units, factors).

    Raises:
        UsageError: see `evaluation.disentanglement`; fewer than 20 images.

    Reference: Eastwood & Williams 2018, A framework for the quantitative evaluation of
    disentangled representations, section 2.
    """
    images = coded(codes, factors, units=2)
    flags = categorical_flags(categorical, images.num_factors)
    if images.num_images < _LEAST:
        raise UsageError(f"dci: expected at least {_LEAST} images, came {images.num_images}")
    order = np.random.default_rng(seed).permutation(images.num_images)
    fifth = images.num_images // 5
    parts = (order[2 * fifth :], order[:fifth], order[fifth : 2 * fifth])
    found = [
        _predicted(images.codes, images.classes[:, k], parts, flags[k], seed)
        for k in range(images.num_factors)
    ]
    importance = np.stack([column for column, _ in found], axis=1)
    total = importance.sum()
    weight = importance.sum(axis=1) / total if total > 0 else 0.0
    return DCI(
        float((weight * _concentration(importance)).sum()),
        float(_concentration(importance.T).mean()),
        float(np.mean([quality for _, quality in found])),
        importance[images.position],
    )


def sap_score(codes: Any, factors: Any, *, categorical: Collection[int] = ()) -> float:
    r"""How much better the best single unit predicts each factor than the second best.

    .. math:: SAP = \frac1K \sum_k \big( S_{i_1 k} - S_{i_2 k} \big)

    S_ik is the squared correlation of unit i and factor k, Cov² / (Var Var); for a categorical
    factor of V values, the balanced accuracy of V - 1 thresholds on the unit. That accuracy is 1/V
    for a unit that knows nothing, so a categorical factor adds at most 1 - 1/V: the true factors
    themselves score 1 only where none is categorical.

    Args:
        codes, factors, categorical: see `dci`.

    Returns:
        In [0, 1]; near 0 for noise.

    Reference: Kumar, Sattigeri & Balakrishnan 2018, Variational inference of disentangled latent
    concepts from unlabeled observations, section 3.
    """
    images = coded(codes, factors, units=2)
    flags = categorical_flags(categorical, images.num_factors)
    gaps = []
    for k, is_categorical in enumerate(flags):
        score = _balanced_accuracy if is_categorical else _squared_correlation
        ranked = np.sort([score(unit, images.classes[:, k]) for unit in images.codes.T])
        gaps.append(ranked[-1] - ranked[-2])
    return float(np.mean(gaps))


def _predicted(
    codes: Array, v: Array, parts: tuple[Array, Array, Array], is_categorical: bool, seed: int
) -> tuple[Array, float]:
    """(units,) importance and quality of the best forest's prediction of one factor."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    train, choose, judge = parts
    kind = RandomForestClassifier if is_categorical else RandomForestRegressor
    forests = [
        kind(NUM_TREES, max_depth=depth, max_features=None, random_state=seed) for depth in DEPTHS
    ]

    def quality(forest: Any, part: Array) -> float:
        return _quality(v[part], forest.predict(codes[part]), v[train], is_categorical)

    # The shallower forest where two are equally good.
    best = max(
        (forest.fit(codes[train], v[train]) for forest in forests),
        key=lambda forest: quality(forest, choose),
    )
    return best.feature_importances_, quality(best, judge)


def _quality(v: Array, said: Array, seen: Array, is_categorical: bool) -> float:
    """1 - error / error of what can be said without the code."""
    if is_categorical:
        error, base = (v != said).mean(), (v != np.bincount(seen).argmax()).mean()
    else:
        error, base = ((v - said) ** 2).mean(), ((v - seen.mean()) ** 2).mean()
    if base == 0:
        return 1.0 if error == 0 else 0.0
    return float(1 - error / base)


def _concentration(importance: Array) -> Array:
    """1 - entropy of each row in units of its largest value; 0 for a row of zeros."""
    total = importance.sum(axis=1, keepdims=True)
    p = np.where(total > 0, importance / np.where(total > 0, total, 1.0), 1 / importance.shape[1])
    logs = np.log(np.where(p > 0, p, 1.0)) / np.log(importance.shape[1])
    return np.asarray(1 + (p * logs).sum(axis=1))


def _squared_correlation(unit: Array, v: Array) -> float:
    # Units have deviation 1, or are 0 throughout.
    return float(np.mean(unit * (v - v.mean())) ** 2 / v.var())


def _balanced_accuracy(unit: Array, v: Array) -> float:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    values = int(v.max()) + 1
    tree = DecisionTreeClassifier(max_leaf_nodes=values, class_weight="balanced", random_state=0)
    column = unit[:, None]
    return float(balanced_accuracy_score(v, tree.fit(column, v).predict(column)))
