"""Evaluation against closed forms: likelihood, tails, active units, tables, figures."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from evaluation import active_units, compare, figures, importance_weighted_nll, summary, table
from evaluation._canvas import MAX_BYTES
from ppl_vae.errors import UsageError

LOG_2PI = math.log(2 * math.pi)


def gaussian_log_weights(
    x: np.ndarray, widths: float, num_samples: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """log w of z ~ N(0, 1), x | z ~ N(z, 1) under N(x / 2, widths / 2), and log N(x; 0, 2)."""
    draws = np.random.default_rng(seed).standard_normal((num_samples, len(x)))
    variance = widths / 2
    z = x / 2 + math.sqrt(variance) * draws
    log_p = -0.5 * (2 * LOG_2PI + z**2 + (x - z) ** 2)
    log_q = -0.5 * (LOG_2PI + math.log(variance) + draws**2)
    return log_p - log_q, -0.5 * (LOG_2PI + math.log(2) + x**2 / 2)


# likelihood


def test_exact_posterior_gives_the_evidence_with_any_number_of_samples() -> None:
    x = np.linspace(-3, 3, 7)
    log_w, log_z = gaussian_log_weights(x, 1.0, 200)
    result = importance_weighted_nll(log_w)
    np.testing.assert_allclose(result.nll, -log_z, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.elbo, log_z, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.ess, 200, rtol=1e-12)
    assert result.pareto_k.isnull().all()  # no tail: the weights are equal
    assert "7 of 7 images not needed" in result.pareto_k.attrs["note"]
    assert float(result.pareto_k_bad) == 0.0


def test_a_wide_guide_has_the_known_gap_and_effective_size() -> None:
    width, num_samples = 2.0, 200_000
    log_w, log_z = gaussian_log_weights(np.array([0.3, -1.0, 2.0]), width, num_samples)
    result = importance_weighted_nll(log_w)
    share = math.sqrt(2 * width - 1) / width  # 1 / E[w^2] for E[w] = 1
    np.testing.assert_allclose(result.ess / num_samples, share, rtol=0.01)
    error = math.sqrt((1 / share - 1) / num_samples)
    np.testing.assert_allclose(result.nll, -log_z, rtol=0, atol=5 * error)
    gap = 0.5 * (width - 1 - math.log(width))  # KL(q, posterior)
    np.testing.assert_allclose(log_z - result.elbo, gap, rtol=0, atol=0.02)


def test_the_bound_rises_to_the_evidence_with_more_samples() -> None:
    log_w, log_z = gaussian_log_weights(np.zeros(1500), 3.0, 64)
    bounds = [-float(importance_weighted_nll(log_w[:k]).nll_mean) for k in (1, 4, 16, 64)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < log_z[0] + 0.01
    assert bounds[-1] > log_z[0] - 0.01


def test_one_sample_is_the_elbo() -> None:
    log_w = np.array([[-90.25, -80.5, -101.0]])
    result = importance_weighted_nll(log_w)
    assert result.nll.values.tolist() == [90.25, 80.5, 101.0] == (-result.elbo).values.tolist()
    assert float(result.elbo_mean) == -float(result.nll_mean)


def test_equal_weights_are_exact_far_from_zero() -> None:
    result = importance_weighted_nll(np.full((1000, 3), -12345.678))
    assert (result.nll == 12345.678).all()
    assert (result.ess == 1000).all()


def test_mean_and_standard_error_over_images() -> None:
    result = importance_weighted_nll(np.tile([-1.0, -2.0, -3.0], (5, 1)))
    assert float(result.nll_mean) == 2.0
    assert float(result.nll_se) == pytest.approx(1 / math.sqrt(3))
    assert float(result.elbo_se) == pytest.approx(1 / math.sqrt(3))
    assert math.isnan(float(importance_weighted_nll(np.zeros((5, 1))).nll_se))


def test_bits_per_dimension_of_uniform_bytes_are_eight() -> None:
    dims = 3 * 32 * 32
    log_w = np.full((4, 2), -dims * math.log(256))
    assert float(importance_weighted_nll(log_w, num_dims=dims).bits_per_dim) == pytest.approx(8.0)
    assert "bits_per_dim" not in importance_weighted_nll(log_w)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", [1, 5, 16, 36])
def test_blocks_give_the_bits_of_the_whole(size: int, dtype: type) -> None:
    log_w = (3 * np.random.default_rng(1).standard_normal((60, 37)) - 90).astype(dtype)
    whole = importance_weighted_nll(log_w, num_dims=784)
    blocks = (log_w[:, i : i + size] for i in range(0, 37, size))
    assert importance_weighted_nll(blocks, num_dims=784).identical(whole)
    assert importance_weighted_nll(np.asfortranarray(log_w), num_dims=784).identical(whole)
    assert importance_weighted_nll([log_w[:, :size], log_w[:, size:]], num_dims=784).identical(
        whole
    )
    assert int(whole.num_images) == 37  # the odd last block is in


def test_a_stream_is_read_once_and_not_kept() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def stream() -> Iterator[np.ndarray]:
        for seed in range(6):
            assert not [reference for reference in alive if reference() is not None]
            alive.append(weakref.ref(block := np.random.default_rng(seed).random((30, 8))))
            yield block
            del block

    assert int(importance_weighted_nll(stream()).num_images) == 48


def test_a_dataarray_is_read_by_its_dims() -> None:
    log_w = np.random.default_rng(0).standard_normal((30, 4))
    named = xr.DataArray(log_w.T, dims=("image", "sample"))
    assert importance_weighted_nll(named).identical(importance_weighted_nll(log_w))


def test_every_variable_says_its_unit_and_survives_netcdf(tmp_path: Path) -> None:
    log_w = np.random.default_rng(0).standard_normal((10, 4))
    result = importance_weighted_nll(log_w, num_dims=784)
    for name, variable in result.data_vars.items():
        assert variable.attrs["units"], name
        assert variable.attrs["long_name"], name
    result.to_netcdf(tmp_path / "evaluation.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "evaluation.nc", engine="h5netcdf") as stored:
        xr.testing.assert_identical(stored.load(), result)


@pytest.mark.parametrize("k", [0.3, 0.5, 0.75, 1.0])
def test_pareto_k_of_a_known_tail(k: float) -> None:
    uniform = 1.0 - np.random.default_rng(0).random((10_000, 30))
    log_w = np.log(np.expm1(-k * np.log(uniform)) / k)
    result = importance_weighted_nll(log_w)
    assert float(result.pareto_k.mean()) == pytest.approx(k, abs=0.05)
    assert float(result.pareto_k_bad) == float((result.pareto_k > 0.7).mean())


def test_too_few_samples_leave_pareto_k_unknown() -> None:
    log_w = np.random.default_rng(0).standard_normal((25, 3))
    few = importance_weighted_nll(log_w[:24])
    assert few.pareto_k.isnull().all()
    assert math.isnan(float(few.pareto_k_bad))
    assert "24 samples are too few, give 25 or more" in few.pareto_k.attrs["note"]
    assert importance_weighted_nll(log_w).pareto_k.notnull().all()


@pytest.mark.filterwarnings("error")
def test_weights_of_zero_count_and_a_vanishing_tail_is_bad() -> None:
    log_w = np.zeros((100, 2))
    log_w[50:, 0] = -np.inf  # half the weights are zero, the others equal
    log_w[:, 1] = np.where(np.arange(100) < 3, np.arange(100), -np.inf)  # three weights for all
    result = importance_weighted_nll(log_w)
    assert float(result.nll[0]) == pytest.approx(math.log(2))
    assert float(result.ess[0]) == 50
    assert result.pareto_k.values[1] == np.inf
    assert float(result.pareto_k_bad) == 0.5
    assert float(result.elbo_mean) == -np.inf
    assert math.isnan(float(result.elbo_se))
    log_w[:, 1] = -1e3 * np.arange(100)  # all but one underflow
    assert importance_weighted_nll(log_w).pareto_k.values[1] == np.inf


def spoilt(value: float, rows: int | slice, image: int) -> np.ndarray:
    log_w = np.zeros((50, 9))
    log_w[rows, image] = value
    return log_w


@pytest.mark.parametrize(
    ("log_w", "said"),
    [
        (spoilt(np.nan, slice(0, 3), 7), "3 NaN and 0 +inf among the 50 weights of image 7:"),
        (spoilt(np.inf, 4, 2), "0 NaN and 1 +inf among the 50 weights of image 2:"),
        (spoilt(-np.inf, slice(None), 8), "all 50 weights of image 8 are -inf"),
        ([np.zeros((50, 4)), spoilt(np.nan, 0, 1)], "of image 5:"),
        (np.zeros((0, 3)), "one sample or more"),
        (np.zeros((3, 0)), "at least one image"),
        ([], "came shape (0,)"),
        (iter([]), "at least one image"),
        (np.zeros(5), "came shape (5,): for one image give w[:, None]"),
        (np.zeros((2, 3, 4)), "came shape (2, 3, 4)"),
        ([np.zeros((5, 2)), np.zeros((4, 2))], "a block has 4 samples, those before it 5"),
        (np.array([["a"]]), "expected floating-point numbers"),
        (3.0, "came float"),
        (xr.DataArray(np.zeros((2, 2)), dims=("image", "draw")), "came image, draw"),
    ],
)
def test_wrong_weights_are_refused_in_one_line(log_w: Any, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        importance_weighted_nll(log_w)
    assert "\n" not in str(caught.value)


def test_wrong_num_dims_is_refused() -> None:
    with pytest.raises(UsageError, match="num_dims"):
        importance_weighted_nll(np.zeros((2, 2)), num_dims=0)


# latents


def planted(images: int = 500, seed: int = 0) -> dict[str, np.ndarray]:
    """z1: standard deviations 1, 0.2, 0.09, 0 (two active); z2: (2, 3) maps, one number active."""
    rng = np.random.default_rng(seed)
    unit = rng.standard_normal((images, 5))
    unit = (unit - unit.mean(0)) / unit.std(0, ddof=1)
    maps = np.zeros((images, 2, 3))
    maps[:, 1, 2] = unit[:, 4]
    return {"z1": unit[:, :4] * [1.0, 0.2, 0.09, 0.0] + 7.0, "z2": maps}


def test_active_units_finds_what_is_planted() -> None:
    result = active_units(planted())
    assert result.active_units.to_series().to_dict() == {"z1": 2, "z2": 1}
    assert result.num_units.values.tolist() == [4, 6]
    np.testing.assert_allclose(result.variance[0, :4], [1.0, 0.04, 0.0081, 0.0], atol=1e-12)
    assert result.variance[0, 4:].isnull().all()
    assert active_units(planted(), threshold=0.005).active_units.values.tolist() == [3, 1]


def test_active_units_of_a_stream_are_those_of_the_whole() -> None:
    loc = planted()
    moments = {site: (mean, np.ones_like(mean)) for site, mean in loc.items()}
    blocks = ({s: m[0][i : i + 64] for s, m in moments.items()} for i in range(0, 500, 64))
    whole = active_units(moments)
    xr.testing.assert_allclose(active_units(blocks), whole, rtol=1e-10, atol=1e-12)
    assert whole.attrs["num_images"] == 500


def test_two_passes_take_the_noise_of_the_layers_above_out() -> None:
    rng = np.random.default_rng(0)
    images = 20_000
    signal = np.column_stack([rng.standard_normal(images), np.zeros(images)])
    first, second = ({"z1": signal + rng.standard_normal((images, 2))} for _ in range(2))
    assert active_units(first).active_units.item() == 2  # noise passes for activity
    both = active_units(first, again=second)
    np.testing.assert_allclose(both.variance[0], [1.0, 0.0], atol=5 * 2 / math.sqrt(images))
    assert active_units(first, again=second, threshold=0.05).active_units.item() == 1


@pytest.mark.parametrize(
    ("loc", "said"),
    [
        ({"z1": np.zeros((1, 3))}, "two images or more"),
        ({}, "no site"),
        ([], "two images or more"),
        (
            {"z1": np.array([[0.0], [np.nan]])},
            "site z1: the posterior mean of image 1 is not finite",
        ),
        ([{"z1": np.zeros((2, 3))}, {"z2": np.zeros((2, 3))}], "a block has sites z2"),
        ([{"z1": np.zeros((2, 3))}, {"z1": np.zeros((2, 4))}], "a block has 4 units"),
        ({"z1": np.zeros((2, 3)), "z2": np.zeros((3, 3))}, "z2 3"),
        (3, "came int"),
    ],
)
def test_wrong_moments_are_refused(loc: Any, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        active_units(loc)


def test_two_passes_over_different_images_are_refused() -> None:
    loc = {"z1": np.zeros((4, 3))}
    with pytest.raises(UsageError, match="give the same images"):
        active_units(loc, again={"z1": np.zeros((5, 3))})
    with pytest.raises(UsageError, match="more blocks"):
        active_units([loc], again=[loc, loc])
    with pytest.raises(UsageError, match="missing"):
        active_units([loc, loc], again=[loc])


# report


def evaluation(**changes: Any) -> dict[str, Any]:
    base = {
        "nll": 85.9,
        "nll_se": 0.62,
        "elbo": -90.35,
        "num_samples": 1000,
        "num_images": 1000,
        "bits_per_dim": 0.158,
        "kl": {"z1": 18.7, "z2": 6.5},
        "active_units": {"z1": 42, "z2": 18},
        "pareto_k_bad": 0.25,
        "data": "mnist",
        "binarisation": "dynamic",
        "split": "test",
    }
    return base | changes


def test_summary_has_the_keys_of_the_command_line_and_is_strict_json() -> None:
    result = importance_weighted_nll(np.full((10, 1), -3.0), num_dims=2)
    told = summary(
        result,
        kl={"z1": np.array([1.0, 3.0]), "z2": 0.5},
        active_units=active_units(planted()),
        data="digits",
        binarisation="dynamic",
        split="test",
    )
    assert list(told) == list(evaluation())
    assert told["nll"] == 3.0 == -told["elbo"]
    assert told["nll_se"] is None  # one image
    assert told["pareto_k_bad"] is None  # ten samples
    assert told["kl"] == {"z1": 2.0, "z2": 0.5}
    assert told["active_units"] == {"z1": 2, "z2": 1}
    assert told["bits_per_dim"] == pytest.approx(1.5 / math.log(2))
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_summary_takes_names_after_the_keys_but_no_measured_one() -> None:
    result = importance_weighted_nll(np.zeros((2, 2)))
    said: dict[str, Any] = {"data": "d", "binarisation": "none", "split": "test"}
    told = summary(result, kl={}, active_units={"z1": 3}, **said, run="runs/a", seed=1)
    assert list(told)[-2:] == ["run", "seed"]
    assert told["bits_per_dim"] is None
    with pytest.raises(UsageError, match="nll are measured"):
        summary(result, kl={}, active_units={}, **said, nll=1.0)


def test_protocols_never_share_a_section_and_bounds_never_a_column() -> None:
    sections = compare(
        [
            evaluation(run="a"),
            evaluation(run="a", num_samples=5000, nll=85.1),
            evaluation(run="b", num_samples=100, nll=86.9),
            evaluation(run="c", data="omniglot"),
            evaluation(run="d", num_images=10_000),
            evaluation(run="e", binarisation="static"),
        ]
    )
    assert [len(section.rows) for section in sections] == [2, 1, 1, 1]
    assert sections[0].bounds == ["-L_100", "-L_1000", "-L_5000"]
    first, second = sections[0].rows
    assert [str(first[name]) for name in sections[0].bounds] == [
        "None",
        "85.90 ± 0.62",
        "85.10 ± 0.62",
    ]
    assert second["-L_1000"] is None
    assert list(first)[:4] == ["data", "binarisation", "split", "images"]


def test_seeds_of_one_setting_stand_together_with_mean_and_deviation() -> None:
    (section,) = compare(
        [
            evaluation(run="a", recipe="one", seed=2, nll=86.0),
            evaluation(run="b", recipe="two", seed=0, nll=99.0),
            evaluation(run="c", recipe="one", seed=0, nll=84.0),
            evaluation(run="d", recipe="one", seed=1, nll=85.0),
        ]
    )
    assert [row["run"] for row in section.rows] == ["c", "d", "a", "mean ± sd", "b"]
    mean = section.rows[3]
    assert str(mean["-L_1000"]) == "85.00 ± 1.00"
    assert mean["seed"] == "3 seeds"
    assert mean["active"] is None


def test_one_run_measured_twice_is_two_rows_and_no_mean() -> None:
    (section,) = compare([evaluation(run="a", seed=0), evaluation(run="a", seed=0, nll=85.8)])
    assert [str(row["-L_1000"]) for row in section.rows] == ["85.90 ± 0.62", "85.80 ± 0.62"]


def test_table_of_one_stands_upright_and_of_many_lines_up() -> None:
    one = table([evaluation()])
    assert re.search(r"^data +mnist$", one, re.MULTILINE)
    assert one.startswith("data")
    assert re.search(r"^z2 +6\.50 \(18\)$", one, re.MULTILINE)
    many = table([evaluation(run="a", ppl="pyro"), evaluation(run="b", ppl="pyro", nll=105.25)])
    assert many.startswith("ppl pyro\n\ndata")  # what all share is said once
    header, rule, first, second = many.split("\n\n")[1].splitlines()
    ends = {header.index("-L_1000") + 7, *(row.index("0.62") + 4 for row in (first, second))}
    assert len(ends) == 1
    assert set(rule) == {"-", " "}


def test_markdown_table_has_as_many_cells_in_every_line() -> None:
    text = table([evaluation(run="a"), evaluation(run="b", bits_per_dim=None)], style="markdown")
    for part in text.split("\n\n"):
        lines = part.splitlines()
        if lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1
    with pytest.raises(UsageError, match="style"):
        table([evaluation()], style="html")


def test_deep_hierarchies_put_sites_down_the_page() -> None:
    kl = {f"z{i}": 1.0 for i in range(1, 46)}
    runs = [evaluation(kl=kl, active_units={}, run=name) for name in "ab"]
    assert max(map(len, table(runs).split("(active units)")[1].splitlines())) < 40


@pytest.mark.parametrize(
    ("evaluations", "said"),
    [([], "one or more"), ([{"nll": 1.0, "run": "a"}], "a lacks num_samples, data, binarisation")],
)
def test_evaluations_without_a_protocol_are_not_compared(evaluations: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        compare(evaluations)


# figures


def history(epochs: int, sites: int, *, valid: bool = True) -> xr.Dataset:
    """What `fit` returns, with made-up curves."""
    rng = np.random.default_rng(0)
    epoch = np.arange(1, epochs + 1)
    names = [f"z{i}" for i in range(1, sites + 1)]
    kl = 10.0 * np.exp(-np.arange(sites)) * (1 - np.exp(-epoch / 3))[:, None]
    elbo = -90 - 400 * np.exp(-epoch / 2) + rng.normal(0, 0.1, epochs)
    spread = 1 + rng.random((epochs, sites))
    data: dict[str, Any] = {
        "elbo": ("step", elbo),
        "log_likelihood": ("step", elbo + kl.sum(1)),
        "kl": (("step", "site"), kl),
        "kl_weight": ("step", np.minimum(1, epoch / 5)),
        "grad_norm": ("step", rng.random(epochs) * 10),
        "skipped": ("step", (epoch % 7 == 0).astype(int)),
        "posterior_loc": (("step", "site", "bound"), np.stack([-spread, spread], -1)),
        "posterior_scale": (("step", "site", "bound"), np.stack([0.5 / spread, spread], -1)),
    }
    if valid:
        data |= {"valid_elbo": ("step", elbo - 2), "valid_kl": (("step", "site"), kl)}
    coords = {"step": 10 * epoch, "epoch": ("step", epoch), "site": names}
    bounds = {"bound": ["lowest", "highest"]}
    return xr.Dataset(data, coords | bounds, attrs={"data": "digits", "ppl": "pyro"})


def checked(path: Path) -> Image.Image:
    """A whole PNG, legible at a page's width and small."""
    assert path.stat().st_size < MAX_BYTES
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        picture.load()
        assert 200 < picture.width <= 1000
        assert 60 < picture.height <= 1200
        assert not list(path.parent.glob(".*tmp"))
        return picture.convert("RGB")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "draw", [figures.learning_curves, figures.kl_by_site, figures.posterior_range]
)
@pytest.mark.parametrize(("epochs", "sites", "valid"), [(1, 1, False), (1, 5, True), (30, 9, True)])
def test_figures_of_a_history(
    draw: Callable[..., Path], epochs: int, sites: int, valid: bool, tmp_path: Path
) -> None:
    checked(draw(history(epochs, sites, valid=valid), tmp_path / "figures" / "a.png"))


