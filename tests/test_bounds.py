"""log p(x) between bounds: ladder of K, annealed chains, local answers, and the checks of a run."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conjugate import LINEAR, STAIRS
from zoo import PPLS, Case, images, noisy, room, side

from benchmarks import evaluation_memory, linear_gaussian_bdmc
from benchmarks.linear_gaussian import LinearGaussian
from evaluation import annealed_bounds, gap_parts, likelihood_ladder
from ppl_vae import cli
from ppl_vae.annealing import AnnealingSettings, schedule
from ppl_vae.errors import UsageError

STARTS = ("prior", "guide")
SMALL = LinearGaussian(num_data=200, num_observed=3, num_latents=2, noise=1.5)
SHORT = {"num_temperatures": 8, "num_leapfrogs": 2, "pilot_temperatures": 10, "num_chains": 8}


def annealed(ppl: str, pair: Any, x: Any, start: str, latents: Any = None, **changes: Any) -> Any:
    settings = AnnealingSettings(start=start, **{**SHORT, **changes})  # type: ignore[arg-type]
    with side(ppl).precision("float64"):
        return room(ppl).annealed_log_weights(*pair, x, settings, latents=latents)


# Annealing


def test_schedule_rises_from_0_to_1_and_is_its_own_mirror() -> None:
    betas = schedule(101)
    assert betas[0] == 0.0
    assert betas[-1] == 1.0
    assert (np.diff(betas) > 0).all()
    np.testing.assert_allclose(betas + betas[::-1], 1.0, atol=1e-12)
    assert betas[1] - betas[0] < 0.2 * (betas[51] - betas[50])


@pytest.mark.parametrize("start", STARTS)
def test_weights_are_unbiased_however_short_the_chains(ppl: str, start: str) -> None:
    """E[w] = p(x) forwards; backwards from an exact posterior draw E[w'] = 1 / p(x)."""
    found = annealed(ppl, SMALL.programs(ppl, 1.3), SMALL.x, start, SMALL.latents)
    for log_ratio in (found.forward - SMALL.log_evidence, found.reverse + SMALL.log_evidence):
        assert log_ratio.dtype == np.float64
        ratio = np.exp(log_ratio).mean(0)  # chains back from one draw are not independent
        assert abs(ratio.mean() - 1.0) < 4 * ratio.std(ddof=1) / np.sqrt(len(ratio))
        assert ratio.std() > 0.01  # there is something to be unbiased about
    assert found.step_size.shape == (8, len(SMALL.x))
    assert (found.acceptance > 0.2).all()


def test_bounds_close_on_the_likelihood(ppl: str) -> None:
    """The benchmark's own measure, with fewer points, fewer and shorter chains."""
    settings = AnnealingSettings(
        start="guide", num_temperatures=60, num_chains=8, num_leapfrogs=4, pilot_temperatures=60
    )
    row = linear_gaussian_bdmc.measured(LinearGaussian(num_data=30), ppl, settings)
    assert row["lower_less_exact"] < 3 * row["lower_se"]
    assert row["upper_less_exact"] > -3 * row["upper_se"]
    assert row["gap"] < 0.15  # the guide's own divergence is 1.1 nats
    assert row["acceptance"] == pytest.approx(0.65, abs=0.1)


@pytest.mark.parametrize("up", [True, False], ids=["bottom-up", "top-down"])
def test_from_the_exact_posterior_every_weight_is_the_likelihood(ppl: str, up: bool) -> None:
    """log p(x, z) - log q(z | x) is constant, wherever the moves lead; two sites, either order."""
    found = annealed(ppl, STAIRS.programs(ppl, up), STAIRS.x, "guide", num_chains=3)
    np.testing.assert_allclose(found.forward, np.tile(STAIRS.log_evidence, (3, 1)), atol=1e-5)


def test_blocks_see_every_image_once(ppl: str) -> None:
    pair, settings = LINEAR.programs(ppl), AnnealingSettings(start="guide", **SHORT)  # type: ignore[arg-type]
    with side(ppl).precision("float64"):
        found = room(ppl).annealed_log_weights(*pair, LINEAR.x, settings, block=16)
    np.testing.assert_allclose(found.forward, np.tile(LINEAR.log_evidence, (8, 1)), atol=1e-4)


def own_program(ppl: str, prior: str) -> Any:
    """x | z ~ Exponential(z), and for z a Gamma, a Poisson, or a Normal that all images share."""
    if ppl == "pyro":
        import pyro as library
        import pyro.distributions as dist
        import torch

        ones: Any = lambda n: torch.ones(n, dtype=torch.float64)  # noqa: E731
    else:
        import jax.numpy as jnp
        import numpyro as library  # type: ignore[no-redef]
        import numpyro.distributions as dist  # type: ignore[no-redef]

        ones = jnp.ones

    def model(x: Any = None, *, n: Any = None) -> Any:
        n = n if x is None else len(x)
        if prior == "shared":
            z = library.sample("z1", dist.Normal(0.0, 1.0))
        with library.plate("data", n):
            if prior == "gamma":
                z = library.sample("z1", dist.Gamma(3 * ones(n), 2 * ones(n)))
            if prior == "poisson":
                z = library.sample("z1", dist.Poisson(ones(n)))
            rate = 0.1 + z.reshape(-1, 1, 1, 1) if prior == "poisson" else z.reshape(-1, 1, 1, 1)
            rate = rate * ones(n).reshape(-1, 1, 1, 1)
            rate = rate**2 if prior == "shared" else rate
            return library.sample("x", dist.Exponential(rate).to_event(3), obs=x)

    return model


def test_positive_latents_of_an_own_program(ppl: str) -> None:
    """z ~ Gamma(3, 2), x ~ Exponential(z): p(x) = 3 · 2³ / (2 + x)⁴; no guide is needed."""
    x = np.random.default_rng(0).exponential(1.0, 300)
    found = annealed(ppl, (own_program(ppl, "gamma"), None), x.reshape(-1, 1, 1, 1), "prior")
    ratio = np.exp(found.forward - np.log(24 / (2 + x) ** 4)).mean(0)
    assert abs(ratio.mean() - 1.0) < 4 * ratio.std(ddof=1) / np.sqrt(len(ratio))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("poisson", "site z1 is discrete .*: sum it out of the model"),
        ("shared", "site z1 is shared between images"),
    ],
)
def test_sites_without_moves_of_their_own_are_refused(ppl: str, prior: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        annealed(ppl, (own_program(ppl, prior), None), np.ones((3, 1, 1, 1)), "prior")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prior_layers", [0, 1])
def test_codes_are_discrete_although_their_values_are_vectors(ppl: str, prior_layers: int) -> None:
    model, guide = Case(ppl, "vq-vae", "vector-quantizer").build(prior_layers=prior_layers)
    with pytest.raises(UsageError, match="site z1 is discrete"):
        room(ppl).check_moves(model)
    with pytest.raises(UsageError, match="site z1 is discrete"):
        room(ppl).annealed_log_weights(model, None, images(n=1), AnnealingSettings(start="prior"))
    with pytest.raises(UsageError, match=r"site z1: .* is discrete"):
        room(ppl).nuts(model, guide, images(n=1), num_chains=2, num_warmup=1, num_draws=4)
    with pytest.raises(UsageError, match="site z1 is discrete"):
        room(ppl).infer_missing(model, guide, np.ones((1, 3, 5, 4), np.float32), 1)
    with pytest.raises(UsageError, match=r"site z1 is discrete \(Poisson\)"):
        room(ppl).infer_missing(
            own_program(ppl, "poisson"), None, np.ones((1, 2, 1, 1), np.float32), 1
        )
    room(ppl).check_moves(LINEAR.programs(ppl).model)


def test_wrong_questions_are_refused(ppl: str) -> None:
    model, guide = LINEAR.programs(ppl)
    call = room(ppl).annealed_log_weights
    with pytest.raises(UsageError, match="expected prior with no guide"):
        call(model, None, LINEAR.x, AnnealingSettings(start="guide"))
    automatic = side(ppl).automatic(model)
    with pytest.raises(UsageError, match="expected prior with an automatic guide"):
        call(model, automatic, LINEAR.x, AnnealingSettings(start="guide"))
    with pytest.raises(UsageError, match="batch_norm: expected running"):
        call(model, guide, LINEAR.x, batch_norm="batch")
    with pytest.raises(UsageError, match="did you mean 'mean_field'"):
        room(ppl).local_elbo(model, guide, LINEAR.x, family="meanfield")
    with pytest.raises(UsageError, match="num_steps: expected at least 1"):
        room(ppl).local_elbo(model, guide, LINEAR.x, num_steps=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "posterior"}, "did you mean|Known: guide, prior"),
        ({"num_temperatures": 1}, "num_temperatures: expected at least 2, came 1"),
        ({"num_chains": 0}, "num_chains: expected at least 1"),
        ({"target_acceptance": 1.0}, "target_acceptance: expected between 0 and 1"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AnnealingSettings(**changes)


# Densities at vectors


@pytest.mark.parametrize(
    ("by", "guide"),
    [("prior", "mean-field"), ("guide", "ladder"), ("guide", "bottom-up"), ("site", "ladder")],
)
def test_densities_agree_and_carry_their_jacobian(by: str, guide: str) -> None:
    """In the prior's noise the prior is N(0, I), in the guide's the guide; alike in both PPLs."""
    pairs = {ppl: Case(ppl, "hierarchy", guide).build() for ppl in PPLS}
    weights = noisy(room("pyro").state(*pairs["pyro"]))
    u = 0.5 * np.random.default_rng(0).standard_normal((6, 6))
    found: dict[str, Any] = {}
    for ppl, pair in pairs.items():
        with side(ppl).precision("float64"):
            side(ppl).double(*pair)
            room(ppl).load_state(*pair, weights)
            side(ppl).set_training(*pair, False)
            found[ppl] = densities(ppl, pair, by, u, images(dtype=np.float64))
    for name, value in found["pyro"].items():
        np.testing.assert_allclose(found["numpyro"][name], value, rtol=1e-9, err_msg=name)
    assert found["pyro"]["back"].shape == u.shape
    np.testing.assert_allclose(found["pyro"]["back"], u, rtol=1e-9, atol=1e-9)
    normal = -0.5 * (np.square(u) + np.log(2 * np.pi)).sum(1)
    if by != "site":
        name = {"prior": "log_prior", "guide": "log_guide"}[by]
        np.testing.assert_allclose(found["pyro"][name], normal, rtol=1e-9)


def densities(ppl: str, pair: Any, by: str, u: Any, x: Any) -> dict[str, Any]:
    """The three densities at u, and u again from the values of the sites that it stands for."""
    module = importlib.import_module(f"ppl_vae.{ppl}.densities")
    of = module.Densities(*pair, by)
    start = "prior" if by == "prior" else "guide"
    if ppl == "pyro":
        import torch

        with torch.no_grad():
            x, u = torch.as_tensor(x), torch.as_tensor(u)
            of.draw(x, start)
            density, back = of(u, x), of.at(_values(module, of, u, x), x)
    else:
        import jax.numpy as jnp
        from numpyro import handlers

        with handlers.seed(rng_seed=0):
            x, u = jnp.asarray(x), jnp.asarray(u)
            of.draw(x, start)
            density, back = of(u, x), of.at(_values(module, of, u, x), x)
    named = {name: np.asarray(v) for name, v in density._asdict().items() if v is not None}
    return {**named, "back": np.asarray(back)}


def _values(module: Any, of: Any, u: Any, x: Any) -> dict[str, Any]:
    """{site: value} at u, as the handler places them."""
    placed, kept = module._Placed, []

    class Watched(placed):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            kept.append(self)

    module._Placed = Watched
    try:
        of(u, x)
    finally:
        module._Placed = placed
    return dict(kept[0].values)


# Local answers


@pytest.mark.parametrize(
    ("diagonal", "family", "is_exact"),
    [
        (True, "conditional", False),
        (False, "mean_field", False),
        (False, "conditional", True),
        (True, "iaf", True),
    ],
)
def test_local_answer_is_the_best_of_its_family(
    ppl: str, diagonal: bool, family: str, is_exact: bool
) -> None:
    r"""Independent Normals fall short of a Normal posterior of precision P by
    :math:`\tfrac12 (\sum_i \log P_{ii} - \log \det P)`; full Normals and flows reach it."""
    problem = LinearGaussian(num_data=60, num_observed=8, num_latents=3)
    precision = np.linalg.inv(problem.covariance)
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    pair = problem.programs(ppl, 1.5, diagonal=diagonal)
    with side(ppl).precision("float64"):
        found = room(ppl).local_elbo(*pair, problem.x, family=family, num_steps=200)
    short = problem.log_evidence - found["elbo"]
    error = short.std(ddof=1) / np.sqrt(len(short))
    assert abs(short.mean() - (0.0 if is_exact else gap)) < 4 * error + 0.01
    assert error < 0.05
    assert gap > 0.1
    assert found["curve"].shape == (200,)
    if family == "conditional" and not diagonal:  # it begins at the guide
        begun = problem.log_evidence - found["begun"]
        expected = 0.5 * 3 * (1.5**2 - 1 - 2 * np.log(1.5))
        assert begun.mean() == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize(("family", "gap"), [("mean_field", 0.5 * np.log(4 / 3)), ("iaf", 0.0)])
def test_two_sites_are_apart_in_a_mean_field_and_joined_by_flows(
    ppl: str, family: str, gap: float
) -> None:
    """The stairs' posterior has precision [[2, -1], [-1, 2]]: 0.144 nats of approximation."""
    with side(ppl).precision("float64"):
        found = room(ppl).local_elbo(
            *STAIRS.programs(ppl, False),
            STAIRS.x,
            family=family,
            num_steps=100,
            num_samples=64,
            learning_rate=0.1,
            eval_samples=4000,
            flows=1,
            width=4,
        )
    np.testing.assert_allclose(STAIRS.log_evidence - found["elbo"], gap, atol=0.05)


def flow(ppl: str, nets: Any, u: Any) -> tuple[Any, Any]:
    """(y, log determinant) of vectors u (rows, 5), sites of 3 and 2, by `ImageFlows`."""
    flows = importlib.import_module(f"ppl_vae.{ppl}.local_flows").ImageFlows((3, 2), width=6)
    if ppl == "pyro":
        import torch
        from torch.utils import _pytree

        found = flows(_pytree.tree_map(torch.as_tensor, nets), torch.as_tensor(u))
    else:
        import jax
        import jax.numpy as jnp

        found = flows(jax.tree.map(jnp.asarray, nets), jnp.asarray(u))
    y, log_det = (np.asarray(part) for part in found)
    return y, log_det


def test_flows_are_each_images_own_and_count_their_volume() -> None:
    """Alike in both PPLs; the log determinant is that of the slopes, triangular across sites."""
    rng = np.random.default_rng(0)
    nets = []
    for size, inputs in ((3, 3), (2, 5)):
        shapes = {"into": (6, inputs), "bias": (6,)}
        shapes |= {"out": (2 * size, 6), "direct": (2 * size, inputs)}
        nets.append([{k: rng.normal(0, 0.5, (2, *s)) for k, s in shapes.items()} for _ in "ab"])
    u = rng.standard_normal((4, 5))  # two draws of two images
    found = {}
    for ppl in PPLS:
        with side(ppl).precision("float64"):
            found[ppl] = flow(ppl, nets, u)
            nudged = [flow(ppl, nets, u + h * e)[0] for e in np.eye(5) for h in (1e-6, -1e-6)]
    for one, other in zip(found["pyro"], found["numpyro"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    slopes = np.stack(nudged).reshape(5, 2, 4, 5)  # (unit moved, up and down, row, unit)
    jacobian = np.moveaxis((slopes[:, 0] - slopes[:, 1]) / 2e-6, 0, -1)
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], found["pyro"][1], rtol=1e-6)
    np.testing.assert_allclose(jacobian[:, :3, 3:], 0.0, atol=1e-9)  # none from the site below
    assert (np.abs(jacobian[:, 3:, :3]) > 1e-3).all()
    swapped = flow("pyro", nets, u[[1, 0, 2, 3]])[0]
    assert np.abs(swapped[:2] - found["pyro"][0][[1, 0]]).min() > 1e-6  # another image's flow


def test_flows_refuse_a_site_too_large_for_them(ppl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"ppl_vae.{ppl}.local.MOST", 2)
    with pytest.raises(UsageError, match="site z1 of 3 units, came flows"):
        room(ppl).local_elbo(*LINEAR.programs(ppl), LINEAR.x, family="iaf")


# Arrays


def test_every_rung_is_over_disjoint_blocks_of_the_whole_stream() -> None:
    log_w = LINEAR.log_ratios(1.5, (23, 7))
    found = likelihood_ladder(log_w, ladder=(1, 5, 11))
    for k in (1, 5, 11):
        parts = [log_w[i : i + k] for i in range(0, 23 - k + 1, k)]
        expected = np.mean(
            [np.logaddexp.reduce(part, axis=0) - np.log(k) for part in parts], axis=0
        )
        np.testing.assert_allclose(found["bound"].sel(K=k), expected, rtol=1e-12)
        assert int(found["bound_blocks"].sel(K=k)) == 23 // k
    np.testing.assert_allclose(found["bound"].sel(K=1), found["elbo"])
    cut = likelihood_ladder(iter((log_w[:, :3], log_w[:, 3:])), ladder=(1, 5, 11))
    xr.testing.assert_identical(cut, found)


def test_ladder_leads_to_the_likelihood() -> None:
    """Weights of a too wide guide have a variance: what is left falls as 1 / K."""
    found = likelihood_ladder(LINEAR.log_ratios(1.5, (1000, 400)), ladder=(1, 10, 100, 1000))
    measured = found["bound_mean"].values
    assert (np.diff(measured) > 0).all()
    assert measured[0] == pytest.approx(-LINEAR.gap(1.5), abs=4 * float(found["bound_se"][0]))
    error = float(found["extrapolated_gain_se"])
    assert abs(float(found["extrapolated"])) < 4 * float(found["extrapolated_se"])
    assert 0 < float(found["extrapolated_gain"]) < 0.01
    assert 0 < error < 0.01
    assert 0.7 < float(found["extrapolated_exponent"]) <= 1.0


def test_no_limit_is_made_up() -> None:
    """Equal weights rise to nothing; two rungs tell no curve."""
    flat = likelihood_ladder(np.zeros((1000, 3)))
    short = likelihood_ladder(LINEAR.log_ratios(1.5, (100, 9)))
    for found in (flat, short):
        assert np.isnan(found["extrapolated"])
        assert np.isnan(found["extrapolated_exponent"])


@pytest.mark.parametrize("ladder", [(), (0, 1), (10, 1), (1, 11)])
def test_wrong_rungs_are_refused(ladder: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="ladder: expected"):
        likelihood_ladder(np.zeros((10, 2)), ladder=ladder)


def test_bounds_by_hand() -> None:
    found = annealed_bounds(np.log([[1.0, 2.0], [3.0, 2.0]]), np.log([[0.25, 0.5], [0.25, 0.5]]))
    np.testing.assert_allclose(np.exp(found["lower"]), [2.0, 2.0])
    np.testing.assert_allclose(np.exp(found["upper"]), [4.0, 2.0])
    assert float(found["gap_mean"]) == pytest.approx(np.log(2) / 2)
    np.testing.assert_allclose(found["ess"], [1.6, 2.0])
    np.testing.assert_allclose(found["lower_chain_se"], [0.5, 0.0])
    for wrong, said in (
        ([1.0], "came .1,."),
        ([[np.nan, 0.0]], "image 0"),
        ([[0.0, np.inf]], "image 1"),
    ):
        with pytest.raises(UsageError, match=said):
            annealed_bounds(wrong)
    with pytest.raises(UsageError, match="reverse: expected 2 images"):
        annealed_bounds(np.zeros((3, 2)), np.zeros((3, 1)))


def test_gap_parts_by_hand() -> None:
    bounds = {"L_10": [-3.0, -1.0], "AIS": [-2.0, -1.5]}  # the second is higher on average
    found = gap_parts(bounds, [-5.0, -4.0], {"mean_field": [-4.0, -2.0]})
    assert found["log_likelihood"].attrs["bound"] == "AIS"
    np.testing.assert_allclose(found["approximation"].sel(family="mean_field"), [2.0, 0.5])
    np.testing.assert_allclose(found["amortization"].sel(family="mean_field"), [1.0, 2.0])
    assert float(found["total_mean"]) == pytest.approx(2.75)
    with pytest.raises(UsageError, match="mean_field: expected"):
        gap_parts(bounds, [-5.0, -4.0], {"mean_field": [-4.0]})


def test_memory_benchmark_runs(ppl: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluation_memory.main(["--ppl", ppl, "--one", "5", "30"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 5


# A run


TINY = (
    "--set", "model.init_args={latents: [3, 2], hidden: [8, 4], layers: 1, batch_norm: true}",
    "--set", "training.epochs=2",
)  # fmt: skip
QUICK = [
    f"{check}.{setting}"
    for check, settings in {
        "ais": "images=4 starts=[prior] temperatures=6 chains=3 leapfrogs=2 samples=30",
        "bdmc": "images=4 starts=[guide] temperatures=6 chains=3 leapfrogs=2 samples=30",
        "gap": "images=4 temperatures=0 samples=30 steps=3 eval_samples=8 width=4",
    }.items()
    for setting in settings.split()
]
# XLA takes seconds for each of NumPyro's programs; every family has tests of its own in both.
FAMILIES = {
    "pyro": ("mean_field", "conditional", "iaf", "conditional_iaf"),
    "numpyro": ("conditional_iaf",),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert cli.main(["train", "lvae-digits", "--out", str(path), *TINY]) == 0
    return path


def test_checks_of_a_run(ppl: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["evaluate", run, "--ppl", ppl, "--samples", "120", "--images", "9", "--json"]
    argv += ["--check", "ladder,gap", "--bound", "ais", "--bound", "bdmc"]
    families = f"gap.families=[{','.join(FAMILIES[ppl])}]"
    argv += [part for setting in (*QUICK, families) for part in ("--set", setting)]
    capsys.readouterr()
    assert cli.main([str(part) for part in argv]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["checks"]
    assert list(told["ladder"]["bounds"]) == ["L_1", "L_10", "L_100", "L_120"]
    assert told["ais"]["images"] == told["bdmc"]["images"] == told["gap"]["images"] == 4
    assert told["bdmc"]["gap_guide"] == pytest.approx(
        told["bdmc"]["upper_guide"] - told["bdmc"]["lower_guide"]
    )
    for family in FAMILIES[ppl]:
        parts = (told["gap"][f"{part}_{family}"] for part in ("approximation", "amortization"))
        assert sum(parts) == pytest.approx(told["gap"]["total"])
    tree = xr.load_datatree(run / "evaluation.nc", engine="h5netcdf")
    assert tree["likelihood/bound_mean"].values.tolist() == list(told["ladder"]["bounds"].values())
    assert tree["ais/lower"].dims == ("start", "image")
    assert tree["bdmc/gap"].attrs["units"] == "nats per image"
    for name in ("ladder", "bdmc-guide", "gap"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 2000


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--check", "ladder", "--set", "ladder.samples=0"), "ladder.samples: expected at least 1"),
        (
            ("--bound", "ais", "--set", "ais.temperatures=1"),
            "num_temperatures: expected at least 2",
        ),
        (("--bound", "ais", "--set", "ais.starts=[guid]"), "start: unknown 'guid'"),
        (("--bound", "bdmc", "--set", "bdmc.images=0"), "bdmc.images: expected at least 1"),
        (("--bound", "ais", "--set", "ais.temprature=5"), "did you mean 'temperatures'"),
        (("--bound", "ais", "--set", "gap.images=5"), "gap was not asked for: add --check gap"),
        (("--bound", "ais", "--set", "ais.starts=prior"), "expected a list of str, such as"),
        (("--bound", "ais", "--batch-norm", "batch"), "batch_norm: expected running"),
        (("--check", "gap", "--set", "gap.families=[ifa]"), "gap.families: unknown 'ifa'"),
        (("--check", "gap", "--set", "gap.families=[]"), "gap.families: expected some of"),
        (("--check", "gap", "--set", "gap.steps=0"), "gap.steps: expected at least 1"),
        (("--check", "nuts", "--set", "nuts.images=[3]"), "nuts.images: expected places from 0"),
    ],
)
def test_what_a_check_cannot_do_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--samples", "2", "--images", "3", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]


def test_heavy_tails_are_told_plainly(tmp_path: Path) -> None:
    """The chapter's warning has the share of images whose Pareto k is above 0.7."""
    from ppl_vae.judging.ladder import chapter

    rng = np.random.default_rng(0)
    log_w = np.concatenate([rng.exponential(2.0, (3000, 3)), rng.normal(0, 0.1, (3000, 5))], 1)
    told: Callable[[Any], Any] = lambda w: chapter(likelihood_ladder(w), tmp_path).warnings  # noqa: E731
    assert "above 0.7 for 37.5 % of the images" in told(log_w)[0]
    assert told(log_w[:, 3:]) == ()
    assert "25 samples or more" in told(log_w[:5])[0]
