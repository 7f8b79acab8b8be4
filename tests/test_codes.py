"""Discrete codes: their distributions, codebooks, the quantiser's gradients, a prior over codes."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zoo import PPLS, X_SHAPE, Case, images, noisy, room, side

from evaluation import code_usage
from ppl_vae import cli
from ppl_vae.errors import UsageError
from ppl_vae.histories import code_use


@pytest.fixture(params=PPLS)
def codes(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(f"{request.param}_codes")


VECTORS = np.array([[0.0, 1.0], [2.0, -1.0]])


# The quantiser


def test_straight_through(codes: Any) -> None:
    """The value is the nearest code's vector; the gradient is that of the encoder's output."""
    z = np.array([[[[0.4, 1.5]], [[0.7, -0.2]]]])  # (1, 2, 1, 2): nearest are codes 0 and 1
    weights = np.array([[[[3.0, -1.0]], [[0.5, 2.0]]]])
    found = codes.quantised(z, VECTORS, weights)
    np.testing.assert_array_equal(found["indices"], [[[0, 1]]])
    np.testing.assert_array_equal(found["value"], VECTORS[[0, 1]].T.reshape(1, 2, 1, 2))
    np.testing.assert_array_equal(found["slope_z"], weights)  # of (weights * value).sum()
    np.testing.assert_array_equal(found["slope_vectors"], np.zeros_like(VECTORS))
    assert found["kl"] == pytest.approx([2 * math.log(2)], rel=1e-12)
    assert found["log_prob"] == pytest.approx([0.0])
    assert found["log_prob_of_others"] == [-np.inf]


def test_three_terms(codes: Any) -> None:
    r"""Equation 3 on two codes, one position: each term moves what it should, by its closed form.

    .. math:: \partial_{z_e} = \partial_z \log p + 2\beta(z_e - e), \quad
              \partial_e = 2 (e - z_e)
    """
    z, beta = np.array([0.4, 0.7]), 0.25
    nearest = VECTORS[0]
    found = codes.three_terms(z, VECTORS, beta)
    assert found["penalties"] == pytest.approx(
        {
            "z1_commitment": beta * ((z - nearest) ** 2).sum(),
            "z1_codebook": ((z - nearest) ** 2).sum(),
        }
    )
    # -log p(x | z) is |z|^2 / 2 up to a constant in that program, its slope at the code e.
    np.testing.assert_allclose(found["slope_z"], nearest + 2 * beta * (z - nearest), rtol=1e-6)
    slope = np.zeros_like(VECTORS)
    slope[0] = 2 * (nearest - z)
    np.testing.assert_allclose(found["slope_vectors"], slope, rtol=1e-6)


def test_penalties_are_no_part_of_the_bound(codes: Any) -> None:
    """The loss has them in training; terms of evaluation have none, and no weight has."""
    case = Case(codes.PPL, "vq-vae", "vector-quantizer")
    pair, x = case.build(), images()
    side(case.ppl).set_training(*pair, True)
    likelihood, kl = side(case.ppl).terms(*pair, x)
    loss = side(case.ppl).loss(*pair, x)
    penalty = codes.penalty(*pair, x)
    assert penalty > 0
    elbo = likelihood["x"].mean() - kl["z1"].mean()
    assert loss == pytest.approx(-elbo + penalty, rel=1e-5)
    many = side(case.ppl).loss(*pair, x, num_samples=2)  # two samples of one map are that map
    assert many == pytest.approx(loss, rel=1e-5)
    found = room(case.ppl).site_terms(*pair, x)
    assert list(found["kl"]) == ["z1"]
    weights = np.asarray(room(case.ppl).log_weights(*pair, x, 2))
    expected = found["log_likelihood"] - 2 * math.log(3)  # 2 positions of 3 codes
    np.testing.assert_allclose(weights, np.stack([expected] * 2), rtol=1e-5)


PRIORS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "pixel-cnn": {"prior_layers": 2},
    "transformer": {"prior_layers": 1, "prior_net": "transformer"},
    "labels": {"prior_layers": 1, "prior_labels": 2},
}


@pytest.mark.parametrize("prior", PRIORS)
def test_the_bound_is_a_bound(codes: Any, prior: str) -> None:
    """Against log p(x) by enumeration of all 3^2 maps of codes."""
    ppl, x = room(codes.PPL), images(n=4)
    case = Case(codes.PPL, "vq-vae", "vector-quantizer")
    pair = case.build(prior_channels=4, **PRIORS[prior])
    ppl.load_state(*pair, noisy(ppl.state(*pair)))
    maps = np.array(list(itertools.product(range(3), repeat=2))).reshape(-1, 2, 1)
    log_prior, log_likelihood = codes.joint(pair[0], maps, x)  # (9,), (9, 4)
    assert np.exp(log_prior).sum() == pytest.approx(1, rel=1e-5)
    exact = np.logaddexp.reduce(log_prior[:, None] + log_likelihood, axis=0)
    bound = np.asarray(ppl.log_weights(*pair, x, 1))[0]
    assert (bound <= exact + 1e-4).all()
    chosen = ppl.codes_of(*pair, x)["z1"]
    at = np.array([np.flatnonzero((maps == one).all((1, 2)))[0] for one in chosen])
    expected = log_prior[at] + log_likelihood[at, np.arange(4)]
    np.testing.assert_allclose(bound, expected, rtol=1e-4)
    drawn = np.asarray(ppl.sample(pair[0], 50)["z1"])
    vectors = ppl.codebook_of(pair[0])
    away = np.abs(np.moveaxis(drawn, 1, -1)[..., None, :] - vectors).max(-1).min(-1)
    assert away.max() < 1e-5  # every draw is a code's vector


def two_maps(ppl: str, **changes: Any) -> tuple[Any, Any]:
    """VQ-VAE-2: maps of 2 × 1 and 1 × 1, three codes each."""
    models, guides = (importlib.import_module(f"{kind}.{ppl}") for kind in ("models", "guides"))
    arguments = {
        "codes": 3, "code_dim": 2, "hidden": (3, 4), "update": "gradient", "start": "random",
        "restart": 0.0, "activation": "elu", "prior_channels": 4, **changes,
    }  # fmt: skip
    return side(ppl).build(models.VQVAE2, guides.VectorQuantizer2Guide, X_SHAPE, arguments, 0)


@pytest.mark.parametrize("prior_layers", [0, 1])
def test_two_maps(codes: Any, prior_layers: int) -> None:
    """A bound of log p(x), by enumeration of all 3^3 codes; learned codes and penalties of both."""
    ppl, x = room(codes.PPL), images(n=4)
    pair = two_maps(codes.PPL, prior_layers=prior_layers)
    assert dict(pair[1].sites) == {"z2": (2, 1, 1), "z1": (2, 2, 1)}
    ppl.load_state(*pair, noisy(ppl.state(*pair)))
    every = np.array(list(itertools.product(range(3), repeat=3)))
    maps = {"z2": every[:, :1, None], "z1": every[:, 1:, None]}
    log_prior, log_likelihood = codes.joint_of_two(pair[0], maps, x)
    assert np.exp(log_prior).sum() == pytest.approx(1, rel=1e-5)
    exact = np.logaddexp.reduce(log_prior[:, None] + log_likelihood, axis=0)
    bound = np.asarray(ppl.log_weights(*pair, x, 1))[0]
    assert (bound <= exact + 1e-4).all()
    chosen = ppl.codes_of(*pair, x)
    at = chosen["z2"][:, 0, 0] * 9 + chosen["z1"][:, :, 0] @ [3, 1]
    expected = log_prior[at] + log_likelihood[at, np.arange(4)]
    np.testing.assert_allclose(bound, expected, rtol=1e-4)
    means = ppl.decode_codes(pair[0], chosen)
    np.testing.assert_allclose(means, ppl.reconstruct(*pair, x), rtol=1e-4, atol=1e-5)
    history = ppl.fit(*pair, x, epochs=1, batch_size=2, progress=False).history
    assert np.isfinite(history["loss"]).all()
    assert history["code_counts"].sel(site="z2").sum() == 4
    side(codes.PPL).set_training(*pair, True)
    slopes = side(codes.PPL).gradients(*pair, x)
    still = [name for name, slope in slopes.items() if not np.abs(slope).max() > 0]
    assert [name for name in still if "priors" not in name] == []  # one position has none before


def test_two_maps_agree() -> None:
    """log p and log q by site with one set of weights, float64."""
    x, pairs = images(n=3, dtype=np.float64), {}
    with side("numpyro").precision("float64"):
        for ppl in PPLS:
            pairs[ppl] = two_maps(ppl, prior_layers=1, prior_labels=2)
            side(ppl).double(*pairs[ppl])
            room(ppl).load_state(*pairs[ppl], noisy(room("pyro").state(*pairs["pyro"])))
            side(ppl).set_training(*pairs[ppl], False)
        expected, latents = side("pyro").densities(*pairs["pyro"], x)
        found, _ = side("numpyro").densities(*pairs["numpyro"], x, latents=latents)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)


def test_priors_of_labels(codes: Any) -> None:
    """Without a label the even mixture of both; a draw of a label is one under its prior."""
    ppl = room(codes.PPL)
    model, _ = Case(codes.PPL, "vq-vae", "vector-quantizer").build(
        prior_channels=4, **PRIORS["labels"]
    )
    ppl.load_state(model, None, noisy(ppl.state(model, None), scale=2.0))
    maps = np.array(list(itertools.product(range(3), repeat=2))).reshape(-1, 2, 1)
    mixed, *of_labels = (codes.joint(model, maps, images(n=1), label)[0] for label in (None, 0, 1))
    for log_prior in of_labels:
        assert np.exp(log_prior).sum() == pytest.approx(1, rel=1e-5)
    expected = np.logaddexp(*of_labels) - math.log(2)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)
    vectors = ppl.codebook_of(model)
    for label, log_prior in enumerate(of_labels):
        drawn = np.moveaxis(np.asarray(ppl.sample(model, 400, label=label)["z1"]), 1, -1)
        indices = np.abs(drawn[..., None, :] - vectors).max(-1).argmin(-1)
        share = np.bincount(indices.reshape(400, 2) @ [3, 1], minlength=9) / 400
        assert np.abs(share - np.exp(log_prior)).max() < 5 * 0.5 / math.sqrt(400)
    with pytest.raises(UsageError, match="label: expected 0 to 1, one or 4 of them, came 2"):
        ppl.sample(model, 4, label=2)
    plain, _ = Case(codes.PPL, "vq-vae", "vector-quantizer").build()
    with pytest.raises(UsageError, match=r"label: expected none, .* labels=true"):
        ppl.sample(plain, 4, label=0)


@pytest.mark.parametrize(("prior", "start"), [("pixel-cnn", "kmeans"), ("labels", "random")])
def test_a_prior_beside_a_codebook_that_moves(codes: Any, prior: str, start: str) -> None:
    """Trained together: vectors change between prior and posterior, the codes' price does not."""
    case = Case(codes.PPL, "vq-vae", "vector-quantizer")
    pair = case.build(update="ema", start=start, prior_channels=4, **PRIORS[prior])
    state = room(codes.PPL).state(*pair)
    room(codes.PPL).load_state(*pair, {n: 0 * v if ".prior." in n else v for n, v in state.items()})
    side(codes.PPL).set_training(*pair, True)
    _, kl = side(codes.PPL).terms(*pair, images())
    np.testing.assert_allclose(kl["z1"], 2 * math.log(3), rtol=1e-6)


