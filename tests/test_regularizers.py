"""Penalties, balancing and NVAE's schedules against closed forms and exact decompositions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zoo import PPLS, Case, images, noisy, room, side, tools

from ppl_vae import schedules
from ppl_vae.errors import UsageError
from ppl_vae.runs import Run
from ppl_vae.settings import ObjectiveSettings, TrainingSettings


@pytest.fixture
def double() -> Iterator[None]:
    """float64 in JAX as well."""
    with side("numpyro").precision("float64"):
        yield


def estimate(ppl: str, w: Any, iterations: int) -> Any:
    """u^T W v of (k, R, C) from random vectors."""
    rng = np.random.default_rng(1)
    first = rng.normal(size=w.shape[:2]), rng.normal(size=(len(w), w.shape[2]))
    u, v = tools(ppl).iterated(w, *first, iterations)
    assert (np.linalg.norm(u, axis=1) <= 1 + 1e-12).all()
    return np.einsum("kr,krc,kc->k", u, w, v)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("shape", [(64, 144), (128, 128), (10, 300)])
def test_power_iterations_of_random_weights(ppl: str, shape: tuple[int, int]) -> None:
    """Never above the largest singular value; after 40, below it by less than 1 % in the median."""
    w = np.random.default_rng(0).normal(size=(40, *shape))
    largest = np.linalg.norm(w, 2, axis=(1, 2))
    for iterations in (1, 4, 40):
        found = estimate(ppl, w, iterations)
        assert (found <= largest * (1 + 1e-12)).all()
    assert np.median(1 - found / largest) < 0.01


@pytest.mark.usefixtures("double")
def test_power_iterations_are_exact_where_there_is_a_gap(ppl: str) -> None:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(3, 20, 20)))[0] for _ in range(2))
    values = np.array([7.0, *(2.0,) * 19])
    w = left * values @ right
    np.testing.assert_allclose(estimate(ppl, w, 40), 7.0, rtol=1e-9)
    assert estimate(ppl, np.zeros((1, 4, 3)), 4).tolist() == [0.0]


def pair_of(ppl: str, weights: Any = None, dtype: Any = None) -> Any:
    """Convolutions, batch norm and linear layers; weights away from their beginnings."""
    pair = Case(ppl, "hierarchy-conv", "ladder").build()
    if dtype:
        side(ppl).double(*pair)
    room(ppl).load_state(*pair, weights or noisy(room(ppl).state(*pair)))
    return pair


@pytest.mark.usefixtures("double")
def test_penalty_in_closed_form(ppl: str) -> None:
    """After many steps: λ Σ σ_max + λ' Σ max |γ|; slopes u vᵀ, and a sign at each largest γ."""
    pair = pair_of(ppl, dtype=np.float64)
    weights = room(ppl).state(*pair)
    convs = {name: w for name, w in weights.items() if w.ndim == 4}
    gains = {name: w for name, w in weights.items() if re.search(r"norms.*weight", name)}
    assert len(convs) == 3
    assert len(gains) == 4
    settings = {"spectral_weight": 0.3, "batch_norm_weight": 0.2}
    value, slopes, vectors = tools(ppl).penalty(*pair, 2.0, times=60, **settings)
    largest = sum(np.linalg.norm(w.reshape(len(w), -1), 2) for w in convs.values())
    expected = 0.3 * largest + 0.2 * sum(np.abs(gain).max() for gain in gains.values())
    assert value == pytest.approx(expected, rel=1e-6)
    assert slopes.keys() == convs.keys() | gains.keys()
    for name, w in convs.items():
        u, s, v = np.linalg.svd(w.reshape(len(w), -1))
        exact = 0.3 * np.outer(u[:, 0], v[0])
        np.testing.assert_allclose(slopes[name].reshape(exact.shape), exact, atol=1e-2 * 0.3)
        assert s[0] > 0
    for name, gain in gains.items():
        exact = 0.2 * np.sign(gain) * (np.abs(gain) == np.abs(gain).max())
        np.testing.assert_allclose(slopes[name], exact)
    assert {v.shape[0] for v in vectors.values()} <= {1, 2, 3, 4}


@pytest.mark.usefixtures("double")
def test_penalties_agree_between_the_ppls() -> None:
    weights = noisy(room("pyro").state(*Case("pyro", "hierarchy-conv", "ladder").build()))
    settings = {
        "spectral_weight": 0.3, "batch_norm_weight": 0.2, "spectral_layers": "all",
        "annealed_from": 1.0,
    }  # fmt: skip
    found = [
        tools(ppl).penalty(*pair_of(ppl, weights, np.float64), 0.5, times=2, **settings)
        for ppl in PPLS
    ]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-14, err_msg=name)


def test_annealed_weights() -> None:
    """Geometric from `annealed_from` to the weight; constant without."""
    settings = ObjectiveSettings(spectral_weight=0.01, annealed_from=1.0)
    shares = np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(settings.annealed(0.01, shares), [1.0, 0.1, 0.01])
    assert ObjectiveSettings(spectral_weight=0.01).annealed(0.01, 0.3) == 0.01


def fitted(ppl: str, pair: Any, run: Run | None = None, **settings: Any) -> Any:
    goal = ObjectiveSettings(**settings.pop("objective"))
    settings = {"epochs": 4, "batch_size": 3, "progress": False, **settings}
    return room(ppl).fit(*pair, images(), objective=goal, run=run, **settings)


