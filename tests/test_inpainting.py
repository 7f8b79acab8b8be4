"""Filling in what is missing: the conditional hierarchy and its guide, and what they promise."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_contract as contract
import test_parity as parity
from conjugate import LINEAR
from PIL import Image
from scipy import stats
from zoo import PPLS, X_SHAPE, Case, images, noisy, room, side

import evaluation.inpainting as scores
from ppl_vae import cli
from ppl_vae.data import Images, load
from ppl_vae.data.masks import KINDS, check_masks, draw_masks
from ppl_vae.errors import UsageError

SITES = {"z2": (3, 2, 1), "z1": (2, 3, 2)}  # of (5, 4), halved twice
ARGUMENTS = {"latents": (2, 3), "channels": (4, 6, 8)}


@dataclass(frozen=True)
class Inpainting(Case):
    """`InpaintingVAE` on images (one channel and its mask) as the contract suite asks for it."""

    model: str = "inpainting"
    guide: str = "inpainting"
    residual: bool = True

    def __str__(self) -> str:
        return f"{super().__str__()}-{'residual' if self.residual else 'own'}"

    @property
    def sites(self) -> dict[str, tuple[int, ...]]:
        return SITES

    @property
    def guide_class(self) -> str:
        return {"inpainting": "InpaintingGuide", "ladder": "LadderGuide"}[self.guide]

    @property
    def has_batch_norm(self) -> bool:
        return True

    def build(self, seed: int = 0, x_shape: tuple[int, ...] = X_SHAPE, **changes: Any) -> Any:
        model = importlib.import_module(f"models.{self.ppl}").InpaintingVAE
        guides = importlib.import_module(f"guides.{self.ppl}")
        arguments = {**ARGUMENTS, "likelihood": self.likelihood, **changes}

        def guide(model: Any, **keywords: Any) -> Any:
            options = {} if self.guide == "ladder" else {"residual": self.residual}
            return getattr(guides, self.guide_class)(model, **options, **keywords)

        return side(self.ppl).build(model, guide, x_shape, arguments, seed)


CASES = [Inpainting(ppl) for ppl in PPLS]


# What every pair promises


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    "promise",
    [
        contract.test_sites_are_the_model_s,
        contract.test_every_parameter_gets_a_gradient,
        contract.test_stock_svi_moves_every_weight,
        contract.test_fit_moves_every_weight,
        contract.test_a_copied_guide_keeps_its_model,
        contract.test_shapes_of_every_answer,
        contract.test_stock_predictive,
    ],
    ids=lambda promise: promise.__name__,
)
def test_contract(promise: Callable[[Case], None], case: Case) -> None:
    promise(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_saved_and_loaded_it_is_the_same(case: Case, tmp_path: Path) -> None:
    contract.test_saved_and_loaded_it_is_the_same(case, tmp_path)


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize("x_shape", [(2, 7, 3), (4, 1, 1)])
def test_odd_sizes(ppl: str, x_shape: tuple[int, ...]) -> None:
    contract.test_odd_sizes(Inpainting(ppl), x_shape)


def test_missing_pixels_that_depend_on_each_other() -> None:
    """Given latents, a condition and known pixels all 2^4 completions sum to one, in both PPLs
    alike; draws leave known pixels as they are."""
    holes = images(n=1, x_shape=(3, 3, 3), dtype=np.float64)
    holes[:, 1] = 0.7
    holes[:, 2] = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 1]])
    x = np.repeat(holes, 16, axis=0)
    x[:, 0][holes[:, 2].repeat(16, 0) == 0] = np.array(list(np.ndindex(2, 2, 2, 2))).ravel()
    with side("numpyro").precision("float64"):
        pairs = {
            ppl: Inpainting(ppl).build(
                x_shape=(3, 3, 3), condition=1, pixel_layers=2, pixel_channels=4
            )
            for ppl in PPLS
        }
        for ppl, pair in pairs.items():
            side(ppl).double(*pair)
            room(ppl).load_state(*pair, noisy(room("pyro").state(*pairs["pyro"]), scale=0.3))
            side(ppl).set_training(*pair, False)
        expected, drawn = side("pyro").densities(*pairs["pyro"], x)
        found, _ = side("numpyro").densities(*pairs["numpyro"], x, latents=drawn)
        one = {site: np.repeat(value[:1], 16, axis=0) for site, value in drawn.items()}
        same, _ = side("numpyro").densities(*pairs["numpyro"], x, latents=one)
        filled = {ppl: room(ppl).complete(pair[0], holes, count=3) for ppl, pair in pairs.items()}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)
    assert np.exp(same["log p(x | z)"]).sum() == pytest.approx(1, rel=1e-9)
    known = holes[0, 2] == 1
    for draws in filled.values():
        assert draws.shape == (3, 1, 1, 3, 3)
        np.testing.assert_array_equal(draws[:, 0, 0][:, known], np.tile(holes[0, 0][known], (3, 1)))


@pytest.mark.parametrize(
    ("likelihood", "guide", "residual"),
    [("bernoulli", "inpainting", True), ("discretized_logistic", "inpainting", False),
     ("normal", "ladder", True)],
)  # fmt: skip
def test_densities_agree(likelihood: str, guide: str, residual: bool) -> None:
    """The same weights and draws give the same densities in both PPLs, whatever the guide."""
    given = {"guide": guide, "likelihood": likelihood, "residual": residual}
    pairs = {p: Inpainting(p, **given).build() for p in PPLS}
    weights = noisy(room("pyro").state(*pairs["pyro"]), scale=0.3)
    for precision in parity.TOLERANCE:
        with side("numpyro").precision(precision):
            for ppl, pair in pairs.items():
                if precision == "float64":
                    side(ppl).double(*pair)
                room(ppl).load_state(*pair, weights)
            for training in (False, True):
                x = images(likelihood, dtype=np.dtype(precision))
                parity.check(pairs, x, precision, training)


@pytest.mark.parametrize("ppl", PPLS)
def test_a_model_that_shows_nothing_is_refused(ppl: str) -> None:
    model, _ = Case(ppl, "hierarchy", "ladder").build()
    guides = importlib.import_module(f"guides.{ppl}")
    with pytest.raises(UsageError, match="context_channels"):
        side(ppl).build(lambda *_, **__: model, guides.InpaintingGuide, X_SHAPE, {}, 0)


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize(
    ("x_shape", "changes", "message"),
    [((1, 5, 4), {}, "mask"), (X_SHAPE, {"latents": (2,)}, "one number more")],
)
def test_sizes_that_cannot_be_are_refused(
    ppl: str, x_shape: tuple[int, ...], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Inpainting(ppl).build(x_shape=x_shape, **changes)


# Missing pixels alone are scored, and known ones alone are looked at


def half(x: Any) -> Any:
    """The same images with their left half known."""
    x = x.copy()
    x[:, -1] = 0
    x[:, -1, :, :2] = 1
    return x


@pytest.mark.parametrize("ppl", PPLS)
def test_scores_missing_pixels_alone(ppl: str) -> None:
    """With all weights zero each pixel is a fair coin: log p = -log 2 for each missing one."""
    pair = Inpainting(ppl).build()
    room(ppl).load_state(*pair, {k: np.zeros_like(v) for k, v in room(ppl).state(*pair).items()})
    x = images()
    found, _ = side(ppl).densities(*pair, x)
    np.testing.assert_allclose(
        found["log p(x)"], -np.log(2) * (x[:, -1] < 0.5).sum((1, 2)), rtol=1e-6
    )


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize("mean", [True, False])
def test_completions(ppl: str, mean: bool) -> None:
    """Known pixels come back to the bit; what is hidden has no say; draws differ."""
    model, _ = Inpainting(ppl, likelihood="normal").build()
    x = half(images("normal"))
    other = x.copy()
    other[:, :-1, :, 2:] = 0.25
    first, second = (room(ppl).complete(model, given, 3, mean=mean) for given in (x, other))
    assert first.shape == (3, 6, 1, 5, 4)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first[..., :2], np.broadcast_to(x[:, :1, :, :2], (3, 6, 1, 5, 2)))
    np.testing.assert_array_equal(first, second)
    assert (first[0, ..., 2:] != first[1, ..., 2:]).all()
    with pytest.raises(UsageError, match="count"):
        room(ppl).complete(model, x, 0)


@pytest.mark.parametrize("ppl", PPLS)
def test_masks_are_fresh_at_every_use(ppl: str) -> None:
    """Two epochs of one image see different masks, and no others than the ones given."""
    grey = np.full((64, 1, 2, 2), 255, np.uint8)
    masks = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], np.uint8).reshape(3, 1, 2, 2)
    stored = Images(grey, binarization="dynamic").with_fresh_masks(masks)
    assert stored.x_shape == (2, 2, 2)
    assert stored.num_dims == pytest.approx(4 * (1 - 4 / 12))
    seen = side(ppl).batches(stored, 2)
    assert not np.array_equal(*seen)
    for batch in seen:
        np.testing.assert_array_equal(batch[:, :1], 1)
        drawn = {tuple(mask) for mask in batch[:, 1].reshape(-1, 4).astype(int)}
        assert drawn == {tuple(mask) for mask in masks.reshape(-1, 4).tolist()}


# A condition: a vector for each image, shown between image and mask

CONDITION: dict[str, Any] = {"x_shape": (4, 5, 4), "condition": 2}


def conditioned(values: tuple[float, float], dtype: Any = np.float32) -> Any:
    """(6, 4, 5, 4): `half(images())` with two maps of these values."""
    x = half(images(dtype=dtype))
    maps = np.broadcast_to(np.array(values, dtype)[:, None, None], (6, 2, 5, 4))
    return np.concatenate([x[:, :1], maps, x[:, 1:]], axis=1)


def test_densities_under_a_condition() -> None:
    """Both PPLs agree; the vector has a say in them, and is none of what is scored."""
    with side("numpyro").precision("float64"):
        pairs = {ppl: Inpainting(ppl).build(**CONDITION) for ppl in PPLS}
        for ppl, pair in pairs.items():
            side(ppl).double(*pair)
            room(ppl).load_state(*pair, noisy(room("pyro").state(*pairs["pyro"]), scale=0.3))
            side(ppl).set_training(*pair, False)
        x = conditioned((1.0, -0.5), np.float64)
        expected, drawn = side("pyro").densities(*pairs["pyro"], x)
        found, _ = side("numpyro").densities(*pairs["numpyro"], x, latents=drawn)
        other = conditioned((0.0, 2.0), np.float64)
        changed, _ = side("numpyro").densities(*pairs["numpyro"], other, latents=drawn)
        filled = {ppl: room(ppl).complete(pair[0], x, count=2) for ppl, pair in pairs.items()}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)
    assert (changed["log p(x | z)"] != expected["log p(x | z)"]).all()
    for draws in filled.values():
        assert draws.shape == (2, 6, 1, 5, 4)
        np.testing.assert_array_equal(draws[0, ..., :2], x[:, :1, :, :2])
    zero = {k: np.zeros_like(v) for k, v in room("pyro").state(*pairs["pyro"]).items()}
    room("pyro").load_state(*pairs["pyro"], zero)
    coins, _ = side("pyro").densities(*pairs["pyro"], x)
    np.testing.assert_allclose(coins["log p(x)"], -np.log(2) * 10)  # of 20 pixels half is known


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize("stored", [False, True])
def test_vectors_reach_the_program(ppl: str, stored: bool) -> None:
    """As maps to the bit, before the mask, whatever is drawn of the image."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((8, 3)).astype(np.float32)  # 12 bytes: three maps of 2 x 2
    grey = np.full((8, 1, 2, 2), 255, np.uint8)
    masks = np.array([[1, 0, 0, 1]], np.uint8).reshape(1, 1, 2, 2)
    given = Images(grey, binarization="dynamic").with_vectors(vectors)
    given = given.with_masks(masks.repeat(8, 0)) if stored else given.with_fresh_masks(masks)
    assert given.x_shape == (5, 2, 2)
    (batch,) = side(ppl).batches(given, 1)
    assert batch.shape == (8, 5, 2, 2)
    np.testing.assert_array_equal(batch[:, 0], 1)
    np.testing.assert_array_equal(batch[:, 4], np.broadcast_to(masks[0, 0], (8, 2, 2)))
    assert (batch[:, 1:4] == batch[:, 1:4, :1, :1]).all()
    assert {row.tobytes() for row in batch[:, 1:4, 0, 0]} == {row.tobytes() for row in vectors}
    with pytest.raises(UsageError, match="condition=3"):
        room(ppl).log_weights(*Inpainting(ppl).build(x_shape=(5, 2, 2)), given, 1)


