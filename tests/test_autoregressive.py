"""Autoregressive maps: their order, their densities, their draws, and models made of them."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from zoo import PPLS, noisy, side

from ppl_vae.errors import UsageError


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    """JAX compiled in haste."""
    with side("numpyro").hasty():
        yield


@pytest.fixture(params=PPLS)
def pixels(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(f"{request.param}_pixels")


def test_order_and_reach(pixels: Any) -> None:
    """No output sees its own pixel or a later one; every earlier pixel within reach counts.

    With k layers of 3 × 3 kernels: k pixels to the left, and k + 1 rows above, in each k columns
    to either side.
    """
    k, size = 3, 9
    net = pixels.build(noisy, (2, size, size), 2, 8, k, 3)
    found = pixels.jacobian(net, np.random.default_rng(0).random((2, size, size)))
    seen = np.zeros_like(found, dtype=bool)
    for (i, j), (a, b) in itertools.product(np.ndindex(size, size), repeat=2):
        left = i == a and 0 < j - b <= k
        above = 0 < i - a <= k + 1 and abs(j - b) <= k
        seen[i * size + j, a * size + b] = left or above
    np.testing.assert_array_equal(found > 0, seen)


def test_no_blind_spot(pixels: Any) -> None:
    """With layers enough, all pixels before one have a say in it."""
    net = pixels.build(noisy, (1, 5, 6), 1, 16, 6, 3)
    found = pixels.jacobian(net, np.random.default_rng(1).random((1, 5, 6)))
    assert (found[np.tril_indices(30, -1)] > 0).all()
    assert not np.triu(found).any()


def test_densities_sum_to_one(pixels: Any) -> None:
    """Over all 2^9 images of 3 × 3 binary pixels, with features and without."""
    images = np.array(list(itertools.product([0.0, 1.0], repeat=9))).reshape(-1, 1, 3, 3)
    net = pixels.build(noisy, (1, 3, 3), 1, 4, 2, 3)
    assert np.exp(pixels.log_prob(net, images)).sum() == pytest.approx(1, abs=1e-12)
    net = pixels.build(noisy, (1, 3, 3), 1, 4, 2, 3, num_features=2)
    features = np.repeat(np.random.default_rng(0).standard_normal((1, 2, 3, 3)), 512, axis=0)
    assert np.exp(pixels.log_prob(net, images, features)).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("num_features", [0, 3])
def test_cached_draws_are_naive_draws(pixels: Any, num_features: int) -> None:
    net = pixels.build(noisy, (2, 4, 5), 2, 4, 3, 5, num_features=num_features)
    features = np.random.default_rng(0).standard_normal((3, num_features, 4, 5))
    given = features if num_features else None
    drawn = pixels.cached(net, 3, given, seed=1)
    np.testing.assert_array_equal(drawn, pixels.naive(net, 3, given, seed=1))
    assert 0 < drawn.mean() < 1


def test_both_agree() -> None:
    """Logits of one set of weights."""
    sides = [importlib.import_module(f"{ppl}_pixels") for ppl in PPLS]
    x = np.random.default_rng(0).random((3, 2, 4, 5))
    s = np.random.default_rng(1).standard_normal((3, 2, 4, 5))
    first, second = (
        one.outputs(one.build(noisy, (2, 4, 5), 3, 4, 3, 5, num_features=2), x, s) for one in sides
    )
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-12)


def test_bad_sizes(pixels: Any) -> None:
    with pytest.raises(UsageError, match="kernel_size: expected odd, at least 3, came 4"):
        pixels.build(noisy, (1, 4, 4), 1, kernel_size=4)
    with pytest.raises(UsageError, match="layers: expected at least 1, came 0"):
        pixels.build(noisy, (1, 4, 4), 1, layers=0)
