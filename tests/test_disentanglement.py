"""Sprites from known factors, and what is made of them: metrics, the check, the sweep over beta."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from benchmarks import beta_sweep
from evaluation import (
    choose_beta,
    dci,
    disentanglement_scores,
    factor_vae_score,
    higgins_score,
    modularity,
    mutual_information_gap,
    sampled,
    sap_score,
)
from evaluation.disentanglement import METRICS
from evaluation.factor_information import mutual_information
from ppl_vae import cli, recipes
from ppl_vae.data import load, sprites
from ppl_vae.errors import UsageError
from ppl_vae.judging import Subject
from ppl_vae.judging import disentanglement as check
from ppl_vae.recipes import Recipe

# --- sprites ----------------------------------------------------------------------------------


def drawn(shape: int, scale: float, turn: float, x: float, y: float, size: int) -> np.ndarray:
    return sprites.render(np.array([[shape, scale, turn, x, y]]), size)[0]


@pytest.mark.parametrize(("shape", "area"), [(0, 2.0), (1, math.pi / 2)])
@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_area_is_that_of_the_shape(shape: int, area: float, turn: float) -> None:
    """To the pixels that the outline, shorter than 2π radii, may cross."""
    size, scale = 256, 0.9
    radius = scale * size / 4
    found = drawn(shape, scale, turn, 0.3, 0.8, size).sum()
    assert abs(found - area * radius**2) < 2 * math.pi * radius / 2


@pytest.mark.parametrize("shape", range(3))
def test_sprite_stays_within_its_radius_about_its_centre(shape: int) -> None:
    size, scale, x, y = 128, 0.8, 0.25, 0.75
    rows, columns = np.nonzero(drawn(shape, scale, 0.7, x, y, size))
    up = (columns + 0.5) / size - 0.25 - 0.5 * x
    down = (rows + 0.5) / size - 0.25 - 0.5 * y
    assert np.hypot(up, down).max() <= scale / 4
    assert np.hypot(up, down).max() > 0.85 * scale / 4


@pytest.mark.parametrize("shape", range(3))
def test_positions_move_the_sprite_and_nothing_else(shape: int) -> None:
    step = 2 / 32  # one pixel
    still = drawn(shape, 0.75, 0.5, 0.5, 0.5, 32)
    np.testing.assert_array_equal(
        drawn(shape, 0.75, 0.5, 0.5 + 3 * step, 0.5, 32), np.roll(still, 3, axis=1)
    )
    np.testing.assert_array_equal(
        drawn(shape, 0.75, 0.5, 0.5, 0.5 - 2 * step, 32), np.roll(still, -2, axis=0)
    )


def test_orientation_turns_the_picture() -> None:
    """A quarter turn against the clock is the picture turned; the square does not see it."""
    for shape in range(3):
        still = drawn(shape, 1.0, 0.01, 0.5, 0.5, 32)
        turned = drawn(shape, 1.0, 0.01 + math.pi / 2, 0.5, 0.5, 32)
        np.testing.assert_array_equal(turned, np.rot90(still))
        assert np.array_equal(turned, still) == (shape == 0)


@pytest.mark.parametrize("size", [8, 16])
def test_data_set(size: int) -> None:
    found = load("sprites", binarization="static", image_size=size)
    assert (len(found.train), len(found.test), found.x_shape) == (15_552, 1_728, (1, size, size))
    for images in (found.train, found.test):
        assert images.factors is not None
        assert images.factors.categorical == ("shape",)
        again = sprites.render(images.factors.values[:50], size)
        np.testing.assert_array_equal(images.images[:50, 0], again)
        np.testing.assert_array_equal(images.labels, images.factors.classes[:, 0])
    every = np.concatenate([found.train.factors.classes, found.test.factors.classes])  # type: ignore[union-attr]
    assert len(np.unique(every, axis=0)) == math.prod(sprites.GRID) == len(every)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"image_size": 4}, "at least 8"),
        ({"path": "somewhere"}, "path: expected none for sprites"),
    ],
)
def test_bad_sprites(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load("sprites", **arguments)


# --- metrics ----------------------------------------------------------------------------------

GRID = (3, 4, 5, 6)
TRUE = np.stack(np.unravel_index(np.arange(4 * math.prod(GRID)) % math.prod(GRID), GRID), axis=1)


def scores(codes: np.ndarray, factors: np.ndarray = TRUE, **more: Any) -> dict[str, float]:
    found = disentanglement_scores(codes, factors, num_shuffles=0, **more)
    return {str(name): float(found.score.sel(metric=name)) for name in found.metric.values}


def test_true_factors_score_one() -> None:
    assert scores(TRUE) == pytest.approx(dict.fromkeys(METRICS, 1.0), abs=1e-9)


def test_true_factors_score_one_in_another_form() -> None:
    """Each unit any function of its factor that keeps the values' order, dead units beside."""
    codes = np.hstack([np.exp(TRUE[:, ::-1] / 2), np.full((len(TRUE), 2), 3.0)])
    found = scores(codes, metrics=[metric for metric in METRICS if metric != "sap"])
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-9)