def test_conditions_of_a_set(tmp_path: Path) -> None:
    """Labels one-hot, or rows of a file in the order of the images, those held out at the end."""
    digits = load("digits", valid=100, condition="label")
    assert digits.valid is not None
    for part in (digits.train, digits.valid, digits.test):
        assert part.vectors is not None
        np.testing.assert_array_equal(part.vectors.argmax(1), part.labels)
        np.testing.assert_array_equal(part.vectors.sum(1), 1)
    rows = np.arange(1797.0)[:, None]
    np.savez(tmp_path / "rows.npz", train=rows[:1500], test=rows[1500:])
    found = load("digits", valid=100, condition=tmp_path / "rows.npz")
    assert found.valid is not None
    for part, first in ((found.train, 0), (found.valid, 1400), (found.test, 1500)):
        np.testing.assert_array_equal(part[:5].vectors, rows[first : first + 5])
    np.savez(tmp_path / "short.npz", train=rows[:15], test=rows[1500:])
    with pytest.raises(UsageError, match="one row an image"):
        load("digits", condition=tmp_path / "short.npz")
    with pytest.raises(UsageError, match=r"gone\.npz"):
        load("digits", condition=tmp_path / "gone.npz")


# Any other model, by inference


@pytest.mark.parametrize("ppl", PPLS)
def test_inference_given_known_pixels(ppl: str) -> None:
    """x = W z + b + noise: E[x | known] and the deviation of its mean are known."""
    known = np.array([[1, 0], [0, 1]])
    x = np.concatenate([LINEAR.x, np.broadcast_to(known, (5, 1, 2, 2))], axis=1)
    with side(ppl).precision("float64"):
        pair = LINEAR.programs(ppl)
        settings = {"warmup": 150, "thin": 1, "block": 5}
        found = room(ppl).infer_missing(*pair, x, 250, **settings)
    seen = known.reshape(-1) == 1
    weight, noise = LINEAR.weight[seen], LINEAR.noise
    covariance = np.linalg.inv(np.eye(LINEAR.num_latents) + weight.T @ weight / noise**2)
    rest = LINEAR.x.reshape(5, 4)[:, seen] - LINEAR.bias[seen]
    mean = rest @ weight @ covariance / noise**2 @ LINEAR.weight.T + LINEAR.bias
    scale = np.sqrt(np.diag(LINEAR.weight @ covariance @ LINEAR.weight.T))
    draws = found.reshape(250, 5, 4)
    np.testing.assert_array_equal(
        draws[..., seen], np.broadcast_to(x[:, 0], (250, 5, 2, 2))[..., known == 1]
    )
    error = (draws.mean(0) - mean)[:, ~seen] / scale[~seen]
    assert np.abs(error).max() < 4.5 / np.sqrt(60), error  # as if 60 draws were independent
    np.testing.assert_allclose(draws.std(0)[:, ~seen].mean(0), scale[~seen], rtol=0.15)
    assert np.abs((mean - LINEAR.bias)[:, ~seen] / scale[~seen]).max() > 1


