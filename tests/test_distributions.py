"""Distributions, divergences and schedules against closed forms and enumeration, both PPLs."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest

from ppl_vae import schedules
from ppl_vae.errors import UsageError
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

LOCS = np.array([-0.3, 0.0, 0.2, 0.501, 1.0, 1.4])
SCALES = np.array([1e-3, 0.01, 0.1, 1.0])


def float64(ppl: str) -> AbstractContextManager[Any]:
    if ppl == "pyro":
        return nullcontext()
    import jax

    return jax.enable_x64(True)


def array(ppl: str, value: Any) -> Any:
    if ppl == "pyro":
        import torch

        return torch.as_tensor(np.asarray(value, dtype=np.float64))
    import jax.numpy as jnp

    return jnp.asarray(value, jnp.float64)


def draw(ppl: str, fn: Any) -> np.ndarray:
    """One draw at a fixed seed."""
    if ppl == "pyro":
        import torch

        torch.manual_seed(0)
        return np.asarray(fn.sample())
    import jax

    return np.asarray(fn.sample(jax.random.key(0)))


def logistic(ppl: str, num_levels: int) -> Any:
    """Distributions of batch shape (locs, scales)."""
    kind = importlib.import_module(f"ppl_vae.{ppl}").DiscretizedLogistic
    return kind(array(ppl, LOCS[:, None]), array(ppl, SCALES), num_levels)


@pytest.mark.parametrize("num_levels", [2, 32, 256])
def test_discretized_logistic_is_a_distribution_with_its_mean(ppl: str, num_levels: int) -> None:
    levels = np.arange(num_levels) / (num_levels - 1)
    with float64(ppl):
        fn = logistic(ppl, num_levels)
        log_prob = np.stack(
            [np.asarray(fn.log_prob(array(ppl, np.full((6, 4), x)))) for x in levels]
        )
        mean = np.asarray(fn.mean)
    np.testing.assert_allclose(np.exp(log_prob).sum(0), 1.0, rtol=1e-9)
    np.testing.assert_allclose((levels[:, None, None] * np.exp(log_prob)).sum(0), mean, atol=1e-9)


def test_discretized_logistic_against_the_difference_of_two_cdfs(ppl: str) -> None:
    """Inside the range, at a width where the difference loses no digits."""
    loc, scale, x = 0.4, 0.05, 100 / 255

    def cdf(v: float) -> float:
        return float(1 / (1 + np.exp(-(v - loc) / scale)))

    with float64(ppl):
        kind = importlib.import_module(f"ppl_vae.{ppl}").DiscretizedLogistic
        found = float(kind(array(ppl, loc), array(ppl, scale)).log_prob(array(ppl, x)))
    assert found == pytest.approx(np.log(cdf(x + 1 / 510) - cdf(x - 1 / 510)), rel=1e-9)


def test_discretized_logistic_has_finite_gradients_everywhere(ppl: str) -> None:
    """At 0 and 255, far from the mean, at narrow scales, in float32."""
    kind = importlib.import_module(f"ppl_vae.{ppl}").DiscretizedLogistic
    locs, log_scales, x = np.meshgrid([-3.0, 0.0, 0.5, 4.0], [-6.0, -2.0, 3.0], [0.0, 0.5, 1.0])
    parts = [a.astype(np.float32) for a in (locs, log_scales, np.round(x * 255) / 255)]
    if ppl == "pyro":
        import torch

        loc, log_scale, value = (torch.as_tensor(a) for a in parts)
        loc.requires_grad_()
        log_scale.requires_grad_()
        kind(loc, log_scale.exp()).log_prob(value).sum().backward()
        gradients = [loc.grad.numpy(), log_scale.grad.numpy()]  # type: ignore[union-attr]
    else:
        import jax

        def total(loc: Any, log_scale: Any) -> Any:
            return kind(loc, jax.numpy.exp(log_scale)).log_prob(parts[2]).sum()

        gradients = [np.asarray(g) for g in jax.grad(total, (0, 1))(*parts[:2])]
    assert all(np.isfinite(g).all() for g in gradients)


def test_draws_of_the_discretized_logistic_have_its_mean(ppl: str) -> None:
    kind = importlib.import_module(f"ppl_vae.{ppl}").DiscretizedLogistic
    n = 40_000
    if ppl == "pyro":
        import torch

        torch.manual_seed(0)
        fn = kind(torch.tensor(0.3), torch.tensor(0.2))
        x = fn.sample((n,)).numpy()
    else:
        import jax

        fn = kind(0.3, 0.2)
        x = np.asarray(fn.sample(jax.random.key(0), (n,)))
    assert set(np.round(x * 255, 3) % 1) == {0.0}
    assert abs(x.mean() - float(fn.mean)) < 4 * x.std() / np.sqrt(n)


@pytest.mark.parametrize("num_levels", [2, 256])
def test_categorical_levels(ppl: str, num_levels: int) -> None:
    """Log softmax of the logits, the levels' mean, draws that are levels and have that mean."""
    logits = np.random.default_rng(0).standard_normal((2, 3, num_levels))
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    levels = np.arange(num_levels) / (num_levels - 1)
    with float64(ppl):
        room = importlib.import_module(f"ppl_vae.{ppl}")
        fn = room.CategoricalLevels(array(ppl, logits))
        found = [np.asarray(fn.log_prob(array(ppl, np.full((2, 3), x)))) for x in levels]
        mean = np.asarray(fn.mean)
        likelihood = room.Likelihood("categorical", num_levels=num_levels)
        assert likelihood.num_outputs(3) == 3 * num_levels
        by_colour = logits.reshape(2, 3 * num_levels, 1, 1)
        image = np.zeros((2, 3, 1, 1))
        of_image = np.asarray(likelihood(array(ppl, by_colour)).log_prob(array(ppl, image)))
        drawn = draw(ppl, likelihood(array(ppl, np.tile(by_colour, (500, 1, 1, 1)))))
    np.testing.assert_allclose(np.stack(found, -1), expected, rtol=1e-9)
    np.testing.assert_allclose(mean, (np.exp(expected) * levels).sum(-1), rtol=1e-9)
    np.testing.assert_allclose(of_image, expected[..., 0].sum(-1), rtol=1e-9)
    np.testing.assert_allclose(drawn * (num_levels - 1), np.round(drawn * (num_levels - 1)))
    error = 0.5 / np.sqrt(500)  # at most, of a mean of values in [0, 1]
    assert (np.abs(drawn.reshape(500, 2, 3).mean(0) - mean) < 5 * error).all()