@pytest.mark.filterwarnings("error")
def test_figures_do_with_what_a_history_has(tmp_path: Path) -> None:
    full = history(12, 3)
    checked(figures.learning_curves(full[["elbo"]], tmp_path / "a.png"))
    full["valid_elbo"][:] = np.nan
    full["kl"][:] = 0.0
    checked(figures.learning_curves(full, tmp_path / "b.png"))
    checked(figures.kl_by_site(full, tmp_path / "c.png"))
    with pytest.raises(UsageError, match="expected kl over"):
        figures.kl_by_site(full[["elbo"]], tmp_path / "d.png")
    with pytest.raises(UsageError, match="one epoch or more"):
        figures.learning_curves(full.isel(step=slice(0)), tmp_path / "d.png")


@pytest.mark.filterwarnings("error")
def test_comparison_figures(tmp_path: Path) -> None:
    runs = {f"seed {i}": history(5 + i, 2) for i in range(9)}
    checked(figures.compare_curves(runs, tmp_path / "a.png"))
    runs["other"] = history(5, 2).assign_attrs(data="mnist")
    two = checked(figures.compare_curves(runs, tmp_path / "c.png"))  # a panel for each data set
    assert two.height > 1.5 * checked(tmp_path / "a.png").height
    measured = [
        evaluation(run="a"),
        evaluation(run="a", num_samples=5),
        evaluation(run="b", split="valid", nll_se=None),
    ]
    checked(figures.compare_likelihoods(measured, tmp_path / "b.png"))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 130, 90), (2, 5, 9)])