@pytest.mark.parametrize("ppl", PPLS)
def test_probability_of_known_pixels(ppl: str) -> None:
    """x = W z + b + noise: p(known) is a Normal's; two fillings of no merit propose."""
    known = np.array([[1, 0], [0, 1]])
    x = np.concatenate([LINEAR.x, np.broadcast_to(known, (5, 1, 2, 2))], axis=1)
    shifts = np.array([-1.0, 1.0]).reshape(2, 1, 1, 1, 1)
    fillings = np.where(known, LINEAR.x, LINEAR.bias.reshape(2, 2) + shifts)
    with side(ppl).precision("float64"):
        pair = LINEAR.programs(ppl, widen=2.0)
        found = room(ppl).known_log_weights(*pair, x, fillings, 10_000, block=3)
        with pytest.raises(UsageError, match="multiple of the 2"):
            room(ppl).known_log_weights(*pair, x, fillings, 3)
    assert found.shape == (10_000, 5)
    seen = known.reshape(-1) == 1
    weight = LINEAR.weight[seen]
    covariance = weight @ weight.T + LINEAR.noise**2 * np.eye(2)
    log_prob = stats.multivariate_normal(LINEAR.bias[seen], covariance).logpdf
    ratios = np.exp(found - log_prob(LINEAR.x.reshape(5, 4)[:, seen]))
    error = ratios.std(0) / np.sqrt(len(ratios))
    assert error.max() < 0.05
    assert (np.abs(ratios.mean(0) - 1) < 5 * error).all()