def test_closed_form_divergence_equals_its_monte_carlo_estimate(ppl: str) -> None:
    """Per site of a ladder: mean of log q - log p over many draws, within four standard errors."""
    import train_tiny

    from ppl_vae.recipes import Recipe

    room = importlib.import_module(f"ppl_vae.{ppl}")
    # One layer, so that the closed form has nothing left to average over.
    model = {"class_path": "VAE", "init_args": {"latent": 3, "hidden": [8]}}
    guide = {"class_path": "MeanFieldGuide"}
    pair = room.build(
        Recipe.from_dict({**train_tiny.RECIPE, "model": model, "guide": guide}), (1, 8, 8)
    )
    x = np.random.default_rng(0).integers(0, 2, (1, 1, 8, 8)).astype(np.float32)
    many = np.repeat(x, 20_000, axis=0)
    closed = room.site_terms(*pair, many[:1])["kl"]["z1"][0]
    terms = room.site_terms(*pair, many, seed=1)
    weights = np.asarray(room.log_weights(*pair, many, 1, seed=1))[0]
    assert closed == pytest.approx(terms["kl"]["z1"][-1], rel=1e-5)
    # log w = log p(x | z) - (log q - log p): independent draws, so compare the means.
    sampled = terms["log_likelihood"].mean() - weights.mean()
    error = np.hypot(terms["log_likelihood"].std(), weights.std()) / np.sqrt(len(many))
    assert abs(sampled - closed) < 4 * error


def test_free_bits_and_weights_in_the_loss(ppl: str) -> None:
    """kl means (0.1, 2), log likelihood -50: loss = 50 + w (max(λ, 0.1) + max(λ, 2))."""
    objective_module = importlib.import_module(f"ppl_vae.{ppl}.objective")
    with float64(ppl):
        kl = {"z1": array(ppl, 0.1), "z2": array(ppl, 2.0)}
        means = objective_module.Means(array(ppl, -50.0), kl)
        for bits, weight, expected in ((0.0, 1.0, 52.1), (0.5, 1.0, 52.5), (3.0, 0.5, 53.0)):
            objective = objective_module.Objective(ObjectiveSettings(free_bits=bits))
            assert float(objective.loss_of(means, weight)) == pytest.approx(expected)


def test_kl_weight_waits_then_rises() -> None:
    settings = ObjectiveSettings(beta=4.0, warmup_epochs=2, delay_epochs=1)
    weights = schedules.kl_weight(np.arange(0, 50, 5), settings, 10, 4.0)
    np.testing.assert_allclose(weights, [0, 0, 0, 1, 2, 3, 4, 4, 4, 4])


def test_normalised_beta() -> None:
    """beta_norm = beta M / N."""
    beta = ObjectiveSettings(beta_norm=0.01).full_weight(num_data_dims=4096, num_latent_dims=10)
    assert beta * 10 / 4096 == pytest.approx(0.01)


def test_burdas_schedule_has_its_stages() -> None:
    """3^i passes at 1e-3 · 10^(-i/7), 3280 passes in all."""
    settings = TrainingSettings(schedule="burda", learning_rate=1e-3)
    rates = schedules.learning_rate(np.arange(3280), settings, 1)
    stages = [np.isclose(rates, 1e-3 * 10 ** (-i / 7)).sum() for i in range(8)]
    assert stages == [3**i for i in range(8)]


def test_learning_rate_warms_up_and_decays() -> None:
    settings = TrainingSettings(
        schedule="cosine",
        learning_rate=2.0,
        decay_epochs=10,
        lr_warmup_epochs=1,
        final_fraction=0.1,
    )
    rates = schedules.learning_rate(np.array([0, 1, 3, 20, 40, 80]), settings, 4)
    half, end = 2.0 * 0.55, 0.2
    np.testing.assert_allclose(rates[0], 0.5)
    np.testing.assert_allclose(rates[3:], [half, end, end])


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": -1},
        {"optimizer": "sgd"},
        {"ema": 1.5},
        {"patience": 0.5},
        {"threads": 0.5},
        {"schedule": "cosine"},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"training.{'decay' if 'schedule' in wrong else ''}"):
        TrainingSettings(**wrong)
