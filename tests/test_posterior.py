"""The posterior by chains, weights and replicas, against closed forms; what must be refused is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arviz_stats
import numpy as np
import pytest
import xarray as xr
from conjugate import LINEAR, LinearGaussian
from scipy import stats
from zoo import PPLS, Case, images, noisy, room, side

from evaluation.pictures import worst_images
from evaluation.pixelwise import leave_one_image_out, leave_one_pixel_out
from evaluation.posterior import agreement, convergence, plot_forests, posterior_tree
from evaluation.predictive import (
    components,
    image_statistics,
    pixel_mean,
    plot_predictive,
    predictive_p_values,
    predictive_tree,
    stroke_width,
)
from ppl_vae import cli
from ppl_vae.errors import UsageError

X = LINEAR.x.reshape(5, 4)
MEAN = (X - LINEAR.bias) @ LINEAR.gain.T
SCALE = np.sqrt(np.diag(LINEAR.covariance))


def linear(ppl: str, call: str, *args: Any, widen: float = 1.0, **kwargs: Any) -> Any:
    """A public call on the linear-Gaussian pair, in float64."""
    with side(ppl).precision("float64"):
        return getattr(room(ppl), call)(*LINEAR.programs(ppl, widen), *args, **kwargs)


# The model at given latents


@pytest.mark.parametrize("ppl", PPLS)
def test_densities_in_closed_form(ppl: str) -> None:
    z = np.random.default_rng(0).standard_normal((3, 5, LINEAR.num_latents))
    pixels = stats.norm(z @ LINEAR.weight.T + LINEAR.bias, LINEAR.noise).logpdf(X)
    found = linear(ppl, "log_densities", LINEAR.x, {"z1": z})
    np.testing.assert_allclose(found["log_likelihood"], pixels.sum(-1), rtol=1e-9)
    log_prior = stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(found["log_prior"]["z1"], log_prior, rtol=1e-9)
    by_pixel = linear(ppl, "pixel_log_likelihood", LINEAR.x, {"z1": z})
    np.testing.assert_allclose(by_pixel, pixels, rtol=1e-9)


def test_densities_agree_in_both_ppls() -> None:
    """A hierarchy with batch norm, one set of weights, float64."""
    x, found = images(dtype=np.float64), {}
    pairs = {ppl: Case(ppl, "hierarchy", "ladder").build() for ppl in PPLS}
    weights = noisy(room("pyro").state(*pairs["pyro"]))
    rng = np.random.default_rng(1)
    z = {s: rng.standard_normal((2, len(x), n)) for s, n in (("z3", 1), ("z2", 2), ("z1", 3))}
    with side("numpyro").precision("float64"):
        for ppl, pair in pairs.items():
            side(ppl).double(*pair)
            room(ppl).load_state(*pair, weights)
            densities = room(ppl).log_densities(*pair, x, z)
            densities["pixels"] = room(ppl).pixel_log_likelihood(*pair, x, z)
            found[ppl] = densities
    for name in ("log_likelihood", "pixels"):
        np.testing.assert_allclose(found["numpyro"][name], found["pyro"][name], rtol=1e-9)
    for site, value in found["pyro"]["log_prior"].items():
        np.testing.assert_allclose(found["numpyro"]["log_prior"][site], value, rtol=1e-9)


@pytest.mark.parametrize("ppl", PPLS)
def test_weights_of_the_exact_posterior_are_the_evidence(ppl: str) -> None:
    latents, log_weights = linear(ppl, "weighted_draws", LINEAR.x, 4)
    assert latents["z1"].shape == (4, 5, LINEAR.num_latents)
    np.testing.assert_allclose(log_weights, np.tile(LINEAR.log_evidence, (4, 1)), rtol=1e-6)


@pytest.mark.parametrize("ppl", PPLS)
def test_factors_of_the_guide_are_no_part_of_a_weight(ppl: str) -> None:
    with side(ppl).precision("float64"):
        _, log_weights = room(ppl).weighted_draws(*LINEAR.programs(ppl, factor=3.0), LINEAR.x, 2)
    np.testing.assert_allclose(log_weights, np.tile(LINEAR.log_evidence, (2, 1)), rtol=1e-6)


@pytest.mark.parametrize("ppl", PPLS)
def test_replicas_come_from_the_posterior_predictive(ppl: str) -> None:
    """x̃ | x ~ N(W E[z | x] + b, W S Wᵀ + s²), and without the image N(b, W Wᵀ + s²)."""
    draws = 400
    found = linear(ppl, "replicates", LINEAR.x, draws).reshape(draws, 5, 4)
    own = LINEAR.noise**2 * np.eye(4)
    sd = np.sqrt(np.diag(LINEAR.weight @ LINEAR.covariance @ LINEAR.weight.T + own))
    error = (found.mean(0) - MEAN @ LINEAR.weight.T - LINEAR.bias) / (sd / np.sqrt(draws))
    assert np.abs(error).max() < 4.5
    ratio = found.std(0, ddof=1) / sd
    assert np.abs(ratio - 1).max() < 4.5 / np.sqrt(2 * draws)
    with side(ppl).precision("float64"):
        drawn = room(ppl).simulate(LINEAR.programs(ppl).model, 1250)
    assert drawn["z1"].shape == (1250, LINEAR.num_latents)
    x = np.asarray(drawn["x"]).reshape(1250, 4)
    sd = np.sqrt(np.diag(LINEAR.weight @ LINEAR.weight.T + own))
    assert np.abs((x.mean(0) - LINEAR.bias) / sd).max() < 4.5 / np.sqrt(1250)
    assert np.abs(x.std(0, ddof=1) / sd - 1).max() < 4.5 / np.sqrt(2 * 1250)


@pytest.mark.parametrize("ppl", PPLS)
def test_latents_must_be_the_models(ppl: str) -> None:
    with pytest.raises(UsageError, match="the model has z1"):
        linear(ppl, "log_densities", LINEAR.x, {"z2": np.zeros((1, 5, 3))})


# Chains


@pytest.mark.parametrize("ppl", PPLS)
def test_chains_find_the_posterior_that_the_guide_misses(ppl: str) -> None:
    """Means and deviations in closed form; the guide's 1.5 times too wide, as it was made."""
    count, draws = (2, 300) if ppl == "numpyro" else (1, 100)  # Pyro's chains take their time
    settings = {"num_warmup": draws // 3, "num_draws": draws}
    chains = linear(ppl, "nuts", LINEAR.x[:count], widen=1.5, seed=1, **settings)
    tree = posterior_tree(chains, images=range(count))
    found = convergence(tree)
    if ppl == "numpyro":  # four times 100 draws in Pyro are fewer than the effective size asked
        assert found["converged"].all()
    assert found["divergences"].sum() == 0
    z = tree["posterior"]["z1"]
    error = (z.mean(("chain", "draw")) - MEAN[:count]) / arviz_stats.mcse(z)
    assert np.abs(error).max() < 4.5
    spread = z.std(("chain", "draw")) / SCALE
    assert np.abs(spread - 1).max() < 4.5 / np.sqrt(
        2 * float(arviz_stats.ess(z, method="sd").min())
    )
    apart = agreement(tree, converged=xr.ones_like(found["converged"]))
    assert np.abs(apart["ratio_z1"] - 1.5).max() < 0.3
    assert np.abs(apart["shift_z1"]).max() < 0.3
    z = z.transpose("chain", "draw", "image", "z1_unit").values
    log_joint = stats.norm(z @ LINEAR.weight.T + LINEAR.bias, LINEAR.noise).logpdf(X[:count])
    expected = log_joint.sum(-1) + stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(tree["sample_stats"]["lp"], expected, rtol=1e-9)


def chains_of(shift: float, images: int = 3, seed: int = 0) -> Any:
    """Chains as a sampler would give them: one of image 1 is `shift` away from the others."""
    rng = np.random.default_rng(seed)
    posterior = {"z2": rng.standard_normal((4, 300, images, 2))}
    posterior["z1"] = rng.standard_normal((4, 300, images, 3, 2))
    posterior["z1"][2, :, 1, 1, 0] += shift
    guide = {
        site: rng.standard_normal((900, images, *v.shape[3:])) for site, v in posterior.items()
    }
    return SimpleNamespace(
        x=np.zeros((images, 1, 2, 2)),
        posterior=posterior,
        guide={"z2": 0.5 + 2 * guide["z2"], "z1": guide["z1"]},
        stats={"diverging": np.zeros((4, 300, images), bool)},
    )


def test_what_has_not_converged_is_compared_with_nothing(tmp_path: Path) -> None:
    tree = posterior_tree(chains_of(shift=3.0), images=[4, 7, 8])
    found, apart = convergence(tree), agreement(tree)
    assert found["converged"].values.tolist() == [True, False, True]
    assert float(found["rhat"].sel(site="z1", image=7)) > 1.1
    assert apart["shift_z1"].sel(image=7).isnull().all()
    assert apart["ratio"].sel(image=7).isnull().all()
    assert apart["ratio"].sel(site="z2", image=4) == pytest.approx(2.0, abs=0.2)
    assert apart["shift"].sel(site="z2", image=4) == pytest.approx(0.5, abs=0.2)
    pictures = plot_forests(tree, tmp_path, limit=3)
    assert set(pictures) == {4, 8} == {int(p.stem[-1]) for p in tmp_path.glob("*.png")}


def test_too_few_draws_have_not_converged() -> None:
    """An effective size of 400 cannot be had of 4 chains of 50."""
    chains = chains_of(shift=0.0)
    chains.posterior = {site: value[:, :50] for site, value in chains.posterior.items()}
    chains.stats = {}
    assert not convergence(posterior_tree(chains))["converged"].any()


def test_arviz_reads_the_tree(tmp_path: Path) -> None:
    tree = posterior_tree(chains_of(shift=0.0))
    tree.to_netcdf(tmp_path / "posterior.nc", engine="h5netcdf")
    kept = xr.load_datatree(tmp_path / "posterior.nc", engine="h5netcdf")
    assert len(arviz_stats.summary(kept)) == 3 * (2 + 6)
    assert kept["posterior"]["z1"].dims == ("chain", "draw", "image", "z1_unit")


def programs_of_coins(ppl: str) -> tuple[Any, Any]:
    """A model whose latent is heads or tails, and its prior for a guide."""
    if ppl == "pyro":
        import pyro as library
        import pyro.distributions as dist
        from torch import full, zeros_like
    else:
        import numpyro as library  # type: ignore[no-redef]
        import numpyro.distributions as dist
        from jax.numpy import full, zeros_like  # type: ignore[assignment]

    def guide(x: Any) -> None:
        with library.plate("data", len(x)):
            library.sample("z1", dist.Bernoulli(full((len(x),), 0.5)))

    def model(x: Any) -> None:
        with library.plate("data", len(x)):
            z = library.sample("z1", dist.Bernoulli(full((len(x),), 0.5)))
            pixels = dist.Normal(zeros_like(x) + z[:, None, None, None], 1.0)
            library.sample("x", pixels.to_event(3), obs=x)

    return model, guide


@pytest.mark.parametrize("ppl", PPLS)
def test_what_chains_cannot_sample_is_one_line(ppl: str) -> None:
    x, nuts = np.zeros((2, 1, 2, 2), np.float32), room(ppl).nuts
    with pytest.raises(UsageError, match="site z1: Bernoulli"):
        nuts(*programs_of_coins(ppl), x)
    with pytest.raises(UsageError, match="site w is shared between images"):
        nuts(*side(ppl).shared(), x)
    with pytest.raises(UsageError, match="batch_norm: expected 'running' or 'recomputed'"):
        nuts(*LINEAR.programs(ppl), x, batch_norm="batch")
    with pytest.raises(UsageError, match="num_chains: expected at least 2, came 1"):
        nuts(*LINEAR.programs(ppl), x, num_chains=1)


# Pixels and images left out


def test_pixels_left_out_in_closed_form() -> None:
    """log p(x_d | the others) of a Gaussian, from posterior draws and from weighted ones."""
    one = LinearGaussian(num_latents=1, noise=2.0)
    x = one.x.reshape(5, 4)
    full = one.weight @ one.weight.T + one.noise**2 * np.eye(4)
    joint = stats.multivariate_normal(one.bias, full).logpdf(x)
    others = [[i for i in range(4) if i != d] for d in range(4)]
    rest = [
        stats.multivariate_normal(one.bias[o], full[np.ix_(o, o)]).logpdf(x[:, o]) for o in others
    ]
    exact = joint[:, None] - np.stack(rest, axis=1)
    mean, sd = (x - one.bias) @ one.gain.T, np.sqrt(one.covariance[0, 0])
    rng = np.random.default_rng(0)
    for widen in (1.0, 1.4):
        z = mean + widen * sd * rng.standard_normal((4000, 5, 1))
        pixels = stats.norm(z @ one.weight.T + one.bias, one.noise).logpdf(x)
        log_p = pixels.sum(-1) + stats.norm.logpdf(z).sum(-1)
        log_weights = log_p - stats.norm(mean, widen * sd).logpdf(z).sum(-1)
        found = leave_one_pixel_out(pixels, None if widen == 1.0 else log_weights)
        np.testing.assert_allclose(found["elpd_i"], exact, atol=0.05)
        np.testing.assert_allclose(found["elpd"], exact.sum(1), atol=0.1)
        assert (found["pareto_k_bad"] == 0).all()


def test_a_draw_without_a_weight_leaves_no_pixel_out() -> None:
    pixels, log_weights = np.zeros((20, 2, 4)), np.zeros((20, 2))
    log_weights[3, 1] = np.nan
    with pytest.raises(UsageError, match="log_weights: NaN or infinity"):
        leave_one_pixel_out(pixels, log_weights)


def test_an_image_cannot_be_left_out() -> None:
    with pytest.raises(UsageError, match="its posterior is the prior"):
        leave_one_image_out(np.zeros((10, 5)))


# Image statistics


def test_statistics_of_drawn_bars() -> None:
    for width in range(1, 7):
        image = np.zeros((1, 50, 60))
        image[0, 10 : 10 + width, 5:55] = 1.0
        found = image_statistics(image)
        assert found["stroke width"] == pytest.approx(width, abs=0.03)
        assert found["components"] == 1
        assert found["pixel mean"] == pytest.approx(width * 50 / 3000)
    blank = np.zeros((28, 28))
    assert (pixel_mean(blank), stroke_width(blank), components(blank)) == (0.0, 0.0, 0.0)
    assert stroke_width(np.ones((7, 7))) > 0
    diagonal = np.eye(5)
    assert components(diagonal) == 1.0
    assert components(np.where(np.arange(5) % 2, 0.0, diagonal)) == 3.0
    grey = (255 * np.eye(4)).astype(np.uint8)[None, None].repeat(3, axis=1)
    assert image_statistics(grey)["pixel mean"].tolist() == [0.25]


def bars(rng: Any, *shape: int, highest: int = 5) -> Any:
    """Images of one bar of random width, 1 to `highest`."""
    widths = rng.integers(1, highest + 1, shape)
    return (np.arange(12)[:, None] < widths[..., None, None, None]) * np.ones((1, 12, 12))


def test_predictive_p_values(tmp_path: Path) -> None:
    """Uniform where the prior is right, with ties by half; at an end where the data are thicker."""
    rng = np.random.default_rng(0)
    replicas = bars(rng, 20, 100)
    right = predictive_tree(bars(rng, 100), replicas, bars(rng, 20, 100))
    p = predictive_p_values(right)
    assert abs(float(p["p_prior"].sel(statistic="pixel mean").mean()) - 0.5) < 4.5 * 0.29 / 100**0.5
    assert (p["p_same"] > 1e-3).all()
    # every image is one of five widths: the p of the thinnest is 0.9 and not 1
    thin = float(p["p_prior"].sel(statistic="pixel mean").max())
    assert thin == pytest.approx(0.9, abs=0.12)
    wrong = predictive_p_values(predictive_tree(bars(rng, 100, highest=9), replicas, replicas))
    assert float(wrong["p_set"].sel(source="prior", moment="mean", statistic="pixel mean")) == 0.0
    assert float(wrong["p_same"].sel(statistic="pixel mean")) < 1e-6
    assert float(wrong["extreme"].sel(statistic="pixel mean")) > 0.2
    assert float(p["p_set"].sel(source="prior", moment="mean", statistic="components")) == 0.5
    assert plot_predictive(right, tmp_path / "p.png").stat().st_size > 5000


def test_replicas_must_be_of_the_images() -> None:
    x = np.zeros((3, 1, 4, 4))
    with pytest.raises(UsageError, match=r"prior: expected \(draws, 3, 1, 4, 4\)"):
        predictive_tree(x, np.zeros((2, 3, 1, 4, 4)), np.zeros((2, 4, 1, 4, 4)))


def test_worst_images_come_by_falling_k(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((3, 1, 8, 8))
    path = worst_images(x, x, np.array([0.2, 0.9, np.nan]), tmp_path / "w.png", places=[5, 6, 7])
    assert path.stat().st_size > 2000
    with pytest.raises(UsageError, match="one k and one reconstruction for each of 3 images"):
        worst_images(x, x, np.zeros(2), tmp_path / "w.png")


# The command line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ladder, trained for an epoch in Pyro."""
    path = tmp_path_factory.mktemp("runs") / "pyro"
    tiny = "model.init_args={latents: [2, 1], hidden: [8, 4], layers: 1}"
    argv = ["train", "lvae-digits", "--out", str(path), "--set", tiny]
    assert cli.main([*argv, "--set", "training.epochs=1"]) == 0
    return path


def test_checks_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All four: numbers in the JSON, arrays in one file, pictures; chains carried to NumPyro."""
    changes = (
        "calibration.simulations=500", "calibration.draws=9", "calibration.panels=2",
        "nuts.images=[2, 0]", "nuts.chains=2", "nuts.warmup=10", "nuts.draws=10",
        "psis.samples=30", "psis.worst=3", "psis.pixels=[1]",
        "predictive.images=5", "predictive.draws=4",
    )  # fmt: skip
    sets = [part for change in changes for part in ("--set", change)]
    argv = ["evaluate", str(run), "--samples", "2", "--images", "6", "--json", *sets]
    capsys.readouterr()
    assert cli.main([*argv, "--check", "calibration,nuts,psis,predictive"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["checks"]
    assert set(told["calibration"]["calibrated"]) == {"z1", "z2"}
    assert told["nuts"]["sampled_in"] == "numpyro"
    assert told["nuts"]["converged"] == [False, False]  # ten draws are too few
    assert told["nuts"]["shift"] == {"z1": None, "z2": None}
    assert len(told["psis"]["worst"]) <= 3
    assert told["predictive"]["images"] == 5
    kept = xr.load_datatree(run / "evaluation.nc", engine="h5netcdf")
    assert kept["likelihood"].sizes["image"] == 6
    assert kept["calibration"]["rank"].dims == ("simulation", "quantity")
    assert kept["nuts/posterior"]["image"].values.tolist() == [2, 0]
    assert len(arviz_stats.summary(kept["nuts"])) == 2 * 3
    assert kept["psis/pixels"].sizes == {"image": 1, "pixel": 64}
    assert kept["predictive/prior_predictive"].sizes == {"chain": 1, "draw": 4, "image": 5}
    for name in ("calibration", "psis", "predictive"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 2000


@pytest.mark.parametrize(
    ("check", "change", "message"),
    [
        ("calibration", "simulations=499", "calibration.simulations: expected 500 or more"),
        ("calibration", "draws=0", "calibration.draws: expected at least 1, came 0"),
        ("calibration", "levl=0.1", "did you mean 'level'"),
        ("nuts", "images=[6]", "nuts.images: expected places from 0 to 5, came [6]"),
        ("nuts", "chains=1", "num_chains: expected at least 2, came 1"),
        ("psis", "samples=0", "psis.samples: expected at least 1, came 0"),
        ("psis", "pixels=[-1]", "psis.pixels: expected places from 0 to 5"),
        ("predictive", "draws=0", "predictive.draws: expected at least 2, came 0"),
    ],
)
def test_bad_settings_are_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], check: str, change: str, message: str
) -> None:
    argv = ["evaluate", str(run), "--samples", "1", "--images", "6", "--check", check]
    capsys.readouterr()
    assert cli.main([*argv, "--set", f"{check}.{change}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert message in line
