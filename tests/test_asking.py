"""How a pair is asked: temperature, batch norm's three states, what is left as it was."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pytest
import train_tiny
from zoo import Case, images, side

from ppl_vae.annealing import AnnealingSettings
from ppl_vae.errors import UsageError
from ppl_vae.recipes import Recipe

X = np.random.default_rng(0).integers(0, 2, (60, 1, 8, 8)).astype(np.float32)


def room(ppl: str) -> Any:
    return importlib.import_module(f"ppl_vae.{ppl}")


@pytest.fixture(scope="module")
def trained() -> Any:
    """{ppl: a pair of some steps, whose running statistics are not yet those of the data}."""
    made: dict[str, Any] = {}

    def pair(ppl: str) -> Any:
        if ppl not in made:
            made[ppl] = room(ppl).build(Recipe.from_dict(train_tiny.RECIPE), (1, 8, 8))
            room(ppl).fit(*made[ppl], X, epochs=2, batch_size=30, progress=False)
        return made[ppl]

    return pair


def test_temperature_scales_the_top_prior(ppl: str, trained: Any) -> None:
    """z2 ~ N(0, t²), by the same draws."""
    model = trained(ppl)[0]
    warm = np.asarray(room(ppl).sample(model, 500, seed=1)["z2"])
    cool = np.asarray(room(ppl).sample(model, 500, seed=1, temperature=0.5)["z2"])
    np.testing.assert_allclose(cool, 0.5 * warm, rtol=1e-5, atol=1e-6)
    assert warm.std() == pytest.approx(1.0, abs=0.1)


def test_cold_samples_are_the_mean_path(ppl: str, trained: Any) -> None:
    """Near temperature 0 all draws are one image."""
    means = np.asarray(room(ppl).sample(trained(ppl)[0], 5, temperature=1e-6)["x_mean"])
    np.testing.assert_allclose(means, np.broadcast_to(means[:1], means.shape), atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_above_zero(ppl: str, trained: Any, temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature: expected above 0"):
        room(ppl).sample(trained(ppl)[0], 2, temperature=temperature)


def test_batch_norm_states_differ_and_leave_no_trace(ppl: str, trained: Any) -> None:
    pair = trained(ppl)
    before = room(ppl).state(*pair)
    first = {
        mode: room(ppl).posterior_moments(*pair, X, batch_norm=mode)["z2"][0]
        for mode in ("running", "batch", "recomputed")
    }
    after = room(ppl).state(*pair)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    again = room(ppl).posterior_moments(*pair, X)["z2"][0]
    np.testing.assert_array_equal(first["running"], again)
    assert not np.allclose(first["running"], first["batch"], atol=1e-3)
    # One batch holds all of X, so its statistics are the recomputed ones, but for the biased
    # and the unbiased variance (60 / 59).
    np.testing.assert_allclose(first["recomputed"], first["batch"], atol=0.05)


def test_batch_norm_of_samples_can_be_recomputed(ppl: str, trained: Any) -> None:
    model = trained(ppl)[0]
    draws = {
        mode: np.asarray(room(ppl).sample(model, 200, batch_norm=mode, temperature=0.7)["x_mean"])
        for mode in ("running", "batch", "recomputed")
    }
    assert all(np.isfinite(images).all() for images in draws.values())
    assert not np.allclose(draws["running"], draws["recomputed"])


def test_one_image_has_no_statistics_to_recompute(ppl: str, trained: Any) -> None:
    pair = trained(ppl)
    before = room(ppl).state(*pair)
    with pytest.raises(UsageError, match="recomputed needs two images or more, came 1: give more"):
        room(ppl).log_weights(*pair, X[:1], 2, batch_norm="recomputed")
    after = room(ppl).state(*pair)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_unknown_batch_norm_names_the_nearest(ppl: str, trained: Any) -> None:
    with pytest.raises(UsageError, match="did you mean 'running'"):
        room(ppl).log_weights(*trained(ppl), X, 1, batch_norm="runing")


@pytest.mark.parametrize("num_samples", [0, -3])
def test_no_samples_are_refused(ppl: str, trained: Any, num_samples: int) -> None:
    with pytest.raises(UsageError, match="num_samples: expected at least 1"):
        room(ppl).log_weights(*trained(ppl), X, num_samples)
    with pytest.raises(UsageError, match="num_samples: expected at least 1"):
        room(ppl).posterior_sample(*trained(ppl), X, num_samples)


def test_wrong_images_are_refused(ppl: str, trained: Any) -> None:
    with pytest.raises(UsageError, match=r"x: expected images of shape \(n, 1, 8, 8\)"):
        room(ppl).log_weights(*trained(ppl), X[:, :, :4], 2)


def test_seed_decides_the_draws(ppl: str, trained: Any) -> None:
    one, same, other = (
        np.asarray(room(ppl).log_weights(*trained(ppl), X, 2, seed=seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_shapes_of_what_is_asked(ppl: str, trained: Any) -> None:
    pair, programs = trained(ppl), room(ppl)
    draws = programs.posterior_sample(*pair, X[:7], 3)
    assert {name: draws[name].shape for name in ("z1", "z2", "x_mean")} == {
        "z1": (3, 7, 4), "z2": (3, 7, 2), "x_mean": (3, 7, 1, 8, 8),
    }  # fmt: skip
    assert programs.reconstruct(*pair, X[:1]).shape == (1, 1, 8, 8)
    terms = programs.site_terms(*pair, X[:7])
    assert terms["log_likelihood"].shape == terms["kl"]["z2"].shape == (7,)


def test_bound_is_the_mean_of_its_terms(ppl: str, trained: Any) -> None:
    """E log w = E log p(x | z) - Σ KL, whichever way the divergence is taken."""
    pair = trained(ppl)
    terms = room(ppl).site_terms(*pair, X)
    elbo = terms["log_likelihood"] - sum(terms["kl"].values())
    w = np.asarray(room(ppl).log_weights(*pair, X, 400))
    assert abs(elbo.mean() - w.mean()) < 6 * w.std() / np.sqrt(len(X))


@pytest.mark.parametrize("call", ["stream_log_weights", "stream_annealed_log_weights"])
def test_modes_between_blocks(ppl: str, call: str) -> None:
    """Whoever has a block finds the modules as they were, and the blocks do not depend on it."""
    pair, x = Case(ppl, "vae", "mean-field").build(batch_norm=True), images(n=5)
    chains = AnnealingSettings(
        num_temperatures=3, num_chains=2, num_leapfrogs=1, pilot_chains=2, pilot_temperatures=2
    )
    asked: Any = 2 if call == "stream_log_weights" else chains
    block = 3 if call == "stream_log_weights" else 6  # in NumPyro three images, then two
    found = []
    for training in (False, True):
        side(ppl).set_training(*pair, training)
        parts = []
        for part in getattr(room(ppl), call)(*pair, x, asked, block=block):
            assert side(ppl).is_training(*pair) == training
            parts.append(getattr(part, "forward", part))
        found.append(np.concatenate(parts, axis=1))
    assert found[0].shape == (2, 5)
    np.testing.assert_array_equal(*found)


def test_another_order_falls_back_and_says_so_once(ppl: str) -> None:
    recipe = {**train_tiny.RECIPE, "guide": {"class_path": "BottomUpGuide"}}
    pair = room(ppl).build(Recipe.from_dict(recipe), (1, 8, 8))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        room(ppl).fit(*pair, X, epochs=2, batch_size=30, progress=False)
    told = [
        str(w.message) for w in caught if "samples its sites in another order" in str(w.message)
    ]
    assert len(told) == 1
    # And the sampled divergence is what it then takes: ELBO and mean log weight agree.
    terms = room(ppl).site_terms(*pair, np.repeat(X, 20, axis=0))
    elbo = (terms["log_likelihood"] - sum(terms["kl"].values())).mean()
    w = np.asarray(room(ppl).log_weights(*pair, X, 100))
    assert elbo == pytest.approx(w.mean(), abs=6 * w.std() / np.sqrt(20 * len(X)))
