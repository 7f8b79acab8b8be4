"""What a representation looks like and what can be read off it: views, purity, a linear probe.

Codes are (images, units...), posterior means as a rule; every number of a convolutional site is a
unit. Labels are whole numbers, one an image. All of it is scikit-learn's.
"""

from __future__ import annotations

__all__ = ["linear_probe", "principal_components", "purity", "two_dimensional"]

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[Any]

VIEWS = ("pca", "tsne")


def principal_components(codes: Any, num_components: int = 2) -> xr.Dataset:
    """The codes along their directions of largest variance.

    Args:
        codes: (images, units...).
        num_components: how many directions; the rest of a smaller code is NaN.

    Returns:
        `scores`: (image, component), in the latent's unit; `directions`: (component, unit), unit
        length, their largest entry positive; `explained`: (component,), share of the variance.

    Raises:
        UsageError: fewer than two images, or codes that are not finite.
    """
    from sklearn.decomposition import PCA

    array = _codes(codes)
    kept = min(num_components, *array.shape)
    pca = PCA(kept, svd_solver="full").fit(array)
    sign = np.sign(pca.components_[np.arange(kept), np.abs(pca.components_).argmax(axis=1)])
    sign = np.where(sign == 0, 1.0, sign)
    scores = np.full((len(array), num_components), np.nan)
    scores[:, :kept] = pca.transform(array) * sign
    directions = np.full((num_components, array.shape[1]), np.nan)
    directions[:kept] = pca.components_ * sign[:, None]
    explained = np.zeros(num_components)
    explained[:kept] = np.nan_to_num(pca.explained_variance_ratio_)  # NaN where nothing varies
    return xr.Dataset(
        {
            "scores": (
                ("image", "component"), scores,
                {"units": "latent units", "long_name": "code along the component"},
            ),
            "directions": (("component", "unit"), directions, {"units": "1"}),
            "explained": (
                "component", explained,
                {"units": "1", "long_name": "share of the variance"},
            ),
        },
    )  # fmt: skip


def two_dimensional(codes: Any, view: str = "tsne", *, seed: int = 0) -> Array:
    """Codes in the plane: (images, 2).

    Args:
        codes: (images, units...).
        view: "pca", linear; or "tsne" (van der Maaten & Hinton 2008), which keeps neighbours and
            neither distances nor sizes of groups.
        seed: of t-SNE.

    Raises:
        UsageError: another view, fewer than two images (t-SNE: four), or codes that are not finite.
    """
    if view not in VIEWS:
        raise UsageError(f"view: expected one of {', '.join(VIEWS)}, came {view!r}")
    array = _codes(codes)
    if view == "pca" or array.shape[1] == 1:
        return np.nan_to_num(np.asarray(principal_components(array)["scores"].values))
    from sklearn.manifold import TSNE

    if len(array) < 4:
        raise UsageError(f"codes: t-SNE needs 4 images or more, came {len(array)}: give more")
    perplexity = min(30.0, (len(array) - 1) / 3)
    return np.asarray(
        TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(array)
    )


def purity(codes: Any, labels: Any, *, num_clusters: int | None = None, seed: int = 0) -> float:
    r"""Share of images whose label is the commonest of their k-means cluster, 0 to 1.

    .. math:: \frac1N \sum_k \max_c |\{n : \text{cluster}_n = k, \text{label}_n = c\}|

    (Manning, Raghavan & Schütze 2008, Introduction to Information Retrieval, section 16.3.) A code
    that tells nothing has about the share of the commonest label, more with many clusters.

    Args:
        codes: (images, units...), taken as they are: a unit counts by its variance.
        labels: (images,).
        num_clusters: of k-means; None for as many as there are labels.

    Raises:
        UsageError: more clusters than images, not one label for each image, fewer than two images,
            or codes that are not finite.
    """
    from sklearn.cluster import KMeans

    array = _codes(codes)
    known = _labels(labels, len(array))
    clusters = num_clusters or len(np.unique(known))
    if clusters > len(array):
        raise UsageError(f"num_clusters: expected at most {len(array)} images, came {clusters}")
    found = KMeans(clusters, n_init=10, random_state=seed).fit_predict(array)
    commonest = [
        np.unique(known[found == k], return_counts=True)[1].max() for k in np.unique(found)
    ]
    return float(np.sum(commonest) / len(known))


def linear_probe(train: Any, train_labels: Any, test: Any, test_labels: Any) -> float:
    """Share of test images whose label a linear classifier reads off their codes, 0 to 1.

    Logistic regression (L2 penalty, C = 1) on units scaled to the training codes' mean 0 and
    deviation 1: trained on the training codes alone.

    Args:
        train, test: (images, units...).
        train_labels, test_labels: (images,).

    Raises:
        UsageError: training labels of one class, not one label for each image, fewer than two
            images, or codes that are not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    seen, asked = _codes(train, "train"), _codes(test, "test")
    known = _labels(train_labels, len(seen), "train_labels")
    if len(np.unique(known)) < 2:
        raise UsageError("train_labels: expected two classes or more, came one: give more images")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(
        probe.fit(seen, known).score(asked, _labels(test_labels, len(asked), "test_labels"))
    )


def _codes(codes: Any, argument: str = "codes") -> Array:
    array = np.asarray(codes, dtype=np.float64)
    if array.ndim < 1 or len(array) < 2 or not np.isfinite(array).all():
        raise UsageError(
            f"{argument}: expected finite codes (images, units) of two images or more, "
            f"came shape {array.shape}"
        )
    return array.reshape(len(array), -1)


def _labels(labels: Any, count: int, argument: str = "labels") -> Array:
    if labels is None:
        raise UsageError(
            f"{argument}: expected one label an image, came none: the data set has no labels, so "
            "leave out what needs them, or give labels of your own"
        )
    array = np.asarray(labels)
    if array.shape != (count,):
        raise UsageError(
            f"{argument}: expected one label for each of {count} images, came shape {array.shape}"
        )
    return array