@pytest.mark.parametrize("ppl", PPLS)
def test_a_factor_of_the_guide_s_is_no_latent(ppl: str) -> None:
    """What the guide adds to its objective changes neither the fillings nor their weights."""

    def penalised(guide: Any) -> Any:  # once for all images
        def program(x: Any) -> None:
            guide(x)
            if ppl == "pyro":
                import pyro
                import torch

                pyro.factor("cost", torch.tensor(0.3), has_rsample=True)
            else:
                import numpyro

                numpyro.factor("cost", 0.3)

        return program

    x = np.concatenate([LINEAR.x, np.ones((5, 1, 2, 2)) * np.array([[1, 0], [0, 1]])], axis=1)
    found = []
    with side(ppl).precision("float64"):
        for factor in (0.0, 0.7):
            model, guide = LINEAR.programs(ppl, factor=factor)
            pair = (model, penalised(guide) if factor else guide)
            draws = room(ppl).infer_missing(*pair, x, 2, warmup=5, thin=1)
            found.append((draws, room(ppl).known_log_weights(*pair, x, draws, 4)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("ppl", PPLS)
def test_probability_of_an_image_known_whole(ppl: str) -> None:
    """Its weights have the distribution of the guide's own importance weights."""
    pair = Case(ppl, "hierarchy", "ladder").build()
    side(ppl).set_training(*pair, False)
    x = images(n=2)
    whole = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
    known = room(ppl).known_log_weights(*pair, whole, x[None], 2000)
    plain = np.asarray(room(ppl).log_weights(*pair, x, 2000))
    assert stats.ks_2samp(known, plain, axis=0, method="asymp").pvalue.min() > 1e-4
    assert stats.ks_2samp(*known.T, method="asymp").pvalue < 1e-4  # which not any weights have


# Data


def test_data_with_masks() -> None:
    digits = load("digits", binarization="dynamic", valid=100, masks=["centre", "half"])
    plain = load("digits", binarization="dynamic", valid=100)
    assert digits.x_shape == digits.train.x_shape == (2, 8, 8)
    assert digits.valid is not None
    for found, expected in ((digits.valid, plain.valid), (digits.test, plain.test)):
        assert expected is not None
        assert found.x_shape == (2, 8, 8)
        np.testing.assert_array_equal(found.pixels, expected.images)
        for mask in found.images[::2, 1:]:  # the kinds take turns
            np.testing.assert_array_equal(mask, draw_masks("centre", 1, (8, 8))[0])
    np.testing.assert_array_equal(digits.train.pixels, plain.train.images)
    assert digits.train[:7].x_shape == (2, 8, 8)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "nothing"])
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (2, 1), (28, 28)])
def test_masks(kind: str, size: tuple[int, int]) -> None:
    """0 and 1, something known and something missing, the same first ones whatever the number."""
    masks = draw_masks(kind, 20, size, seed=3)
    assert masks.shape == (20, 1, *size)
    assert masks.dtype == np.uint8
    check_masks(masks, size)
    assert set(np.unique(masks)) == {0, 1}
    np.testing.assert_array_equal(draw_masks(kind, 7, size, seed=3), masks[:7])
    if kind not in ("centre",) and size == (8, 8):
        assert not np.array_equal(draw_masks(kind, 20, size, seed=4), masks)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.ones((1, 1, 3, 4), np.uint8), "all known"),
        (np.zeros((1, 1, 3, 4), np.uint8), "all missing"),
        (np.eye(4, dtype=np.uint8)[None, None], "3 x 4"),
    ],
)
def test_masks_that_will_not_do(masks: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_masks(masks, (3, 4))


def test_unknown_mask_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="centre"):
        load("digits", masks=["center"])
    with pytest.raises(UsageError, match="shape"):
        Images(np.zeros((2, 1, 4, 4), np.uint8)).with_masks(np.ones((1, 1, 4, 4), np.uint8))