def test_relaxed_codes(codes: Any) -> None:
    """Hard codes' divergence by its closed form; relaxed draws near hard ones when it is cold."""
    logits = np.log(np.array([0.75, 0.25])).reshape(1, 2, 1, 1)
    found = codes.relaxed(VECTORS, logits, temperature=1e-3, draws=4000)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found["kl"] == pytest.approx([math.log(2) - entropy], rel=1e-5)
    np.testing.assert_array_equal(found["indices"], [[[0]]])
    mean = 0.75 * VECTORS[0] + 0.25 * VECTORS[1]
    spread = np.abs(VECTORS[0] - VECTORS[1]) * math.sqrt(0.75 * 0.25)
    np.testing.assert_allclose(found["loc"].ravel(), mean, rtol=1e-5)
    np.testing.assert_allclose(found["scale"].ravel(), spread, rtol=1e-5)
    for name in ("relaxed", "hard"):
        error = 5 * spread / math.sqrt(4000)
        assert (np.abs(found[name].reshape(-1, 2).mean(0) - mean) < error).all()
    assert np.abs(found["slope"]).max() > 0


# Codebooks


def test_moving_averages_reach_the_means(codes: Any) -> None:
    """Fed the same vectors again and again, a code is the mean of those nearest to it."""
    rows = np.array([[0.0, 1.1], [0.2, 0.9], [0.1, 1.0], [2.0, -1.2], [1.8, -1.0]])
    book = codes.codebook(VECTORS, update="ema", start="random", restart=0.0)
    z = np.moveaxis(rows, -1, 0)[None, :, None]
    for _ in range(2500):  # 0.99 ** 2500 is 1e-11
        codes.learn(book, z)
    expected = np.stack([rows[:3].mean(0), rows[3:].mean(0)])
    np.testing.assert_allclose(codes.vectors(book), expected, rtol=2e-5)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_dead_code_is_used_again(codes: Any, update: str) -> None:
    """A code far from everything is put onto what the others serve worst."""
    start = np.array([[0.0, 1.0], [50.0, 50.0]])
    rows = np.array([[0.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
    book = codes.codebook(start, update=update, start="random", restart=0.5)
    z = np.moveaxis(rows, -1, 0)[None, :, None]
    used = [codes.learn(book, z) for _ in range(120)]
    assert set(used[0].ravel()) == {0}
    assert set(used[-1].ravel()) == {0, 1}


def test_a_code_left_dead(codes: Any) -> None:
    """With restarts off it stays away."""
    start = np.array([[0.0, 1.0], [50.0, 50.0]])
    z = np.array([[[[0.0, 3.0]], [[1.0, 1.0]]]])
    book = codes.codebook(start, update="ema", start="random", restart=0.0)
    used = [codes.learn(book, z) for _ in range(120)]
    assert set(used[-1].ravel()) == {0}


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_k_means_start(codes: Any, update: str) -> None:
    """Three tight groups: the codes are their means, once, and not again."""
    rng = np.random.default_rng(0)
    means = np.array([[5.0, 0.0], [-5.0, 1.0], [0.0, 7.0]])
    rows = np.concatenate([mean + 0.01 * rng.standard_normal((20, 2)) for mean in means])
    book = codes.codebook(np.zeros((3, 2)), update=update, start="kmeans", restart=0.0)
    codes.start(book, np.moveaxis(rows, -1, 0)[None, :, None])
    expected = np.stack([rows[i : i + 20].mean(0) for i in (0, 20, 40)])
    found = codes.vectors(book)
    order = np.lexsort(expected.T), np.lexsort(np.round(found, 3).T)
    np.testing.assert_allclose(found[order[1]], expected[order[0]], atol=1e-5)
    codes.start(book, np.moveaxis(rows + 9, -1, 0)[None, :, None])
    np.testing.assert_array_equal(codes.vectors(book), found)


def test_training_moves_the_codebook(codes: Any, tmp_path: Path) -> None:
    """By moving averages through `fit`, the same in two pieces; evaluation leaves it as it is."""
    from ppl_vae.runs import Run

    ppl = room(codes.PPL)
    case = Case(codes.PPL, "vq-vae", "vector-quantizer")
    changes: dict[str, Any] = {"update": "ema", "start": "kmeans", "restart": 0.1}
    pair = case.build(**changes)
    before = ppl.state(*pair)
    history = ppl.fit(*pair, images(), epochs=2, batch_size=3, progress=False).history
    after = ppl.state(*pair)
    counts = np.bincount(ppl.codes_of(*pair, images())["z1"].ravel(), minlength=3)
    last = history.isel(step=-1).sel(site="z1")
    np.testing.assert_array_equal(last["code_counts"], counts)  # of the epoch's end
    assert last["used_codes"] == (counts > 0).sum()
    assert history["perplexity"].dims == ("step", "site")
    moved = [name for name in after if not np.array_equal(after[name], before[name])]
    assert {f"model.codebook.running_{n}" for n in ("vectors", "counts", "sums", "started")} <= {
        *moved
    }
    assert "model.codebook.weight" not in after
    ppl.log_weights(*pair, images(), 1)
    ppl.codes_of(*pair, images())
    for name, value in ppl.state(*pair).items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    other = case.build(seed=1, **changes)
    settings: dict[str, Any] = {"batch_size": 3, "progress": False}
    run = Run.create(tmp_path / "run", {}, codes.PPL)
    ppl.load_state(*other, before)
    ppl.fit(*other, images(), epochs=1, run=run, **settings)
    other = case.build(seed=1, **changes)
    ppl.fit(*other, images(), epochs=2, run=run, resume=True, **settings)
    for name, value in ppl.state(*other).items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_a_grid_needs_no_learning(codes: Any) -> None:
    """FSQ: each number goes to the nearest of its own levels."""
    case = Case(codes.PPL, "vq-vae", "vector-quantizer")
    pair, x = case.build(levels=(3, 2)), images()
    ppl = room(codes.PPL)
    assert not any("codebook" in name for name in ppl.state(*pair))
    z = codes.bounded(*pair, x)
    levels = [np.array([-1.0, 0.0, 1.0]), np.array([-1.0, 1.0])]
    at = [np.abs(z[:, i, ..., None] - own).argmin(-1) for i, own in enumerate(levels)]
    np.testing.assert_array_equal(ppl.codes_of(*pair, x)["z1"], 2 * at[0] + at[1])
    side(case.ppl).set_training(*pair, True)
    slopes = side(case.ppl).gradients(*pair, x)
    assert all((np.abs(slope) > 0).any() for slope in slopes.values())
    assert codes.penalty(*pair, x) == 0
    found = ppl.site_terms(*pair, x)["kl"]["z1"]
    np.testing.assert_allclose(found, 2 * math.log(6), rtol=1e-6)


@pytest.mark.parametrize("prior", ["pixel-cnn", "transformer", "labels"])
def test_codes_agree(prior: str) -> None:
    """Indices, vectors and averages of one set of weights in both PPLs."""
    x = images(dtype=np.float64)
    found = {}
    for ppl in PPLS:
        with side(ppl).precision("float64"):
            pair = Case(ppl, "vq-vae", "vector-quantizer").build(
                update="ema", prior_channels=4, **PRIORS[prior]
            )
            side(ppl).double(*pair)
            weights = room(ppl).state(*pair)
            held = {n: np.exp(v) for n, v in noisy(weights).items() if n.endswith("_counts")}
            held["model.codebook.running_started"] = np.ones(())
            room(ppl).load_state(*pair, {**noisy(weights), **held})
            side(ppl).set_training(*pair, True)
            after = side(ppl).mutated(*pair, x)
            found[ppl] = {n: after[n] for n in after if "codebook" in n}
            found[ppl]["weights"] = np.asarray(room(ppl).log_weights(*pair, x, 1))
            found[ppl]["codes"] = room(ppl).codes_of(*pair, x)["z1"]
    assert found["pyro"].keys() == found["numpyro"].keys()
    for name, value in found["pyro"].items():
        np.testing.assert_allclose(found["numpyro"][name], value, rtol=1e-9, err_msg=name)


# Bad input


def test_codes_of_a_plain_guide(codes: Any) -> None:
    """A function's trace has nodes that are no sample statements."""
    (model, guide), x = Case(codes.PPL, "vq-vae", "vector-quantizer").build(), images()
    side(codes.PPL).set_training(model, guide, False)
    found = room(codes.PPL).codes_of(model, lambda x: guide(x), x)
    expected = room(codes.PPL).codes_of(model, guide, x)
    assert list(found) == ["z1"]
    np.testing.assert_array_equal(found["z1"], expected["z1"])


def test_bad_codebooks(codes: Any) -> None:
    case = Case(codes.PPL, "vq-vae", "vector-quantizer")
    for changes, message in (
        ({"codes": 1}, "codes: expected at least 2, came 1"),
        ({"update": "emma"}, r"update: unknown 'emma': did you mean 'ema'\?"),
        ({"restart": 1.5}, "restart: expected at least 0 and below 1, came 1.5"),
        ({"levels": (3, 1)}, "levels: expected .* at least 2, came"),
        ({"prior_layers": 1, "prior_net": "pixelcnn"}, "net: unknown 'pixelcnn': did you mean"),
        (
            {"prior_layers": 1, "prior_net": "transformer", "prior_channels": 6},
            "channels: expected a multiple of 4 heads, came 6",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            case.build(**changes)
    with pytest.raises(UsageError, match="learns by gradient, came one of moving averages"):
        Case(codes.PPL, "vq-vae", "gumbel-softmax").build(update="ema")
    with pytest.raises(UsageError, match="expected a model of one latent map with a codebook"):
        Case(codes.PPL, "vae-conv", "vector-quantizer").build()


def test_labels_that_are_not_there() -> None:
    from ppl_vae.code_stage import count_labels
    from ppl_vae.data import Images

    grey = np.zeros((3, 1, 2, 2), np.uint8)
    assert count_labels(Images(grey, np.array([0, 4, 2]))) == 5
    with pytest.raises(UsageError, match="labels: expected labelled images"):
        count_labels(Images(grey))


def test_codes_out_of_range(codes: Any) -> None:
    ppl = room(codes.PPL)
    model, _ = Case(codes.PPL, "vq-vae", "vector-quantizer").build()
    assert ppl.decode_codes(model, np.array([[[0], [2]]])).shape == (1, 2, 5, 4)
    with pytest.raises(UsageError, match="from 0 to 2, came 0 to 3"):
        ppl.decode_codes(model, np.array([[[0], [3]]]))
    with pytest.raises(UsageError, match=r"shape \(n, 2, 1\), came \(1, 1, 2\)"):
        ppl.decode_codes(model, np.array([[[0, 1]]]))
    with pytest.raises(UsageError, match="which has none: take VQVAE"):
        ppl.codes_of(*Case(codes.PPL, "vae", "mean-field").build(), images())
    prior = codes.prior((1, 2, 1), 3)
    with pytest.raises(UsageError, match="outside the support"):
        ppl.fit(*prior, np.full((4, 1, 2, 1), 3.0, np.float32), epochs=1, progress=False)


# Use of codes


def test_usage() -> None:
    """Perplexity of 1/2, 1/4, 1/4 is 2^1.5; half the patches blank leave sqrt(2 · 2 (K - 1))."""
    found = code_usage(np.array([[[0, 0], [1, 3]]]), 4)
    assert found["count"].values.tolist() == [2, 1, 0, 1]
    assert int(found["used"]) == 3
    assert float(found["perplexity"]) == pytest.approx(2**1.5)
    np.testing.assert_allclose(found["position_perplexity"], np.ones((2, 2)))
    blank = np.zeros((1, 1, 4, 4))
    blank[..., :2, 1::2] = 1.0  # the upper two patches of 2 × 2 are not blank
    found = code_usage(np.array([[[0, 1], [2, 2]]]), 9, blank)
    assert float(found["blank_share"]) == 0.5
    assert float(found["ceiling"]) == pytest.approx(2 * math.sqrt(8))
    with pytest.raises(UsageError, match="expected 0 to 1, came 0 to 2"):
        code_usage(np.array([[[0, 2]]]), 2)


def test_use_through_training() -> None:
    """A site of two codes beside one of four, and one that has none: 2^1.5, 1 and nothing."""
    counts = {"z1": np.array([2, 1, 1, 0]), "z3": np.array([0, 5])}
    found = code_use(counts, ("z1", "z2", "z3"))
    np.testing.assert_array_equal(found["used_codes"], [3, np.nan, 1])
    np.testing.assert_allclose(found["perplexity"], [2**1.5, np.nan, 1])
    np.testing.assert_array_equal(found["code_counts"][2], [0, 5, np.nan, np.nan])
    assert code_use({}, ("z1",)) == {}


# The second stage


def test_second_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, learn the codes' prior, evaluate both: the guide and its codes stay, bits change.

    In Pyro, with labels; without them both PPLs go this way for two maps, below.
    """
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    small = [
        "training.epochs=1", "model.init_args.hidden=[4,4]", "model.init_args.codes=4",
        "model.init_args.code_dim=2",
    ]  # fmt: skip
    sets = [part for one in small for part in ("--set", one)]
    assert cli.main(["train", "vqvae-digits", "--out", first, *sets]) == 0
    chosen = ["layers=1", "channels=4", "training.epochs=10", "training.learning_rate=0.01"]
    chosen += ["labels=true", "net=transformer"]
    sizes = [part for one in chosen for part in ("--set", one)]
    assert cli.main(["prior", first, "--out", second, *sizes]) == 0
    printed = capsys.readouterr().out
    told = []
    for run in (first, second):
        asked = ["--samples", "1", "--check", "codes", "--json"]
        assert cli.main(["evaluate", run, *asked]) == 0
        told.append(json.loads(capsys.readouterr().out.splitlines()[-1])["checks"]["codes"])
    assert told[0]["perplexity"] == told[1]["perplexity"]
    assert told[0]["code_bits"] == pytest.approx(told[0]["uniform_bits"], rel=1e-6)
    assert told[1]["uniform_bits"] == told[0]["uniform_bits"]
    for number, where in ((told[0], "uniform prior"), (told[1], "learned one")):
        assert f"{number['code_bits']:.4f} under the {where}" in printed
    assert told[1]["code_bits"] < told[0]["code_bits"]
    assert cli.main(["sample", second, "--count", "3", "--out", str(tmp_path / "s.npz")]) == 0
    assert "given the label" in printed
    of_nine = ["sample", second, "--label", "9", "--out", str(tmp_path / "s.npz")]
    assert cli.main(of_nine) == 0
    of_nine[1] = first  # which has no priors for labels
    assert cli.main(of_nine) == 2
    assert cli.main(["prior", first, "--out", second]) == 2  # holds a run already


@pytest.mark.parametrize("ppl", PPLS)
def test_a_prior_of_another_codebook_is_refused(ppl: str) -> None:
    from ppl_vae.recipes import Recipe
    from ppl_vae.second_stage import PriorSettings, attach

    codes = importlib.import_module(f"{ppl}_codes")
    case = Case(ppl, "vq-vae", "vector-quantizer")
    pair, other = case.build(), case.build(seed=1)
    recipe = Recipe.from_dict({
        "name": "a", "data": {"name": "digits"}, "guide": "VectorQuantizerGuide",
        "model": {"class_path": "VQVAE", "init_args": {"codes": 3, "code_dim": 2}},
    })  # fmt: skip
    prior, _ = codes.prior((1, 2, 1), 3)
    settings = PriorSettings(layers=1, channels=2)
    books = {"z1": room(ppl).codebook_of(other[0])}
    with pytest.raises(UsageError, match="another codebook"):
        attach(recipe, ppl, pair, prior, books, settings)
    wide, _ = codes.prior((1, 2, 2), 3)
    with pytest.raises(UsageError, match=r"maps of \(2, 1\), came one of \(2, 2\)"):
        attach(recipe, ppl, pair, wide, {"z1": room(ppl).codebook_of(pair[0])}, settings)


# The second stage of two maps

MAPS_OF_TWO = np.stack([  # of z1 and, at the positions below each of its own, of z2
    [[[0], [2]], [[1], [1]], [[2], [0]], [[0], [0]]],
    [[[1], [1]], [[0], [0]], [[2], [2]], [[1], [1]]],
], axis=1).astype(np.float64)  # fmt: skip


@pytest.mark.parametrize("labels", [0, 2])
def test_priors_of_two_maps_agree(labels: int) -> None:
    """log p(z2) and log p(z1 | z2) of one set of weights, float64; that of a label as its own."""
    maps, found = MAPS_OF_TWO, {}
    if labels:
        told = np.broadcast_to(np.array([0, 1, 1, 0])[:, None, None, None], (4, 1, 2, 1))
        maps = np.concatenate([maps, told], axis=1)
    with side("numpyro").precision("float64"):
        for ppl in PPLS:
            pair = importlib.import_module(f"{ppl}_codes").prior(maps.shape[1:], 3, labels)
            side(ppl).double(*pair)
            room(ppl).load_state(*pair, noisy(room(ppl).state(*pair)))
            found[ppl] = side(ppl).terms(*pair, maps)[0]
    assert list(found["pyro"]) == ["z2", "x"]
    for site, value in found["pyro"].items():
        np.testing.assert_allclose(found["numpyro"][site], value, rtol=1e-9, err_msg=site)


def test_attached_priors_of_two_maps(codes: Any) -> None:
    """The pair's divergences are -log p of the program that was attached; all alike, log K each."""
    from ppl_vae.recipes import Recipe
    from ppl_vae.second_stage import PriorSettings, attach

    ppl, pair, x = room(codes.PPL), two_maps(codes.PPL), images(n=4)
    recipe = Recipe.from_dict({
        "name": "a", "data": {"name": "digits"}, "guide": "VectorQuantizer2Guide",
        "model": {"class_path": "VQVAE2", "init_args": {
            "codes": 3, "code_dim": 2, "hidden": [3, 4], "update": "gradient", "start": "random",
            "activation": "elu",
        }},
    })  # fmt: skip
    books = {site: ppl.codebook_of(pair[0], site) for site in ("z1", "z2")}
    prior, nothing = codes.prior((2, 2, 1), 3)
    settings, weights = PriorSettings(layers=1, channels=2), ppl.state(prior, nothing)
    for scale in (1.0, 0.0):
        drawn = {name: scale * value for name, value in noisy(weights).items()}
        ppl.load_state(prior, nothing, drawn)
        _, both = attach(recipe, codes.PPL, pair, prior, books, settings)
        chosen = ppl.codes_of(*both, x)
        for site, indices in ppl.codes_of(*pair, x).items():
            np.testing.assert_array_equal(chosen[site], indices)
        maps = np.stack([chosen["z1"], chosen["z2"].repeat(2, 1)], 1).astype(np.float32)
        expected, _ = side(codes.PPL).terms(prior, nothing, maps)
        kl = ppl.site_terms(*both, x)["kl"]
        np.testing.assert_allclose(kl["z2"], -np.asarray(expected["z2"]), rtol=1e-5)
        np.testing.assert_allclose(kl["z1"], -np.asarray(expected["x"]), rtol=1e-5)
    np.testing.assert_allclose(kl["z2"], math.log(3), rtol=1e-6)
    np.testing.assert_allclose(kl["z1"], 2 * math.log(3), rtol=1e-6)
    books["z2"] = books["z2"] + 1
    with pytest.raises(UsageError, match="another codebook"):
        attach(recipe, codes.PPL, pair, prior, books, settings)


@pytest.mark.parametrize("ppl", PPLS)
def test_second_stage_of_two_maps(
    ppl: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Train, learn both priors (here in two pieces), draw: codes of either map cost less."""
    from ppl_vae.runs import Run, load

    first, second = str(tmp_path / "first"), tmp_path / "second"
    small = ["training.epochs=1", "model.init_args.hidden=[4]", "model.init_args.codes=4"]
    sets = [part for one in small for part in ("--set", one)]
    assert cli.main(["train", "vqvae-digits-2", "--ppl", ppl, "--out", first, *sets]) == 0
    chosen = ["layers=1", "channels=4", "training.learning_rate=0.01"]
    sizes = [part for one in chosen for part in ("--set", one)]
    asked = ["prior", first, "--out", str(second), *sizes]
    if ppl == "pyro":
        assert cli.main([*asked, "--set", "training.epochs=1"]) == 0
        (second / "run.json").unlink()  # as if it had been stopped on the way
        assert cli.main([*asked, "--resume", "--set", "training.seed=1"]) == 2
        assert "training.seed: cannot change with --resume" in capsys.readouterr().err
    assert cli.main([*asked, "--resume", "--set", "training.epochs=4"]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    if ppl == "pyro":
        (second / "run.json").rename(second / "kept.json")
        assert cli.main([*asked, "--resume", "--set", "training.epochs=3"]) == 2
        assert "training.epochs: expected at least 4, which" in capsys.readouterr().err
        (second / "kept.json").rename(second / "run.json")
    learned = Run.open(second / "codes")
    assert learned.history["epoch"].values.tolist() == [1, 2, 3, 4]
    numbers = [float(found) for found in re.findall(r"\d\.\d{4}", printed)]
    assert "; of z2 " in printed
    total, (upper, lower) = numbers[:2], (numbers[2:4], numbers[4:])
    np.testing.assert_allclose(total, np.add(upper, lower), atol=2e-4)
    for before, after in (upper, lower):
        assert after < before
    assert upper[0] == 4 * 2 / 64
    assert lower[0] == 16 * 2 / 64
    run = Run.open(second)
    for name, value in learned.weights()[0].items():
        np.testing.assert_array_equal(run.weights()[0][name], value, err_msg=name)
    drawn = room(ppl).sample(load(run, ppl)[0], 3)
    assert {name: value.shape for name, value in drawn.items() if name != "x_mean"} == {
        "z2": (3, 8, 2, 2), "z1": (3, 8, 4, 4), "x": (3, 1, 8, 8),
    }  # fmt: skip
