"""Autoregressive maps: their order, their densities, their draws, and models made of them."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zoo import PPLS, noisy, room, side

from ppl_vae import evaluating
from ppl_vae.data import Images
from ppl_vae.errors import UsageError
from ppl_vae.judging import Subject


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
    fed_back = pixels.fed_back(net, 3, given)  # so a whole pass over them gives them again
    np.testing.assert_allclose(pixels.outputs(net, fed_back, given), fed_back, rtol=0, atol=1e-5)
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
    first, second = (
        one.outputs(one.transformer(noisy, (2, 4, 5), 3, 8, 2, num_features=2), x, s)
        for one in sides
    )
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-12)


def test_a_transformer_is_autoregressive(pixels: Any) -> None:
    """All pixels before one, and no others, have a say in it; probabilities sum to one; kept keys
    and values draw what whole passes draw."""
    net = pixels.transformer(noisy, (1, 3, 3), 1, 8, 2, num_features=2)
    features = np.random.default_rng(0).standard_normal((1, 2, 3, 3))
    bare = pixels.transformer(noisy, (1, 3, 3), 1, 8, 2)
    found = pixels.jacobian(bare, np.random.default_rng(1).random((1, 3, 3)))
    np.testing.assert_array_equal(found > 0, np.tri(9, k=-1, dtype=bool))
    images = np.array(list(itertools.product([0.0, 1.0], repeat=9))).reshape(-1, 1, 3, 3)
    many = np.repeat(features, len(images), axis=0)
    assert np.exp(pixels.log_prob(net, images, many)).sum() == pytest.approx(1, abs=1e-12)
    drawn = pixels.cached(net, 4, many[:4], seed=1)
    np.testing.assert_array_equal(drawn, pixels.naive(net, 4, many[:4], seed=1))
    assert 0 < drawn.mean() < 1


def test_bad_sizes(pixels: Any) -> None:
    with pytest.raises(UsageError, match="channels: expected a multiple of 4 heads, came 6"):
        pixels.transformer(noisy, (1, 4, 4), 1, 6)
    with pytest.raises(UsageError, match="kernel_size: expected odd, at least 3, came 4"):
        pixels.build(noisy, (1, 4, 4), 1, kernel_size=4)
    with pytest.raises(UsageError, match="layers: expected at least 1, came 0"):
        pixels.build(noisy, (1, 4, 4), 1, layers=0)
    with pytest.raises(UsageError, match="channels: expected at least 1, came 0"):
        pixels.build(noisy, (1, 4, 4), 1, channels=0)


@pytest.mark.parametrize("ppl", PPLS)
def test_a_model_without_latents_is_exact(ppl: str) -> None:
    """PixelCNN: every importance weight is log p(x); fit, draws and terms take the pair."""
    models, guides = (importlib.import_module(f"{kind}.{ppl}") for kind in ("models", "guides"))
    arguments = {"channels": 4, "layers": 2, "kernel_size": 3}
    pair = side(ppl).build(models.PixelCNN, guides.NoLatentsGuide, (1, 4, 3), arguments, 0)
    x = (np.random.default_rng(0).random((8, 1, 4, 3)) > 0.5).astype(np.float32)
    history = room(ppl).fit(*pair, x, epochs=1, batch_size=4, progress=False).history
    assert np.isfinite(history["elbo"]).all()
    weights = np.asarray(room(ppl).log_weights(*pair, x, 3))
    exact = room(ppl).site_terms(*pair, x)["log_likelihood"]
    np.testing.assert_allclose(weights, np.broadcast_to(exact, (3, 8)), rtol=1e-5)
    assert room(ppl).site_terms(*pair, x)["kl"] == {}
    assert room(ppl).sample(pair[0], 2)["x"].shape == (2, 1, 4, 3)
    with pytest.raises(UsageError, match="NoLatentsGuide: expected a model without latents"):
        side(ppl).build(models.VAE, guides.NoLatentsGuide, (1, 4, 3), {"latent": 2}, 0)


@pytest.mark.parametrize("ppl", PPLS)
def test_one_sample_is_enough_without_latents(ppl: str, tmp_path: Path) -> None:
    models, guides = (importlib.import_module(f"{kind}.{ppl}") for kind in ("models", "guides"))
    arguments = {"channels": 4, "layers": 2, "kernel_size": 3}
    x = Images((np.arange(36) % 2).astype(np.uint8).reshape(3, 1, 4, 3), binarization="static")
    pair = side(ppl).build(models.PixelCNN, guides.NoLatentsGuide, (1, 4, 3), arguments, 0)
    assert evaluating._enough(Subject(*pair, ppl, x, tmp_path), 7) == 1
    pair = side(ppl).build(models.VAE, guides.MeanFieldGuide, (1, 4, 3), {"latent": 2}, 0)
    assert evaluating._enough(Subject(*pair, ppl, x, tmp_path), 7) == 7


def test_autoregressive_priors_agree() -> None:
    """log p(x, z) and log q of HierarchicalPixelVAE with one set of weights, float64."""
    arguments = {"latents": (2, 3), "hidden": (3, 4), "channels": 4, "layers": 2}
    x = (np.random.default_rng(0).random((3, 1, 16, 9)) > 0.5).astype(np.float64)
    pairs = {}
    with side("numpyro").precision("float64"):
        for ppl in PPLS:
            model = importlib.import_module(f"models.{ppl}").HierarchicalPixelVAE
            guide = importlib.import_module(f"guides.{ppl}").MeanFieldGuide
            pairs[ppl] = side(ppl).build(model, guide, (1, 16, 9), arguments, 0)
            side(ppl).double(*pairs[ppl])
            room(ppl).load_state(*pairs[ppl], noisy(room("pyro").state(*pairs["pyro"])))
            side(ppl).set_training(*pairs[ppl], False)
        assert dict(pairs["pyro"][1].sites) == {"z2": (3, 2, 2), "z1": (2, 4, 3)}
        expected, latents = side("pyro").densities(*pairs["pyro"], x)
        found, _ = side("numpyro").densities(*pairs["numpyro"], x, latents=latents)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)
