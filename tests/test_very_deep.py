"""The very deep VAE beyond the contract: its start, padding, training; temperatures by site."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zoo import PPLS, Case, images, noisy, room, side

from ppl_vae.errors import UsageError
from ppl_vae.runs import Run

X = images(n=8, x_shape=(1, 5, 4))


def built(ppl: str, x_shape: tuple[int, ...] = (1, 5, 4), **changes: Any) -> Any:
    return Case(ppl, "very-deep", "very-deep").build(x_shape=x_shape, **changes)


def test_it_starts_as_the_paper_says(ppl: str) -> None:
    """Uniform weights by fan-in, last ones scaled by depth or zero; zero biases; priors N(0, 1)."""
    pair = built(ppl, decoder="1x1,4m1,8m4,8x5", width=16, latent_channels=4)
    weights = room(ppl).state(*pair)
    groups, blocks = 8, 8
    for name, value in weights.items():
        if name.endswith(".bias") or ".starts." in name:
            assert not value.any(), name
            continue
        if name == "model.gain":
            assert (value == 1).all()
            continue
        bound = 1 / np.sqrt(value[0].size)
        if name.endswith("prior_net.convs.3.weight"):
            bound = 0.0
        elif name.endswith(("residual.convs.3.weight", "project.weight")):
            bound *= np.sqrt(1 / groups)
        elif name.startswith("guide.tower.blocks") and name.endswith("convs.3.weight"):
            bound *= np.sqrt(1 / blocks)
        assert np.abs(value).max() <= bound * (1 + 1e-6), name
        assert np.abs(value).max() >= 0.7 * bound, name  # of 16 draws or more: missed in 3e-3
    found = room(ppl).sample(pair[0], 4000)
    assert np.asarray(found["z1"]).std() == pytest.approx(1.0, abs=0.01)
    assert np.asarray(found["z8"]).std() == pytest.approx(1.0, abs=0.05)


def test_recomputed_activations_change_nothing(ppl: str) -> None:
    """Neither draws nor gradients, at the same noise: only the nets run twice."""
    kept, again = built(ppl), built(ppl, recompute=True)
    weights = noisy(room(ppl).state(*kept))
    for pair in (kept, again):
        room(ppl).load_state(*pair, weights)
    expected, found = (side(ppl).gradients(*pair, X) for pair in (kept, again))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    drawn = [side(ppl).densities(*pair, X)[1]["z1"] for pair in (kept, again)]
    np.testing.assert_allclose(*drawn, rtol=1e-5, atol=1e-6)


def test_padding_is_not_scored(ppl: str) -> None:
    """An image in the middle of the square that the nets see: its own pixels alone count."""
    model, guide = built(ppl)
    found = room(ppl).sample(model, 3)
    assert np.shape(found["x_mean"]) == (3, 1, 5, 4)
    whole = built(ppl, x_shape=(1, 8, 8))
    weights = noisy(room(ppl).state(model, guide))
    for pair in ((model, guide), whole):
        room(ppl).load_state(*pair, weights)
    padded = np.zeros((8, 1, 8, 8), np.float32)
    padded[:, :, 1:6, 2:6] = X
    small, large = side(ppl).densities(model, guide, X)[0], side(ppl).densities(*whole, padded)[0]
    np.testing.assert_allclose(small["kl(z2)"], large["kl(z2)"], rtol=1e-5)
    assert (large["log p(x)"] < small["log p(x)"]).all()


def test_fewer_levels_are_scored(ppl: str) -> None:
    """k / (num_levels - 1), whether images come in 8 bits or have so many levels already."""
    pair = built(ppl, likelihood="discretized_logistic", num_levels=32)
    grey = np.arange(256).reshape(4, 1, 8, 8)
    target = side(ppl).asked_target(pair[0], (grey / 255).astype(np.float32))
    np.testing.assert_allclose(target, grey // 8 / 31, atol=1e-6)
    again = side(ppl).asked_target(pair[0], target.astype(np.float32))
    np.testing.assert_allclose(again, target, atol=1e-6)
    with pytest.raises(UsageError, match="num_levels: expected 256, 128, … or 2, came 100"):
        built(ppl, num_levels=100)


@pytest.mark.parametrize("guide", ["LadderGuide", "ResidualNormalGuide"])
def test_other_guides_answer_it(guide: str) -> None:
    """Maps of latents are sites like any others."""
    model, _ = built("pyro")
    other = getattr(import_module("guides.pyro"), guide)(model, hidden=(5, 4))
    assert np.isfinite(np.asarray(room("pyro").log_weights(model, other, X, 2))).all()


def test_it_answers_its_own_model_alone(ppl: str) -> None:
    model = Case(ppl, "hierarchy", "ladder").build()[0]
    guide = import_module(f"guides.{ppl}").VeryDeepGuide
    with pytest.raises(UsageError, match="VeryDeepGuide answers VeryDeepVAE alone, came Hierarch"):
        guide(model) if ppl == "pyro" else guide(model, rngs=None)


def test_it_trains_as_published_and_resumes(ppl: str, tmp_path: Path) -> None:
    """AdamW, warm-up, average, cap and skip; stopped half way, it ends where it would have."""
    settings: dict[str, Any] = {
        "batch_size": 4, "optimizer": "adamw", "betas": (0.9, 0.9), "weight_decay": 0.01,
        "learning_rate": 0.02, "lr_warmup_epochs": 1, "clip_norm": 5.0, "ema": 0.9,
        "progress": False,
    }  # fmt: skip
    # Such that some are skipped, and some are not; NumPyro's are as large, and take XLA long.
    norms = room("pyro").fit(*built("pyro"), X, epochs=4, **settings).history["grad_norm"].values
    settings["skip_norm"] = float(np.median(norms))
    ends = []
    for stops in ([4], [2, 4]):
        run = Run.create(tmp_path / str(len(stops)), {}, ppl)
        for epochs in stops:
            pair = built(ppl)
            resume = epochs != stops[0]
            fitted = room(ppl).fit(*pair, X, epochs=epochs, run=run, resume=resume, **settings)
        ends.append((run.weights("last")[0], run.weights("ema")[0], fitted.history))
    assert 0 < int(ends[0][2]["skipped"].sum()) < 8
    for whole, halves in zip(ends[0][:2], ends[1][:2], strict=True):
        assert [name for name in whole if not np.array_equal(whole[name], halves[name])] == []
    moved, averaged = ends[0][0]["model.gain"], ends[0][1]["model.gain"]
    assert 0 < np.abs(averaged - 1).max() < np.abs(moved - 1).max()


def test_a_temperature_for_each_site(ppl: str) -> None:
    """z2 ~ N(0, 1), z1 ~ N(z2, 1): the same noise, each site's share of it."""
    model = side(ppl).chain(("z1", "z2"))

    def noise(temperature: Any) -> tuple[Any, Any]:
        drawn = room(ppl).sample(model, 50, temperature=temperature, seed=3)
        return np.asarray(drawn["z2"]), np.asarray(drawn["z1"]) - np.asarray(drawn["z2"])

    top, low = noise(1.0)
    for given in ([0.5, 0.25], {"z1": 0.5, "z2": 0.25}):
        np.testing.assert_allclose(noise(given)[0], 0.25 * top, atol=1e-5)
        np.testing.assert_allclose(noise(given)[1], 0.5 * low, atol=1e-5)
    np.testing.assert_allclose(noise({"z1": 0.5})[0], top, atol=1e-5)
    for given, message in (
        ([0.5], "expected 2 factors, from z1 to z2, came 1"),
        ({"z3": 0.5}, "no latent site 'z3'"),
        ({"z1": 0.0}, "expected above 0"),
    ):
        with pytest.raises(UsageError, match=message):
            room(ppl).sample(model, 1, temperature=given)