@pytest.mark.filterwarnings("error")
def test_figures_of_images(shape: tuple[int, int, int], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, *shape), dtype=np.uint8)
    grey = (images / 255).astype(np.float32)
    path = tmp_path / "a.png"
    checked(figures.image_grid(images, path, title="Prior samples, temperature 1.0"))
    checked(figures.image_grid(images[:1], path))
    checked(figures.reconstructions(images[:13], grey[:13], path))
    checked(figures.samples_with_neighbours(grey[:7], images, path))
    checked(figures.samples_over_time([(e, grey[:9]) for e in range(20)], path))


def pixels(picture: Image.Image, value: int) -> int:
    return int((np.asarray(picture) == value).all(axis=2).sum())


def test_pixels_are_whole_squares_of_the_right_grey(tmp_path: Path) -> None:
    image = np.array([[[[0, 51], [102, 204]]]], dtype=np.uint8)
    for given in (image, image / 255):
        picture = checked(
            figures.image_grid(given, tmp_path / "a.png", title="A title of some length")
        )
        tiles = picture.crop((0, 32, picture.width, picture.height))  # below the title
        sizes = {pixels(tiles, value) for value in (51, 102, 204)}
        assert sizes == {36 * 36}
    binary = checked(figures.image_grid((image > 100).astype(np.uint8), tmp_path / "b.png"))
    assert pixels(binary, 0) >= 2 * 36 * 36  # zeros and ones are black and white, not nearly black