# Scores


def test_scores_in_closed_form() -> None:
    """An error of 0.1 is 20 dB, exactness the cap; two draws 0.2 apart have that diversity."""
    original = np.full((2, 1, 8, 8), 0.5)
    known = np.ones((2, 1, 8, 8), bool)
    known[:, :, 2:5, 2:5] = False
    draws = np.stack([original + 0.1, original - 0.1])
    found = scores.completion_scores(original, known, draws)
    np.testing.assert_allclose(found.psnr_best, 20.0)
    np.testing.assert_allclose(found.psnr_mean, scores.MAX_PSNR)
    np.testing.assert_allclose(found.ssim_mean, 1.0)
    np.testing.assert_allclose(found.diversity, 0.2)
    assert (found.ssim_best < 1).all()
    np.testing.assert_allclose(scores.psnr(original, known, original + known * 0.3), 100.0)
    filled = original + np.where(known, 0.3, 0.1)  # of which known pixels have no say
    for mask in (known, known.astype(np.uint8)):
        np.testing.assert_allclose(scores.psnr(original, mask, filled), 20.0)
        np.testing.assert_allclose(scores.ssim(original, mask, original + known * 0.3), 1.0)
    with pytest.raises(UsageError, match="known: expected images"):
        scores.psnr(original, known[:1], filled)
    assert np.isnan(scores.ssim(original[..., :2], known[..., :2], original[..., :2])).all()