def test_categorical_factor_costs_the_sap_score_its_chance_level() -> None:
    """One unit of no use still tells one of three values right, so the gap is 2/3 at most."""
    assert sap_score(TRUE, TRUE, categorical=[0]) == pytest.approx(1 - 1 / 3 / 4, abs=1e-9)
    found = dci(TRUE, TRUE, categorical=[0])
    assert found[:3] == pytest.approx((1, 1, 1), abs=1e-9)


def test_noise_scores_chance() -> None:
    n, k = len(TRUE), len(GRID)
    noise = np.random.default_rng(0).standard_normal((n, 6))
    found = disentanglement_scores(noise, TRUE, num_shuffles=4)
    score = {str(m): float(found.score.sel(metric=m)) for m in found.metric.values}
    for metric, tests in (("higgins", 5_000), ("factor_vae", 800)):
        error = math.sqrt((1 / k) * (1 - 1 / k) / tests)
        assert abs(score[metric] - 1 / k) < 4 * error
    # A squared correlation is about χ²/n, n I about half a χ² of (bins - 1)(values - 1).
    assert score["sap"] < 20 / n
    assert score["mig"] < 19 * (max(GRID) - 1) / n / math.log(min(GRID))
    assert abs(score["dci_informativeness"]) < 0.05
    apart = np.abs(found.score - found.chance)
    assert float(apart.max()) < 0.15
    assert float(found.score.sel(metric="modularity")) > 0.2  # why chance levels stand beside


def test_order_scale_and_shift_of_units_change_nothing() -> None:
    rng = np.random.default_rng(1)
    mixed = (
        TRUE[:, [0, 1, 2, 3, 1]] + TRUE[:, [1, 2, 3, 3, 0]] + rng.standard_normal((len(TRUE), 5))
    )
    order = rng.permutation(5)
    scale = rng.choice([-1, 1], 5) * np.exp(rng.standard_normal(5))
    changed = (mixed * scale + rng.standard_normal(5))[:, order]
    first = disentanglement_scores(mixed, TRUE, num_shuffles=0, categorical=[0])
    other = disentanglement_scores(changed, TRUE, num_shuffles=0, categorical=[0])
    np.testing.assert_allclose(other.score, first.score, rtol=0, atol=1e-9)
    for name in ("mutual_information", "importance"):
        np.testing.assert_allclose(other[name], first[name].values[order], rtol=0, atol=1e-9)


# Three binary factors: unit 1 holds the first two, v1 + 2 v2; units 2 and 3 both hold the third.
TOY = np.stack(np.unravel_index(np.arange(800) % 8, (2, 2, 2)), axis=1)
TOY_CODES = np.stack([TOY[:, 0] + 2 * TOY[:, 1], TOY[:, 2], -3 * TOY[:, 2]], axis=1)
LOG_2 = math.log(2)


