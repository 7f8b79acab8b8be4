"""Numbers that are known beforehand: closed forms, and sums over all there is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from conjugate import LINEAR, STAIRS
from scipy import stats
from scipy.special import expit, logsumexp
from zoo import X_SHAPE, Case, images, noisy, room, side

from ppl_vae import schedules
from ppl_vae.data.images import Images
from ppl_vae.errors import UsageError
from ppl_vae.memory import rows_within
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

DEVIATIONS = 5  # of an estimate from its truth, in standard errors of the estimate


@pytest.fixture
def double() -> Iterator[None]:
    """float64 in JAX as well."""
    with side("numpyro").precision("float64"):
        yield


def assert_estimates(draws: Any, truth: float) -> None:
    """The mean of independent draws is `truth`, as far as their spread lets one tell."""
    draws = np.asarray(draws, dtype=np.float64).ravel()
    error = draws.std(ddof=1) / np.sqrt(len(draws))
    assert abs(draws.mean() - truth) < DEVIATIONS * error, (draws.mean(), truth, error)


# Importance weights


@pytest.mark.usefixtures("double")
def test_one_draw_of_the_exact_posterior_gives_the_evidence(ppl: str) -> None:
    w = np.asarray(room(ppl).log_weights(*LINEAR.programs(ppl), LINEAR.x, 1))
    assert w.dtype == np.float64
    np.testing.assert_allclose(w, LINEAR.log_evidence[None], atol=1e-9)


@pytest.mark.usefixtures("double")
def test_the_bound_rises_to_the_evidence(ppl: str) -> None:
    """A guide of twice the deviation: L_1 is off by KL(q, p), L_K by Var(w) / 2K, and L_K rises.

    E[(w / p(x))²] = (c² / sqrt(2c² - 1))^M for c times the posterior's deviation in M dimensions.
    """
    widen, blocks = 2.0, 64
    w = room(ppl).log_weights(*LINEAR.programs(ppl, widen), LINEAR.x, 256 * blocks, block=40000)
    w = np.asarray(w) - LINEAR.log_evidence
    bound = {
        k: logsumexp(w.reshape(-1, k, 5), axis=1) - np.log(k) for k in (1, 4, 16, 64, 256)
    }  # each of disjoint blocks of the one stream
    assert_estimates(bound[1], -LINEAR.gap(widen))
    means = [values.mean() for values in bound.values()]
    assert means == sorted(means)
    variance = (widen**2 / np.sqrt(2 * widen**2 - 1)) ** LINEAR.num_latents - 1
    assert_estimates(bound[256], -variance / 512)
    assert_estimates(np.exp(w), 1.0)  # the weights themselves are unbiased


@pytest.mark.usefixtures("double")
def test_blocks_change_nothing_but_memory(ppl: str) -> None:
    """Every image is there once, in order; however few rows pass at once, the draws are the same.

    Of 225 images, more than the hundred that go at once: in all, by 7 images, by 1 of a sample.
    """
    x = np.concatenate([LINEAR.x] * 45)
    exact = np.asarray(room(ppl).log_weights(*LINEAR.programs(ppl), x, 3, block=7))
    np.testing.assert_allclose(exact, np.tile(LINEAR.log_evidence, (3, 45)), atol=1e-9)
    wide = LINEAR.programs(ppl, 2.0)
    blocks = list(room(ppl).stream_log_weights(*wide, x, 3))
    assert [part.shape for part in blocks] == [(3, 100), (3, 100), (3, 25)]
    whole = np.concatenate(blocks, axis=1)
    assert len(np.unique(whole)) == whole.size  # no draw is used twice
    for block in (21, 2):
        found = np.asarray(room(ppl).log_weights(*wide, x[:40], 3, block=block))
        few = np.asarray(room(ppl).log_weights(*wide, x[:40], 3))
        np.testing.assert_allclose(found, few, rtol=1e-12)


@pytest.mark.usefixtures("double")
def test_rows_are_those_that_free_memory_holds(ppl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to nothing free fewer rows pass at once, and the weights are what they were."""
    pair, x = LINEAR.programs(ppl, 2.0), LINEAR.x
    expected = np.asarray(room(ppl).log_weights(*pair, x, 12))
    weighing = import_module(f"ppl_vae.{ppl}.weighing")
    chosen = []

    def spied(free: int, bytes_a_row: float, most: int) -> int:
        chosen.append(rows_within(free, bytes_a_row, most))
        return chosen[-1]

    monkeypatch.setattr(weighing, "rows_within", spied)
    for free in (None, 4096):
        monkeypatch.setattr(f"ppl_vae.{ppl}.memory.host_free", lambda free=free: free)
        found = np.asarray(room(ppl).log_weights(*pair, x, 12))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    unbound, bound = chosen
    assert 1 <= bound < 60 <= unbound