def test_baselines_in_closed_form() -> None:
    """Independent pixels by hand, a ramp by the biharmonic equation, the neighbour by its edge."""
    known = np.ones((1, 1, 8, 8), bool)
    known[:, :, 3:5, 3:5] = False
    ramp = np.add.outer(np.arange(8), 2 * np.arange(8))[None, None] / 21
    np.testing.assert_allclose(scores.biharmonic_fill(ramp, known), ramp, atol=1e-6)
    train = np.stack([np.zeros((1, 8, 8)), np.ones((1, 8, 8))])
    image = np.ones((1, 1, 8, 8))
    image[~known] = 0.0  # what is missing must not be looked at
    np.testing.assert_array_equal(scores.nearest_fill(train, image, known), 1.0)
    np.testing.assert_array_equal(scores.mean_fill(train.mean(0), image, known)[~known], 0.5)
    found = scores.pixelwise_log_prob(np.zeros((1, 8, 8)), 8, image, known)
    np.testing.assert_allclose(found, 4 * np.log(0.9))  # (0 + 1) / (8 + 2) for a one


# The command line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run, trained once, in Pyro."""
    path = tmp_path_factory.mktemp("runs") / "run"
    tiny = "model.init_args={latents: [2, 2], channels: [4, 4, 4]}"
    argv = ["train", "inpaint-digits", "--out", str(path), "--set", tiny]
    assert cli.main([*argv, "--set", "training.epochs=1"]) == 0
    return path


def picture(path: Path, array: Any) -> Path:
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def test_inpaint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user's image under a user's mask: the sheet has the known pixels to the bit."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (8, 8))
    known = rng.random((8, 8)) < 0.5
    file = picture(tmp_path / "image.png", grey)
    mask = picture(tmp_path / "mask.png", known * 255)
    argv = ["inpaint", str(run), str(file), "3", "--mask", str(mask), "--count", "2", "--out"]
    for out in ("sheet.png", "numbers.npz"):
        assert cli.main([*argv, str(tmp_path / out)]) == 0
    with np.load(tmp_path / "numbers.npz") as found:
        assert found["completions"].shape == (2, 2, 1, 8, 8)
        np.testing.assert_array_equal(found["completions"][:, 0, 0, known], [grey[known]] * 2)
        drawn = found["completions"][0, 0, 0]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    tiles = sheet[2 : 2 + 64 : 8, 2:]  # each pixel eight times as large, two between tiles
    np.testing.assert_array_equal(tiles[:, :64:8], grey)
    np.testing.assert_array_equal(tiles[:, 66:130:8], np.where(known, grey, 128))
    np.testing.assert_array_equal(tiles[:, 132:196:8], drawn)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run whose images come with their labels."""
    path = tmp_path_factory.mktemp("runs") / "labelled"
    tiny = "model.init_args={latents: [2, 2], channels: [4, 4, 4], condition: 10}"
    argv = ["train", "inpaint-digits", "--out", str(path), "--set", tiny]
    assert cli.main([*argv, "--set", "training.epochs=1", "--set", "data.condition=label"]) == 0
    return path


def test_inpaint_with_a_label(labelled: Path, tmp_path: Path) -> None:
    """A label is its one-hot vector; another one fills in otherwise; none is the image's own."""
    labels = load("digits").test.labels
    assert labels is not None
    label = int(labels[0])
    np.save(tmp_path / "vector.npy", np.eye(10)[label])
    found = []
    for given in (
        [],
        ["--label", str(label)],
        ["--condition", str(tmp_path / "vector.npy")],
        ["--label", str((label + 1) % 10)],
    ):
        out = tmp_path / "numbers.npz"
        argv = ["inpaint", str(labelled), "0", "--mask", "half", "--count", "2", "--out", str(out)]
        assert cli.main([*argv, *given]) == 0
        with np.load(out) as arrays:
            found.append(arrays["completions"])
    for same in found[1:3]:
        np.testing.assert_array_equal(same, found[0])
    assert (found[3] != found[0]).any()