def test_toy_information_by_hand() -> None:
    known = mutual_information(TOY_CODES, TOY)
    expected = [[LOG_2, LOG_2, 0], [0, 0, LOG_2], [0, 0, LOG_2]]
    np.testing.assert_allclose(known, expected, atol=1e-12)
    # Factors 1 and 2 have a unit of their own each, as MIG sees it; the third has two.
    assert mutual_information_gap(TOY_CODES, TOY) == pytest.approx(2 / 3, abs=1e-12)
    # Unit 1: 1 - LOG_2² / (LOG_2² · 2) = 1/2; the others 1.
    assert modularity(TOY_CODES, TOY) == pytest.approx((1 / 2 + 1 + 1) / 3, abs=1e-12)


def test_toy_sap_by_hand() -> None:
    """Squared correlation of v1 + 2 v2 with v1 is 1/5, with v2 4/5; the third factor has no gap."""
    assert sap_score(TOY_CODES, TOY) == pytest.approx((1 / 5 + 4 / 5 + 0) / 3, abs=1e-12)
    # Thresholds on v1 + 2 v2 tell v2 without error; one threshold tells v1 right in 3 of 4 cases.
    found = sap_score(TOY_CODES, TOY, categorical=[0, 1, 2])
    assert found == pytest.approx((1 / 4 + 1 / 2 + 0) / 3, abs=1e-12)


def test_toy_dci_by_hand() -> None:
    """Unit 1 serves two of three factors equally, and has 2/3 of all importance."""
    found = dci(TOY_CODES[:, :2], TOY)
    np.testing.assert_allclose(found.importance, [[1, 1, 0], [0, 0, 1]], atol=1e-12)
    expected = 2 / 3 * (1 - LOG_2 / math.log(3)) + 1 / 3
    assert found.disentanglement == pytest.approx(expected, abs=1e-12)
    assert found.completeness == pytest.approx(1, abs=1e-12)
    assert found.informativeness == pytest.approx(1, abs=1e-12)
    spread = dci(TOY_CODES, TOY)  # the third factor may be read off either of two units
    least = (1 + 1 + (1 - LOG_2 / math.log(3))) / 3
    assert least - 1e-12 <= spread.completeness <= 1 + 1e-12


def test_toy_fixed_factor_by_hand() -> None:
    """Unit 1 varies least under v1 and under v2 (0.8 and 0.2 of its variance): half are told."""
    found = factor_vae_score(TOY_CODES, TOY, num_images=1000)
    assert found == pytest.approx(2 / 3, abs=4 * math.sqrt(2 / 9 / 800))
    # A linear classifier tells them all the same: E|z1 - z1'| is 1 under v1, 1/2 under v2.
    assert higgins_score(TOY_CODES, TOY, num_pairs=500, num_train=900, num_test=900) > 0.99


def test_dead_code_knows_nothing() -> None:
    found = scores(np.ones((len(TRUE), 3)))
    k = len(GRID)
    assert found["higgins"] == pytest.approx(1 / k, abs=0.03)
    assert found["factor_vae"] == 1 / k
    for metric in ("mig", "modularity", "sap", "dci_disentanglement", "dci_completeness"):
        assert found[metric] == 0
    assert found["dci_informativeness"] == pytest.approx(0, abs=0.01)


def test_a_grid_may_be_sampled() -> None:
    codes, factors = sampled(lambda f: 2.0 * f, (2, 3), num_images=600, seed=1)
    np.testing.assert_array_equal(codes, 2 * factors)
    counts = np.bincount(factors[:, 0] * 3 + factors[:, 1], minlength=6)
    assert (np.abs(counts - 100) < 5 * math.sqrt(100)).all()


