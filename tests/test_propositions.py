"""What depth can express: hierarchies that are another model, exactly (Child 2021, section 2)."""

from __future__ import annotations

import numpy as np
from zoo import room, side

N, D = 5, 6


def autoregressive(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weights, biases, all-binary rows): p(x_i = 1 | x_<i) = σ(b_i + Σ_j<i W_ij x_j)."""
    rng = np.random.default_rng(seed)
    weights = np.tril(2.0 * rng.standard_normal((D, D)), -1)
    x = (rng.random((N, D)) < 0.5).astype(np.float32)
    return weights.astype(np.float32), rng.standard_normal(D).astype(np.float32), x


def log_likelihood(weights: np.ndarray, biases: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(n,) nats, in float64 by numpy alone."""
    logits = x.astype(np.float64) @ weights.T.astype(np.float64) + biases
    return -np.logaddexp(0, np.where(x > 0, -logits, logits)).sum(1)


def test_a_deep_hierarchy_is_any_autoregressive_model(ppl: str) -> None:
    """Proposition 1: N layers, z_i = x_i under the posterior and x = z under the decoder.

    Then every bound is tight: the ELBO, and each importance weight by itself, is log p(x).
    """
    weights, biases, x = autoregressive()
    expected = log_likelihood(weights, biases, x)
    model, guide = side(ppl).copying(weights, biases)
    images = x.reshape(N, 1, 1, D)
    assert list(guide.sites) == [f"z{D - i}" for i in range(D)]  # the first pixel is the top
    found = room(ppl).site_terms(model, guide, images)
    elbo = np.asarray(found["log_likelihood"]) - sum(np.asarray(kl) for kl in found["kl"].values())
    np.testing.assert_allclose(elbo, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(found["log_likelihood"]), 0)
    log_weights = np.asarray(room(ppl).log_weights(model, guide, images, 3))
    np.testing.assert_allclose(log_weights, np.tile(expected, (3, 1)), rtol=1e-5, atol=1e-5)


def test_the_hierarchy_s_probabilities_sum_to_one(ppl: str) -> None:
    """Over all 2^N images: it is a distribution, and so the right one."""
    weights, biases, _ = autoregressive(1)
    every = np.array(list(np.ndindex(*[2] * D)), np.float32).reshape(-1, 1, 1, D)
    found = np.asarray(room(ppl).log_weights(*side(ppl).copying(weights, biases), every, 1))
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(), 1.0, rtol=1e-5)
