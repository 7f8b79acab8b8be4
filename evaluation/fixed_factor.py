r"""Two metrics that hold one factor fixed and ask which: of Higgins et al. and of Kim & Mnih.

Both draw images that share the value of one factor y, chosen uniformly, whose other factors vary
freely, and reduce their codes to numbers from which a simple classifier must tell y. Images are
drawn, with replacement, from those given: those with the value of y that a random image has.
"""

from __future__ import annotations

__all__ = ["factor_vae_score", "higgins_score"]

from typing import Any

import numpy as np

from evaluation._factors import Array, Coded, coded, groups, members
from ppl_vae.errors import UsageError

_ROWS = 500_000  # codes looked up at once


def higgins_score(
    codes: Any,
    factors: Any,
    *,
    num_pairs: int = 64,
    num_train: int = 10_000,
    num_test: int = 5_000,
    seed: int = 0,
) -> float:
    r"""Accuracy of a linear classifier that tells which factor pairs of images share.

    A point is the average over L pairs that share factor y and differ freely in all others,

    .. math:: z_\text{diff} = \frac1L \sum_{l=1}^L |\mu(x_{1,l}) - \mu(x_{2,l})|

    and a linear softmax classifier p(y | z_diff), which cannot undo an entangled code by itself, is
    trained on such points and judged on fresh ones. Unlike in the paper each unit of z_diff is
    brought to deviation 1 first, so that the unit's scale does not matter, and all scores are kept:
    the paper discards the lower half of its thirty.

    Args:
        codes: (images, units), posterior means.
        factors: (images, factors), true values or their positions on a grid.
        num_pairs: L; 64 as in Locatello et al. 2019.
        num_train, num_test: points to train and to judge the classifier with, likewise.
        seed: of the draws.

    Returns:
        Share of fresh points told right, in [0, 1]; chance is one over the number of factors.

    Raises:
        UsageError: see `evaluation.disentanglement`.

    Reference: Higgins et al. 2017, beta-VAE: Learning basic visual concepts with a constrained
    variational framework, section 3 and appendix A.4.
    """
    _positive(num_pairs=num_pairs, num_train=num_train, num_test=num_test)
    images = coded(codes, factors)
    rng = np.random.default_rng(seed)
    train = _differences(images, num_train, num_pairs, rng)
    test = _differences(images, num_test, num_pairs, rng)
    return _linear_accuracy(*train, *test)


def factor_vae_score(
    codes: Any,
    factors: Any,
    *,
    num_images: int = 64,
    num_train: int = 800,
    num_test: int = 800,
    seed: int = 0,
) -> float:
    r"""Accuracy of a majority vote from the unit that varies least to the factor that is fixed.

    Of a batch of images that share factor y, the vote is for the unit

    .. math:: d = \arg\min_i \mathrm{Var}_\text{batch}(z_i) / \mathrm{Var}(z_i)

    and the classifier tells the factor that a unit was most often voted for. Units that never vary
    take no part. Where the paper judges the votes that it learns from, this takes fresh ones, so
    that noise scores chance.

    Args:
        codes, factors, seed: see `higgins_score`.
        num_images: in a batch; 64 as in Locatello et al. 2019.
        num_train: votes to learn from; 800 as in the paper.
        num_test: fresh votes to judge.

    Returns:
        Share of fresh votes told right, in [0, 1]; chance is one over the number of factors, and
        what a code without any unit that varies scores.

    Reference: Kim & Mnih 2018, Disentangling by factorising, section 4.
    """
    _positive(num_images=num_images - 1, num_train=num_train, num_test=num_test)
    images = coded(codes, factors)
    if not images.codes.any():
        return 1 / images.num_factors
    rng = np.random.default_rng(seed)
    unit, factor = _votes(images, num_train, num_images, rng)
    counts = np.zeros((images.codes.shape[1], images.num_factors))
    np.add.at(counts, (unit, factor), 1)
    unit, factor = _votes(images, num_test, num_images, rng)
    return float((counts.argmax(axis=1)[unit] == factor).mean())


def _differences(
    images: Coded, num: int, num_pairs: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """(points, units) averaged absolute differences, (points,) factor that the pairs share."""
    y = rng.integers(images.num_factors, size=num)
    points = np.empty((num, images.codes.shape[1]))
    block = max(1, _ROWS // (num_pairs * images.codes.shape[1]))
    for factor in range(images.num_factors):
        (rows,) = np.nonzero(y == factor)
        classes = images.classes[:, factor]
        grouped = groups(classes)
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            first = rng.integers(images.num_images, size=len(some) * num_pairs)
            second = members(rng, grouped, classes[first], 1)[:, 0]
            apart = np.abs(images.codes[first] - images.codes[second])
            points[some] = apart.reshape(len(some), num_pairs, -1).mean(axis=1)
    return points, y


def _linear_accuracy(x: Array, y: Array, x_test: Array, y_test: Array) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(y)) < 2:
        raise UsageError(f"num_train: expected points of several factors, came {len(y)}: take more")
    # Nearly without penalty: separable points (a perfect code) are to be told apart.
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=1000))
    return float(classifier.fit(x, y).score(x_test, y_test))


def _votes(
    images: Coded, num: int, num_images: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """(votes,) unit of least normalised variance, (votes,) factor that was fixed."""
    y = rng.integers(images.num_factors, size=num)
    units = np.empty(num, np.int64)
    varies = images.codes.any(axis=0)
    block = max(1, _ROWS // (num_images * images.codes.shape[1]))
    for factor in range(images.num_factors):
        (rows,) = np.nonzero(y == factor)
        classes = images.classes[:, factor]
        grouped = groups(classes)
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            shared = classes[rng.integers(images.num_images, size=len(some))]
            batch = images.codes[members(rng, grouped, shared, num_images)]
            # Codes have variance 1 over all images, so this one is normalised.
            spread = np.where(varies, batch.var(axis=1), np.inf)
            units[some] = spread.argmin(axis=1)
    return units, y


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            least = 2 if name == "num_images" else 1
            came = number + least - 1
            raise UsageError(f"{name}: expected at least {least}, came {came}")