@pytest.mark.parametrize(
    ("codes", "factors", "says"),
    [
        (np.zeros(5), TRUE, r"codes, factors: expected \(images, units\)"),
        (np.zeros((5, 2)), TRUE, "of the same images"),
        (np.zeros((len(TRUE), 1)), TRUE, "2 units"),
        (TRUE * np.nan, TRUE, "finite"),
        (TRUE, TRUE * [0, 1, 1, 1], "factor 0 has one value"),
        (TRUE, TRUE[:, :1], "2 factors"),
    ],
)
def test_bad_arrays(codes: np.ndarray, factors: np.ndarray, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        disentanglement_scores(codes, factors)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: disentanglement_scores(TRUE, TRUE, metrics=["migg"]), "did you mean 'mig'"),
        (lambda: higgins_score(TRUE, TRUE, num_pairs=0), "num_pairs: expected at least 1, came 0"),
        (lambda: factor_vae_score(TRUE, TRUE, num_images=1), "num_images: expected at least 2"),
        (lambda: mutual_information_gap(TRUE, TRUE, num_bins=1), "num_bins"),
        (lambda: dci(TOY_CODES[:16], TOY[:16]), "at least 20 images"),
        (lambda: sap_score(TRUE, TRUE, categorical=[4]), "positions of the 4 factors"),
        (lambda: sampled(lambda f: f, ()), "num_images, grid"),
    ],
)
def test_bad_arguments(call: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- the check --------------------------------------------------------------------------------

SMALL = {
    "name": "small",
    "data": {"name": "sprites", "binarization": "static", "image_size": 8},
    "model": {"class_path": "HierarchicalVAE", "init_args": {
        "latents": [3, 2], "hidden": [8, 6], "layers": 1, "batch_norm": False}},
    "guide": "LadderGuide",
}  # fmt: skip


def test_check_judges_posterior_means(ppl: str, tmp_path: Path) -> None:
    data = load("sprites", binarization="static", image_size=8)
    pair = recipes.build(Recipe.from_dict(SMALL), ppl, data.x_shape)
    subject = Subject(*pair, ppl, data.test[:30], tmp_path, data=data)
    found = check.judge(subject, check.Settings(sites="z2", shuffles=2, images=400))
    assert found.data.unit.values.tolist() == ["z2.1", "z2.2"]
    assert found.data.factor.values.tolist() == list(sprites.NAMES)
    assert (tmp_path / "disentanglement.png").stat().st_size > 0
    (table,) = found.chapter.tables
    assert len(table.rows) == len(METRICS)
    drawn = data.test[np.sort(np.random.default_rng(0).permutation(1728)[:400])]
    moments = subject.programs.posterior_moments(*pair, drawn)  # z2 is drawn first: one pass
    assert drawn.factors is not None
    expected = scores(moments["z2"][0], drawn.factors.classes, categorical=[0])
    assert found.told == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UsageError, match="no site 'z3'"):
        check.judge(subject, check.Settings(sites="z3"))


def test_check_averages_over_draws_of_the_sites_above(tmp_path: Path) -> None:
    data = load("sprites", binarization="static", image_size=8)
    pair = recipes.build(Recipe.from_dict(SMALL), "pyro", data.x_shape)
    subject = Subject(*pair, "pyro", data.test[:60], tmp_path)
    found = check.judge(subject, check.Settings(passes=2, shuffles=0))
    assert found.data.unit.values.tolist() == ["z1.1", "z1.2", "z1.3", "z2.1", "z2.2"]
    first, second = (
        subject.programs.posterior_moments(*pair, subject.images, seed=seed) for seed in (0, 1)
    )
    means = [(first[site][0] + second[site][0]) / 2 for site in ("z1", "z2")]
    factors = data.test[:60].factors
    assert factors is not None
    expected = mutual_information(np.hstack(means), factors.classes)
    np.testing.assert_allclose(found.data.mutual_information, expected, atol=1e-9)