def test_groups_that_read_one_state() -> None:
    """Two by two: independent within a pair, the same densities in both PPLs, no other weights."""
    x, decoder = images(n=8, x_shape=(1, 5, 4), dtype=np.float64), "2x1,8m2,8x3"
    pairs = {ppl: built(ppl, decoder=decoder, together=2) for ppl in PPLS}
    weights = noisy(room("pyro").state(*pairs["pyro"]))
    assert weights.keys() == room("pyro").state(*built("pyro", decoder=decoder)).keys()
    with side("numpyro").precision("float64"):
        for ppl, pair in pairs.items():
            side(ppl).double(*pair)
            room(ppl).load_state(*pair, weights)
        expected, latents = side("pyro").densities(*pairs["pyro"], x)
        found, _ = side("numpyro").densities(*pairs["numpyro"], x, latents=latents)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)
        other = {**latents, "z4": latents["z4"] + 1}  # z5 | z4, z3 | z2, z1
        moved, _ = side("numpyro").densities(*pairs["numpyro"], x, latents=other)
    for density in ("log p(z5)", "log p(z3)", "log q(z3)"):
        np.testing.assert_array_equal(moved[density], found[density], err_msg=density)
    for density in ("log p(z2)", "log p(z1)", "log p(x)"):
        assert (moved[density] != found[density]).any(), density


def test_a_normal_worked_out_with_channels_last_is_the_same_normal() -> None:
    import jax
    import numpyro.distributions as dist
    from numpyro.distributions.kl import kl_divergence

    from ppl_vae.numpyro.map_normal import MapNormal

    rng = np.random.default_rng(0)
    parameters = [(rng.normal(size=(2, 4, 3, 5)), rng.lognormal(size=(2, 4, 3, 5))) for _ in "qp"]
    q, p = (jax.jit(MapNormal)(loc, scale) for loc, scale in parameters)
    plain = [
        dist.Normal(loc.transpose(0, 3, 1, 2), scale.transpose(0, 3, 1, 2))
        for loc, scale in parameters
    ]
    drawn = q.sample(jax.random.key(0), (3,))
    assert drawn.shape == (3, 2, 5, 4, 3)
    np.testing.assert_allclose(drawn, plain[0].sample(jax.random.key(0), (3,)), rtol=1e-5)
    np.testing.assert_allclose(q.log_prob(drawn), plain[0].log_prob(drawn), rtol=1e-5)
    expected = kl_divergence(*plain)
    for pair in ((q, p), (q, plain[1]), (plain[0], p)):
        np.testing.assert_allclose(kl_divergence(*pair), expected, rtol=1e-4, atol=1e-6)