def test_nearest_images_are_found_across_blocks_with_their_distance() -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (101, 1, 6, 6), dtype=np.uint8)
    wanted = [100, 0, 57]
    samples = train[wanted] / 255
    samples[1, 0, 0, 0] += 0.25 if samples[1, 0, 0, 0] < 0.5 else -0.25
    for block in (1, 10, 2048):
        index, distance = figures.nearest_images(samples, train, block=block)
        assert index.tolist() == wanted
        np.testing.assert_allclose(distance, [0.0, 0.25, 0.0], atol=1e-12)


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda p: figures.image_grid(np.zeros((3, 8, 8)), p), "came shape (3, 8, 8)"),
        (lambda p: figures.image_grid(np.zeros((0, 1, 8, 8)), p), "one or more"),
        (lambda p: figures.image_grid(np.full((1, 1, 8, 8), np.nan), p), "NaN or infinite"),
        (lambda p: figures.samples_over_time([], p), "came none"),
        (lambda p: figures.compare_curves({}, p), "came none"),
        (
            lambda p: figures.reconstructions(np.zeros((2, 1, 8, 8)), np.zeros((2, 1, 8, 9)), p),
            "came (2, 1, 8, 9)",
        ),
        (
            lambda p: figures.samples_with_neighbours(
                np.zeros((2, 1, 8, 8)), np.zeros((2, 3, 8, 8)), p
            ),
            "came (3, 8, 8)",
        ),
    ],
)
def test_wrong_images_are_refused(draw: Callable[[Path], Path], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        draw(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_figure_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = figures.image_grid(np.zeros((1, 1, 8, 8)), tmp_path / "a.png")
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        figures.image_grid(np.ones((1, 1, 8, 8)), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_evaluation_loads_neither_ppl() -> None:
    """But for what ArviZ itself loads: its newer parts import JAX where it is installed."""
    code = (
        "import sys, arviz_base, arviz_stats; before = set(sys.modules); import evaluation; "
        "print(sorted({'torch', 'jax', 'pyro', 'numpyro'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_passes_that_nobody_measures_are_of_few_large_images(ppl: str) -> None:
    """A categorical pixel has 256 parameters a channel; Very Deep VAE has wide maps."""
    import importlib

    from ppl_vae.memory import images_at_once
    from ppl_vae.recipes import build, read

    models = importlib.import_module(f"models.{ppl}")
    rngs = {} if ppl == "pyro" else {"rngs": importlib.import_module("flax.nnx").Rngs(0)}
    assert images_at_once(models.VAE((1, 28, 28), **rngs), 1000) == 1000
    small = read("vqvae-cifar10", ["model.init_args.hidden=[4, 4]"])
    assert images_at_once(build(small, ppl, (3, 32, 32))[0], 1000) == 2**28 // (768 * 1024)
    wide = models.VeryDeepVAE((1, 64, 64), "1,64m1", width=256, bottleneck=0.02, **rngs)
    assert images_at_once(wide, 1000) == 2**28 // (2 * 256 * 64**2)
    assert images_at_once(lambda x: None, 1000) == 1000