def test_memory_of_a_pass_is_counted() -> None:
    """Of two layers without a slope: hidden and output stand at once, 4 bytes a number."""
    import torch

    from ppl_vae.pyro.memory import slope

    first, second = torch.nn.Linear(10, 500), torch.nn.Linear(500, 300)

    @torch.no_grad()
    def run(rows: int) -> None:
        hidden = first(torch.zeros(rows, 10))
        second(hidden)

    assert slope(run) == 4 * (500 + 300)


def test_nothing_is_held_between_blocks() -> None:
    """The caller's random stream, gradients and modes are its own while it has a block in hand."""
    import pyro
    import torch

    model, guide = Case("pyro", "hierarchy", "ladder").build()
    model.train()
    x = np.concatenate([images()] * 20)
    expected = np.asarray(room("pyro").log_weights(model, guide, x, 2, block=100))
    torch.manual_seed(1)
    own = torch.rand(3)
    torch.manual_seed(1)
    found, drawn = [], []
    for block in room("pyro").stream_log_weights(model, guide, x, 2, block=100):
        found.append(block)
        drawn.append(torch.rand(1))
        assert torch.is_grad_enabled()
        assert model.training
        assert pyro.settings.get("validate_distributions_pyro")
    assert len(found) > 1
    np.testing.assert_array_equal(torch.cat(drawn)[:2], own[:2])
    np.testing.assert_array_equal(np.concatenate(found, axis=1), expected)


def test_an_image_is_binarised_once_for_all_its_samples(ppl: str) -> None:
    """A model that ignores z under the prior: every weight is log p(x) of one and the same x."""
    model, guide = side(ppl).blind(logit=1.3)
    grey = Images(np.full((9, 1, 2, 2), 128, np.uint8), binarization="dynamic")
    w = np.asarray(room(ppl).log_weights(model, guide, grey, 12, block=9))
    np.testing.assert_allclose(w, np.tile(w[:1], (12, 1)), atol=1e-6)
    values = np.log(expit(1.3)) * np.arange(5) + np.log(expit(-1.3)) * np.arange(5)[::-1]
    assert len(np.unique(w[0].round(4))) > 1  # several of the five values there can be
    assert np.abs(w[0][:, None] - values).min(1).max() < 1e-5
    drawn = room(ppl).posterior_sample(model, guide, grey, 2)
    assert np.shape(drawn["z1"]) == (2, 9)


@pytest.mark.parametrize("total", [None, 100])
def test_a_plate_s_size_is_no_matter_of_an_image(ppl: str, total: int | None) -> None:
    """A guide of one's own with the exact posterior, in a plate that stands for 100 images."""
    model = side(ppl).chain(("z1",), total)
    x = np.array([-2.0, 0.3, 1.5], np.float32).reshape(3, 1, 1, 1)
    w = room(ppl).log_weights(model, side(ppl).posterior_of_one_step(model), x, 2)
    expected = np.tile(stats.norm(0, np.sqrt(2)).logpdf(x.ravel()), (2, 1))
    np.testing.assert_allclose(np.asarray(w), expected, rtol=1e-5)


# The objective