@pytest.mark.parametrize("bad", [{"images": 3}, {"passes": 0}, {"shuffles": -1}])
def test_bad_settings(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"disentanglement.{next(iter(bad))}: expected at least"):
        check.Settings(**bad)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run on sprites is judged; one on a set without factors is refused in one line."""
    run = tmp_path / "run"
    small = ("--set", "model.init_args={latent: 3, hidden: [8]}", "--set", "training.epochs=1")
    assert cli.main(["train", "beta-vae-sprites", "--out", str(run), *small]) == 0
    evaluate = ("--images", "200", "--samples", "2", "--check", "disentanglement")
    more = ("--set", "disentanglement.shuffles=0", "--json")
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), *evaluate, *more]) == 0
    told = json.loads(capsys.readouterr().out)["checks"]["disentanglement"]
    kept = xr.open_datatree(run / "evaluation.nc", engine="h5netcdf")["disentanglement"]
    assert told["mig"] == float(kept.to_dataset().score.sel(metric="mig"))
    kept.close()
    run = tmp_path / "digits"
    assert cli.main(["train", "vae-digits", "--out", str(run), *small]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), *evaluate]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "came digits, which has none: train and evaluate on sprites" in line


# --- beta -------------------------------------------------------------------------------------


def table(*rows: list[float]) -> xr.DataArray:
    seeds = list(range(len(rows[0])))
    return xr.DataArray([*rows], {"beta_norm": [0.1, 1.0, 10.0], "seed": seeds})


def test_beta_is_chosen_on_the_few_and_judged_on_the_rest() -> None:
    few = table([0.2, 0.4], [0.8, 0.8], [0.9, 0.5])
    rest = table([0.1, 0.3], [0.5, 0.7], [0.9, 0.8])
    found = choose_beta(few, rest)
    assert float(found.chosen) == 1.0
    assert float(found.score) == pytest.approx(0.6)
    assert float(found.sd) == pytest.approx(math.sqrt(0.02))
    assert (float(found.best), float(found.best_score)) == (10.0, pytest.approx(0.85))
    assert float(found.regret) == pytest.approx(0.25)


def test_beta_cannot_be_chosen_from_other_models() -> None:
    few = table([0.2], [0.8], [0.9])
    with pytest.raises(UsageError, match="the same beta_norm and seeds"):
        choose_beta(few, few.assign_coords(beta_norm=[0.1, 1.0, 20.0]))
    with pytest.raises(UsageError, match="few: expected finite scores"):
        choose_beta(few * np.nan, few)


def test_sweep_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--ppl", "pyro", "--betas", "0.02", "0.5", "--seeds", "1",
        "--set", "training.epochs=1", "--set", "training.batch_size=512",
        "--set", "data.image_size=8", "--set", "model.init_args={latent: 3, hidden: [16]}",
        "--out", str(tmp_path / "parts"),
        "--results", str(tmp_path / "sweep.json"), "--figure", str(tmp_path / "sweep.png"),
    ]  # fmt: skip
    assert beta_sweep.main([*arguments, "--minutes", "0"]) == 1
    assert "0 of 2 models" in capsys.readouterr().out
    assert not (tmp_path / "sweep.json").exists()
    assert beta_sweep.main(arguments) == 0
    report = json.loads((tmp_path / "sweep.json").read_text())
    assert report["beta_norm"] == [0.02, 0.5]
    first = json.loads((tmp_path / "parts" / "beta_norm=0.02,seed=0.json").read_text())
    assert report["score"]["mig"][0] == [first["scores"]["mig"]]
    assert report["choice"]["higgins"]["chosen"] in (0.02, 0.5)
    assert (tmp_path / "sweep.png").stat().st_size > 0
    assert str(tmp_path) not in json.dumps(report)
    capsys.readouterr()
    assert beta_sweep.main(arguments) == 0
    assert "seed=0.json" not in capsys.readouterr().out  # nothing is trained again
    with pytest.raises(UsageError, match="of another recipe"):
        beta_sweep.main([*arguments, "--set", "training.batch_size=256"])