def test_training_under_penalties(ppl: str, tmp_path: Path) -> None:
    """Weights grow less sharp; two epochs and two more are four, bit for bit, vectors and all."""
    weights = {"spectral_weight": 30.0, "batch_norm_weight": 30.0}
    objective = {**weights, "balance": True, "warmup_epochs": 3}
    whole, halves = (
        Run.create(tmp_path / name, {"training": {"seed": 0}}, ppl) for name in ("whole", "halves")
    )
    pair = Case(ppl, "hierarchy-conv", "ladder").build()
    before = tools(ppl).sharpness(*pair)
    gains = room(ppl).state(*pair)
    history = fitted(ppl, pair, whole, objective=objective, learning_rate=0.01).history
    after = tools(ppl).sharpness(*pair)
    assert len(before) == 3
    assert all(after[name] < before[name] for name in before)
    changed = room(ppl).state(*pair)
    scales = [name for name in gains if re.search(r"norms.*weight", name)]
    assert all(changed[name].max() < gains[name].max() for name in scales)
    assert (history["loss"] > -history["log_likelihood"] + 30 * len(scales) * 0.5).all()

    again = Case(ppl, "hierarchy-conv", "ladder").build()
    for epochs, resume in ((2, False), (4, True)):
        fitted(
            ppl, again, halves, objective=objective, learning_rate=0.01, epochs=epochs,
            resume=resume,
        )  # fmt: skip
    one, two = whole.restore(), halves.restore()
    assert one is not None
    assert two is not None
    assert sum("spectral" in name for name in one.files["optimizer"]) == 2 * len(
        {w.reshape(len(w), -1).shape for w in changed.values() if w.ndim == 4}
    )
    for file, arrays in one.files.items():
        for name, value in arrays.items():
            np.testing.assert_array_equal(two.files[file][name], value, err_msg=f"{file} {name}")


def test_penalties_without_anything_to_penalise(ppl: str) -> None:
    pair = Case(ppl, "vae", "mean-field").build()
    with pytest.raises(UsageError, match=r"spectral_weight.*no.*convolution.*spectral_layers"):
        fitted(ppl, pair, objective={"spectral_weight": 1.0})
    with pytest.raises(UsageError, match=r"batch_norm_weight.*batch_norm=True"):
        fitted(ppl, pair, objective={"batch_norm_weight": 1.0})


def test_balance_in_closed_form(ppl: str) -> None:
    """c = (E|KL| + 0.01) / α over its mean; α is area over sites of that area, least 1."""
    of_images = {"z4": [1.0, -3.0], "z3": [0.5, 0.5], "z2": [4.0, 0.0], "z1": [1.0, 1.0]}
    kl = {name: np.array(value) for name, value in of_images.items()}
    areas = {"z4": 4, "z3": 16, "z2": 16, "z1": 16}
    # α: 4 / 1 and 16 / 3, over 4: 1 and 4/3
    raw = np.array([2.01, 0.51 * 0.75, 2.01 * 0.75, 1.01 * 0.75])
    found = tools(ppl).balanced(kl, areas, 1.0)
    np.testing.assert_allclose(list(found.values()), raw / raw.mean(), rtol=1e-6)
    assert list(tools(ppl).balanced(kl, areas, 2.0).values()) == [1.0] * 4


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_balanced_loss(ppl: str, weight: float) -> None:
    """w Σ c KL - log p(x | z) while warming up, the plain loss afterwards."""
    pair, x = Case(ppl, "hierarchy", "ladder").build(), images()
    side(ppl).set_training(*pair, False)
    likelihood, kl = side(ppl).terms(*pair, x)
    means = np.array([part.mean() for part in kl.values()])
    raw = np.array([np.abs(part).mean() for part in kl.values()]) + 0.01
    share = raw / raw.mean() if weight < 1 else np.ones(3)
    expected = weight * (share * means).sum() - likelihood["x"].mean()
    found = tools(ppl).loss_at(*pair, x, weight, balance=True)
    assert found == pytest.approx(expected, rel=1e-5)


def test_warm_up_has_a_floor() -> None:
    settings = ObjectiveSettings(warmup_epochs=3, delay_epochs=1, warmup_floor=1e-2)
    found = schedules.kl_weight(np.array([0, 10, 11, 25, 40, 50]), settings, 10, 2.0)
    np.testing.assert_allclose(found, [0.02, 0.02, 2 / 30, 1.0, 2.0, 2.0])


def test_learning_rate_of_nvae() -> None:
    """Warm-up of 5 epochs, then a cosine by epochs to a hundredth, reached in the last."""
    settings = TrainingSettings(
        epochs=20, learning_rate=1e-2, lr_warmup_epochs=5, schedule="cosine", decay_epochs=14,
        decay_delay_epochs=5, decay_by_epoch=True, final_fraction=1e-2,
    )  # fmt: skip
    rates = schedules.learning_rate(np.arange(200), settings, 10).reshape(20, 10)
    np.testing.assert_allclose(rates[:5].ravel(), 1e-2 * np.arange(1, 51) / 50)
    cosine = 1e-4 + 0.5 * (1e-2 - 1e-4) * (1 + np.cos(np.pi * np.arange(15) / 14))
    np.testing.assert_allclose(rates[5:], np.repeat(cosine, 10).reshape(15, 10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spectral_weight": -1.0}, "spectral_weight: expected a finite number >= 0"),
        ({"beta": math.inf}, "beta: expected a finite number >= 0, came inf"),
        ({"warmup_epochs": math.inf}, "warmup_epochs: expected a finite number >= 0, came inf"),
        ({"annealed_from": math.inf}, "annealed_from: expected a finite number above 0, came inf"),
        ({"warmup_floor": 1.5}, "warmup_floor: expected at most 1"),
        ({"annealed_from": 0.0}, "annealed_from: expected a finite number above 0"),
        ({"spectral_layers": "cnv"}, "spectral_layers: unknown 'cnv'.*conv"),
        ({"balance": True, "num_samples": 2}, "balance: expected False with num_samples > 1"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ObjectiveSettings(**settings)