@pytest.mark.usefixtures("double")
def test_importance_weighted_objective(ppl: str) -> None:
    """k = 1 is the ELBO, and more samples are tighter: weights of known distribution."""
    widen, copies = 2.0, 1000
    programs = LINEAR.programs(ppl, widen)
    x = np.concatenate([LINEAR.x] * copies)
    found = {}
    for k in (1, 2, 8):
        loss = side(ppl).loss(*programs, x, num_samples=k)
        found[k] = -loss - LINEAR.log_evidence.mean()
        bounds = logsumexp(LINEAR.log_ratios(widen, (20 * copies, k)), axis=1) - np.log(k)
        error = bounds.std() / np.sqrt(5 * copies) + bounds.std() / np.sqrt(20 * copies)
        assert abs(found[k] - bounds.mean()) < DEVIATIONS * error, k
    assert found[1] < found[2] < found[8] < 0
    error = np.sqrt(0.5 * LINEAR.num_latents) * (widen**2 - 1) / np.sqrt(5 * copies)
    assert abs(found[1] + LINEAR.gap(widen)) < DEVIATIONS * error


def test_an_image_is_encoded_once_for_all_its_draws(
    ppl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L_3's loss is that of terms whose images were repeated before they were encoded."""
    model, guide = Case(ppl, "vae", "mean-field").build()
    x, k, seen, encode = images(), 3, [], type(guide).encode

    def watched(guide: Any, given: Any) -> Any:
        seen.append(len(given))
        return encode(guide, given)

    monkeypatch.setattr(type(guide), "encode", watched)
    found = side(ppl).loss(model, guide, x, num_samples=k)
    assert set(seen) == {len(x)}
    likelihood, kl = side(ppl).terms(model, guide, np.repeat(x, k, axis=0), analytic=False)
    log_w = (likelihood["x"] - kl["z1"]).reshape(-1, k)
    np.testing.assert_allclose(found, np.log(k) - logsumexp(log_w, axis=1).mean(), rtol=1e-5)


@pytest.mark.usefixtures("double")
def test_guides_from_the_data_up_get_sampled_divergences(ppl: str) -> None:
    """With the exact posterior each draw's bound is log p(x); a closed form by site is not."""
    programs = STAIRS.programs(ppl, up=True)
    objective = room(ppl).Objective()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = [side(ppl).terms(*programs, STAIRS.x, seed, objective) for seed in (0, 1, 2)]
    for likelihood, kl in found:
        total = likelihood["x"] - kl["z1"] - kl["z2"]
        np.testing.assert_allclose(total, STAIRS.log_evidence, atol=1e-9)
    (only,) = told  # once is enough
    assert "samples its sites in another order than the model" in str(only.message)


@pytest.mark.usefixtures("double")
def test_guides_from_the_top_down_get_closed_forms(ppl: str) -> None:
    """KL(N(x/3, 2/3), N(0, 1)) at the top, E KL(N((z2 + x)/2, 1/2), N(z2, 1)) below."""
    programs = STAIRS.programs(ppl, up=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        likelihood, kl = side(ppl).terms(*programs, np.concatenate([STAIRS.x] * 2000))
        _, exact = side(ppl).terms(*programs, np.concatenate([STAIRS.x] * 2000), analytic=False)
    x = np.tile(STAIRS.x.ravel(), 2000)
    np.testing.assert_allclose(kl["z2"], 0.5 * (2 / 3 + x**2 / 9 - 1 - np.log(2 / 3)), rtol=1e-12)
    assert_estimates((likelihood["x"] - kl["z1"] - kl["z2"])[0::3], STAIRS.log_evidence[0])
    # Given x, (x - z2) / 2 has mean x/3 and variance 1/6.
    expected = 0.5 * (0.5 + x[1] ** 2 / 9 + 1 / 6 - 1 - np.log(0.5))
    assert_estimates(kl["z1"][1::3], expected)
    total = likelihood["x"] - exact["z1"] - exact["z2"]
    np.testing.assert_allclose(total, np.tile(STAIRS.log_evidence, 2000), atol=1e-9)


@pytest.mark.parametrize("guide", ["mean-field", "ladder"])
def test_closed_divergences_are_what_is_sampled(ppl: str, guide: str) -> None:
    """Site by site, over draws for six images."""
    pair = Case(ppl, "hierarchy", guide).build()
    room(ppl).load_state(*pair, noisy(room(ppl).state(*pair)))
    side(ppl).set_training(*pair, False)
    x = np.concatenate([images()] * 500)
    _, closed = side(ppl).terms(*pair, x)
    _, sampled = side(ppl).terms(*pair, x, analytic=False)
    for site, kl in closed.items():
        assert (kl >= 0).all()
        assert sampled[site].std() > 0.1  # else there is nothing to tell apart
        assert_estimates(sampled[site] - kl, 0.0)


def test_one_site_has_no_order_to_get_wrong(ppl: str) -> None:
    """BottomUp over a single latent keeps the closed form, and nothing is said."""
    pair = Case(ppl, "vae", "bottom-up").build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (side(ppl).terms(*pair, images(), seed)[1]["z1"] for seed in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_loss_is_a_function_of_the_terms(ppl: str) -> None:
    """w · sum of max(free bits, mean KL) - log p(x | z); no gradient to sites that have them."""
    means = {"z1": 3.0, "z2": 0.25}
    for weight, free, expected in (
        (1.0, 0.0, 83.25), (0.5, 0.0, 81.625), (1.0, 1.0, 84.0), (2.0, 5.0, 100.0), (0.0, 1.0, 80.0)
    ):  # fmt: skip
        loss, slopes = side(ppl).loss_of(-80.0, means, weight, free_bits=free)
        assert loss == pytest.approx(expected, rel=1e-6)
        assert slopes == {site: weight * (kl > free) for site, kl in means.items()}


def test_free_bits_are_of_batch_means(ppl: str) -> None:
    """λ between the smallest and the mean divergence of a batch leaves the loss as it is."""
    pair = Case(ppl, "vae", "mean-field").build()
    room(ppl).load_state(*pair, noisy(room(ppl).state(*pair)))
    x = images()
    likelihood, kl = side(ppl).terms(*pair, x)
    assert kl["z1"].min() < 0.9 * kl["z1"].mean()
    for free in (0.9 * kl["z1"].mean(), 2 * kl["z1"].mean()):
        expected = max(free, kl["z1"].mean()) - likelihood["x"].mean()
        assert side(ppl).loss(*pair, x, free_bits=float(free)) == pytest.approx(expected, rel=1e-5)
    for beta in (0.0, 4.0):  # 0 is the autoencoder
        expected = beta * kl["z1"].mean() - likelihood["x"].mean()
        assert side(ppl).loss(*pair, x, beta=beta) == pytest.approx(expected, rel=1e-5)


def test_a_latent_shared_by_all_images_has_no_weight_for_each(ppl: str) -> None:
    model, guide = side(ppl).shared()
    x = np.zeros((4, 1, 1, 1), np.float32)
    with pytest.raises(UsageError, match="site w is shared between images"):
        room(ppl).log_weights(model, guide, x, 2)
    with pytest.raises(UsageError, match="site w, which all images share"):
        side(ppl).loss(model, guide, x, num_samples=2)


def test_the_plain_mean_of_many_draws(ppl: str) -> None:
    """Unweighted, k draws of each image are the ELBO of a batch with each image k times."""
    pair, x = Case(ppl, "vae", "mean-field").build(), images()
    found = side(ppl).loss(*pair, x, num_samples=3, weighted=False, free_bits=0.1)
    expected = side(ppl).loss(*pair, np.repeat(x, 3, axis=0), free_bits=0.1)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found > side(ppl).loss(*pair, x, num_samples=3)  # L_3 is above, its loss below


# The discretised logistic

LEVELS = np.arange(256) / 255


@pytest.mark.usefixtures("double")
def test_discretized_logistic(ppl: str) -> None:
    """Probabilities by differences of sigmoids; they sum to one, and the mean is their mean."""
    loc, scale = (a.ravel() for a in np.meshgrid([-0.3, 0.0, 0.41, 1.0, 1.7], [0.003, 0.05, 2.0]))
    found = side(ppl).discretized_logistic(loc[:, None], scale[:, None], LEVELS)
    probability = np.exp(found["log_prob"])
    assert probability.shape == (15, 256)
    np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-10)
    edges = expit((np.arange(1, 256)[None] - 0.5 - 255 * loc[:, None]) / (255 * scale[:, None]))
    expected = np.diff(edges, axis=1, prepend=0, append=1)
    np.testing.assert_allclose(probability, expected, atol=1e-12)
    np.testing.assert_allclose(found["mean"][:, 0], probability @ LEVELS, rtol=1e-9)


@pytest.mark.parametrize("num_levels", [2, 5])
def test_discretized_logistic_of_few_levels(ppl: str, num_levels: int) -> None:
    """Draws lie on the levels, as often as their probability says."""
    levels = np.arange(num_levels) / (num_levels - 1)
    found = side(ppl).discretized_logistic(0.3, 0.2, levels, num_levels, draws=20000)
    probability = np.exp(found["log_prob"])
    np.testing.assert_allclose(probability.sum(), 1, rtol=1e-5)
    index = found["draws"] * (num_levels - 1)
    np.testing.assert_allclose(index, index.round(), atol=1e-5)
    for level in range(num_levels):
        assert_estimates(index.round() == level, probability[level])


def test_discretized_logistic_has_finite_gradients_everywhere(ppl: str) -> None:
    """float32, at black and white, however narrow the scale and however far the mean."""
    loc, scale = (
        a.ravel()[:, None].astype(np.float32)
        for a in np.meshgrid([-5.0, 0.0, 0.5, 1.0, 6.0], np.exp([-6.0, -2.0, 3.0]))
    )
    found = side(ppl).discretized_logistic(loc, scale, LEVELS[[0, 1, 128, 254, 255]])
    for name in ("log_prob", "slope_loc", "slope_scale"):
        assert np.isfinite(found[name]).all(), name
    assert (found["log_prob"] <= 0).all()
    assert (found["slope_loc"][:5] != 0).any()


# Schedules


def test_warm_up_after_a_delay() -> None:
    settings = ObjectiveSettings(warmup_epochs=4, delay_epochs=2)
    found = schedules.kl_weight(np.arange(100), settings, 10, full_weight=3.0)
    expected = [3.0 * min(max((step - 20) / 40, 0), 1) for step in range(100)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert schedules.kl_weight(np.arange(3), ObjectiveSettings(), 10, 3.0).tolist() == [3.0] * 3
    jump = schedules.kl_weight(np.arange(6), ObjectiveSettings(delay_epochs=2), 2, 1.0)
    assert jump.tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {0: 1, 500: 1}),
        ({"schedule": "linear", "decay_epochs": 10}, {0: 1, 50: 0.5, 75: 0.25, 100: 0, 200: 0}),
        (
            {"schedule": "linear", "decay_epochs": 10, "final_fraction": 0.2},
            {0: 1, 50: 0.6, 100: 0.2, 200: 0.2},
        ),
        (
            {"schedule": "cosine", "decay_epochs": 10, "final_fraction": 0.1},
            {0: 1, 50: 0.55, 25: 0.1 + 0.9 * (1 + 0.5**0.5) / 2, 100: 0.1, 500: 0.1},
        ),
        # 1, 3, 9, … passes at each rate
        (
            {"schedule": "burda"},
            {0: 1, 9: 1, 10: 10 ** (-1 / 7), 39: 10 ** (-1 / 7), 40: 10 ** (-2 / 7),
             130: 10 ** (-3 / 7), 10 * (3**7 - 1) // 2: 0.1, 10 * (3**8 - 1) // 2 + 5: 0.1},
        ),
        ({"lr_warmup_epochs": 2}, {0: 1 / 20, 9: 0.5, 19: 1, 20: 1, 99: 1}),
        (
            {"lr_warmup_epochs": 5, "schedule": "linear", "decay_epochs": 10},
            {24: 0.5 * 0.76, 49: 0.51, 50: 0.5},
        ),
    ],
)  # fmt: skip
def test_learning_rate(settings: dict[str, Any], expected: dict[int, float]) -> None:
    """At ten steps an epoch."""
    steps = np.array(list(expected))
    found = schedules.learning_rate(steps, TrainingSettings(learning_rate=0.3, **settings), 10)
    np.testing.assert_allclose(found, 0.3 * np.array(list(expected.values())), atol=1e-15)


def test_normalised_beta() -> None:
    """beta_norm = beta M / N (Higgins et al. 2017, section 4.2), in the place of beta."""
    settings = ObjectiveSettings(beta=7.0, beta_norm=0.5)
    assert settings.full_weight(num_data_dims=784, num_latent_dims=49) == 8.0
    assert ObjectiveSettings(beta=7.0).full_weight(784, 49) == 7.0


# Draws


def test_temperature_scales_every_latent_and_not_the_data(ppl: str) -> None:
    """z2 ~ N(0, 1), z1 ~ N(z2, 1), x ~ N(z1, 1): the same noise, t of it in z1 and z2."""
    model = side(ppl).chain(("z1", "z2"))

    def noise(temperature: float) -> list[Any]:
        drawn = room(ppl).sample(model, 50, temperature=temperature, seed=3)
        z1, z2, x, mean = (np.asarray(drawn[name]) for name in ("z1", "z2", "x", "x_mean"))
        np.testing.assert_allclose(mean.ravel(), z1, rtol=1e-6)
        return [z2, z1 - z2, x.ravel() - z1]

    warm, cool = noise(1.0), noise(0.25)
    for factor, one, other in zip((0.25, 0.25, 1.0), warm, cool, strict=True):
        assert one.std() > 0.5
        np.testing.assert_allclose(other, factor * one, atol=1e-5)
    with pytest.raises(UsageError, match="temperature: expected above 0 and finite, came 0"):
        room(ppl).sample(model, 1, temperature=0)


def test_what_batch_norm_uses_is_the_user_s_to_say(ppl: str) -> None:
    """A guide of one layer, by hand, under each of the three; nothing is left changed."""
    pair = Case(ppl, "vae", "mean-field").build(hidden=(5,), batch_norm=True)
    weights = noisy(room(ppl).state(*pair))
    room(ppl).load_state(*pair, weights)
    side(ppl).set_training(*pair, True)
    x, before = images(n=9), room(ppl).state(*pair)
    norm = {k.rpartition(".")[2]: v for k, v in weights.items() if "guide.tower.nets.0.norms" in k}
    h = x.reshape(9, -1) @ weights["guide.tower.nets.0.linears.0.weight"].T

    def loc(mean: Any, variance: Any) -> Any:
        h_normal = (h - mean) / np.sqrt(variance + 1e-5) * norm["weight"] + norm["bias"]
        head = weights["guide.heads.0.linear.weight"], weights["guide.heads.0.linear.bias"]
        return (np.tanh(h_normal) @ head[0].T + head[1])[:, :3]

    expected = {
        "running": loc(norm["running_mean"], norm["running_var"]),
        "batch": loc(h.mean(0), h.var(0)),
        # one pass is an average of one: torch's is unbiased, Flax's is not
        "recomputed": loc(h.mean(0), h.var(0, ddof=1 if ppl == "pyro" else 0)),
    }
    for mode, value in expected.items():
        found = room(ppl).posterior_moments(*pair, x, batch_norm=mode)["z1"][0]
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5, err_msg=mode)
    alone = room(ppl).posterior_moments(*pair, x[:2])["z1"][0]
    np.testing.assert_allclose(alone, expected["running"][:2], rtol=1e-4, atol=1e-5)
    after = room(ppl).state(*pair)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert side(ppl).is_training(*pair)
    with pytest.raises(UsageError, match=r"batch_norm: unknown 'bacth'.*did you mean 'batch'"):
        room(ppl).posterior_moments(*pair, x, batch_norm="bacth")


def test_recomputed_statistics_follow_the_temperature(ppl: str) -> None:
    """A decoder of one normalised layer undoes any scale of z, if its statistics are of that z."""
    model, _ = Case(ppl, "vae", "mean-field").build(hidden=(5,), batch_norm=True)
    weights = room(ppl).state(model, None)
    spread = {name: 20 * v if "linears" in name else v for name, v in noisy(weights).items()}
    room(ppl).load_state(model, None, spread)  # so wide that batch norm's ε of 1e-5 does not show

    def means(**how: Any) -> Any:
        drawn = room(ppl).sample(model, 7, seed=5, **how)["x_mean"]
        assert np.shape(drawn) == (7, *X_SHAPE)
        return np.asarray(drawn)

    warm, cool = (means(batch_norm="recomputed", temperature=t) for t in (1.0, 0.5))
    np.testing.assert_allclose(cool, warm, atol=1e-3)
    stored = [means(temperature=t) for t in (1.0, 0.5)]
    assert np.abs(stored[0] - stored[1]).max() > 0.1
    after = room(ppl).state(model, None)
    assert all(np.array_equal(after[name], spread[name].astype(np.float32)) for name in after)