@pytest.mark.parametrize(
    ("of", "argv", "message"),
    [
        ("labelled", ["0", "--label", "10"], "0 to 9"),
        ("labelled", ["0", "--label", "1", "--condition", "short.npy"], "both"),
        ("labelled", ["0", "--condition", "short.npy"], "10 numbers"),
        ("labelled", ["mine.png"], "--label"),
        ("run", ["0", "--label", "1"], "without a condition"),
    ],
)
def test_a_condition_with_a_mistake(
    of: str,
    argv: list[str],
    message: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = request.getfixturevalue(of)
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "mine.png", np.zeros((8, 8)))
    np.save(tmp_path / "short.npy", np.zeros(3))
    capsys.readouterr()
    assert cli.main(["inpaint", str(path), *argv, "--mask", "half"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err


def test_inpaint_by_inference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run on whole images takes the same command."""
    path = tmp_path / "run"
    tiny = "model.init_args={latents: [2, 2], hidden: [8, 8], layers: 1}"
    argv = ["train", "lvae-digits", "--out", str(path), "--set", tiny]
    assert cli.main([*argv, "--set", "training.epochs=1"]) == 0
    out = tmp_path / "numbers.npz"
    argv = ["inpaint", str(path), "5", "--mask", "half", "--count", "2", "--out", str(out)]
    assert cli.main(argv) == 0
    check = ["--samples", "2", "--images", "3", "--check", "inpainting", "--json"]
    sets = ["kinds=half", "samples=4", "count=2"]
    changes = [word for one in sets for word in ("--set", f"inpainting.{one}")]
    capsys.readouterr()
    assert cli.main(["evaluate", str(path), *check, *changes]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["checks"]["inpainting"]["half"]
    assert told["model, mean"].keys() == {"log_prob", "psnr", "ssim", "diversity"}
    with np.load(out) as found:
        known = found["known"][0, 0] == 1
        assert found["completions"].shape == (2, 1, 1, 8, 8)
        for one in found["completions"][:, 0, 0]:
            np.testing.assert_array_equal(one[known], found["x"][0, 0][known])
        assert (found["completions"][0] != found["completions"][1]).any()


def test_check(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["evaluate", str(run), "--samples", "2", "--images", "6", "--check", "inpainting"]
    sets = ["kinds='half,strokes'", "samples=2", "count=2"]
    changes = [word for one in sets for word in ("--set", f"inpainting.{one}")]
    assert cli.main([*argv, *changes, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["checks"]["inpainting"]
    assert told.keys() == {"half", "strokes"}
    for by_filling in told.values():
        assert by_filling["model, mean"].keys() == {"log_prob", "psnr", "ssim", "diversity"}
        assert by_filling["training mean"].keys() == {"log_prob", "psnr", "ssim"}
        best = by_filling["model, best of 2"]["psnr"]
        assert best > 0
    assert (run / "figures" / "inpainting_half.png").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["0", "--mask", "small.png"], "8 x 8"),
        (["0", "--mask", "white.png"], "all known"),
        (["0", "--mask", "black.png"], "all missing"),
        (["0", "--mask", "nothing"], "all missing"),
        (["0", "--mask", "halv"], "half"),
        (["0", "--mask", "gone.png"], "gone.png"),
        (["297", "--mask", "half"], "0 to 296"),
        (["small.png", "--mask", "half"], "8 x 8"),
        (["text.png", "--mask", "half"], "text.png"),
        (["0", "--mask", "half", "--out", "sheet.gif"], "sheet.gif"),
        (["0", "--mask", "half", "--temperature", "0"], "temperature"),
    ],
)
def test_inpaint_with_a_mistake(
    argv: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "small.png", np.zeros((4, 4)))
    picture(tmp_path / "white.png", np.full((8, 8), 255))
    picture(tmp_path / "black.png", np.zeros((8, 8)))
    (tmp_path / "text.png").write_text("no picture")
    capsys.readouterr()
    assert cli.main(["inpaint", str(run), *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err
