"""What the latents hold and tell: truths in closed form, and the two checks on a small run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conjugate import STAIRS, LinearGaussian
from zoo import room, side

from evaluation import (
    bits_back,
    linear_probe,
    mutual_information,
    principal_components,
    purity,
    two_dimensional,
)
from ppl_vae import cli
from ppl_vae.errors import UsageError

RNG = np.random.default_rng(0)
ANGLE = np.deg2rad(30)
TURN = np.array([[np.cos(ANGLE), np.sin(ANGLE)], [-np.sin(ANGLE), np.cos(ANGLE)]])


def test_principal_components_find_planted_directions() -> None:
    """Variances 9 and 1 along two axes turned by 30 degrees: 0.9 and 0.1 of the whole."""
    scores = RNG.standard_normal((200, 2))
    scores = np.linalg.qr(scores - scores.mean(0))[0] * [3.0, 1.0]  # exactly uncorrelated
    found = principal_components(scores @ TURN)
    np.testing.assert_allclose(np.abs(found["directions"]), np.abs(TURN), atol=1e-10)
    np.testing.assert_allclose(found["explained"], [0.9, 0.1], atol=1e-10)
    np.testing.assert_allclose(np.abs(found["scores"]), np.abs(scores), atol=1e-10)


def test_principal_components_of_less_than_asked_for() -> None:
    found = principal_components(np.array([[0.0], [2.0], [4.0]]))
    np.testing.assert_allclose(found["scores"].values[:, 0], [-2, 0, 2])
    assert np.isnan(found["scores"].values[:, 1]).all()
    np.testing.assert_allclose(found["explained"], [1, 0])


def groups(per_group: int = 40, distance: float = 20.0) -> tuple[Any, Any]:
    """Three groups in the plane far apart, and their labels."""
    centres = distance * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    codes = centres[:, None] + RNG.standard_normal((3, per_group, 2))
    return codes.reshape(-1, 2), np.repeat([0, 1, 2], per_group)


def test_separable_codes_are_pure_and_read_off() -> None:
    codes, labels = groups()
    assert purity(codes, labels) == 1.0
    assert linear_probe(codes[::2], labels[::2], codes[1::2], labels[1::2]) == 1.0
    assert purity(codes, labels, num_clusters=1) == pytest.approx(1 / 3)


def test_codes_that_tell_nothing_are_at_chance() -> None:
    codes = RNG.standard_normal((2000, 2))
    labels = np.tile([0, 1], 1000)
    assert purity(codes, labels) < 0.55
    assert linear_probe(codes[:1000], labels[:1000], codes[1000:], labels[1000:]) < 0.56


def test_tsne_keeps_neighbours() -> None:
    codes, labels = groups(15)
    view = two_dimensional(codes, "tsne")
    assert view.shape == (45, 2)
    assert purity(view, labels) == 1.0
    with pytest.raises(UsageError, match="view: expected one of pca, tsne"):
        two_dimensional(codes, "umap")


def test_labels_are_asked_for_in_one_line() -> None:
    codes, labels = groups()
    with pytest.raises(UsageError, match=r"labels: expected one label an image, came none"):
        purity(codes, None)
    with pytest.raises(UsageError, match=r"train_labels: expected two classes or more"):
        linear_probe(codes, 0 * labels, codes, labels)
    with pytest.raises(UsageError, match=r"labels: expected one label for each of 120 images"):
        purity(codes, labels[:5])


@pytest.mark.parametrize("noise", [0.7, 3.0])
def test_information_of_the_linear_model(ppl: str, noise: float) -> None:
    """I(x; z) = log det(I + W W' / s²) / 2, between the two bounds, which are near each other."""
    linear = LinearGaussian(num_latents=2, noise=noise)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 2)) @ linear.weight.T + linear.bias
    x = (x + noise * rng.standard_normal(x.shape)).reshape(-1, 1, 2, 2)
    gram = linear.weight @ linear.weight.T / noise**2
    exact = 0.5 * np.linalg.slogdet(np.eye(4) + gram)[1]
    with side("numpyro").precision("float64"):
        log_q = room(ppl).cross_log_prob(*linear.programs(ppl), x)
    found = mutual_information(log_q).sel(site="z1")
    error = 4 * float(found.lower_se)
    assert float(found.lower) - error < exact < float(found.upper) + error
    assert float(found.lower) == pytest.approx(exact, abs=0.15 + error)
    assert float(found.upper) - float(found.lower) < 0.5


def test_information_cannot_exceed_its_ceiling() -> None:
    """Posteriors that never meet: log N from below, and all sites' divergence from above."""
    apart = -1e4 * (1 - np.eye(50))
    found = mutual_information({"z2": apart, "z1": apart}, {"z2": 6.0, "z1": np.full(50, 1.5)})
    np.testing.assert_allclose(found["lower"], np.log(50))
    np.testing.assert_allclose(found["gain"], [np.log(50), 0.0], atol=1e-12)
    np.testing.assert_allclose(found["upper"], [1e4, 7.5])
    np.testing.assert_allclose(found["ceiling"], np.log(50))


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.filterwarnings("ignore:.*samples its sites in another order")
def test_information_whichever_way_the_guide_goes(ppl: str, up: bool) -> None:
    """The stairs: I(x; z1) = log(3) / 2, I(x; z2) = log(1.5) / 2, and z1 tells all that both do.

    E log q(z1 | x) - log p(z1 | z2) of the guide that goes up is 0.2, less than z1 tells.
    """
    images = 400
    x = np.sqrt(3) * np.random.default_rng(0).standard_normal((images, 1, 1, 1))
    programs = STAIRS.programs(ppl, up)
    with side("numpyro").precision("float64"):
        log_q = room(ppl).cross_log_prob(*programs, x)
        terms = room(ppl).site_terms(*programs, x)["kl"]
        units = room(ppl).unit_kl(*programs, x)
    found = mutual_information(log_q, terms)
    exact = {"z1": np.log(3) / 2} if up else {"z2": np.log(1.5) / 2}
    exact |= {"z2" if up else "z1": np.log(3) / 2}
    for site, nats in exact.items():
        one = found.sel(site=site)
        error = 4 * float(one.lower_se)
        assert float(one.lower) - error < nats < float(one.upper) + error
    assert set(units) == ({"z2"} if up else {"z1", "z2"})
    sure = 4 * np.std(terms["z1"]) / np.sqrt(images)
    expected = 0.5 * (np.log(3) - np.log(2)) if up else np.log(2) / 2
    assert float(np.mean(terms["z1"])) == pytest.approx(expected, abs=sure)


def test_information_refuses() -> None:
    with pytest.raises(UsageError, match=r"log_q: site z1: expected \(draw, image\)"):
        mutual_information({"z1": np.zeros((3, 2))})
    with pytest.raises(UsageError, match="kl: site z1 is missing, came z2"):
        mutual_information({"z1": np.zeros((3, 3))}, {"z2": 1.0})


def test_bits_back_adds_up() -> None:
    found = bits_back([-3.0, -5.0], [-10.0, -9.0], {"z2": [1.0, 2.0], "z1": [0.5, 0.0]})
    np.testing.assert_allclose(found["saved"], [7, 4])
    np.testing.assert_allclose(found["cost"], [1.5, 2])
    np.testing.assert_allclose(found["net"], [5.5, 2])
    np.testing.assert_allclose(found["cost_by_site"], [1.5, 0.25])
    with pytest.raises(UsageError, match=r"bits_back: expected as many images"):
        bits_back([-3.0], [-10.0, -9.0], {"z1": [1.0]})


def test_bits_back_nets_the_elbo_over_independent_pixels(ppl: str) -> None:
    """net = ELBO - log p̄(x): for one blind latent both parts are nothing."""
    x = np.ones((4, 1, 2, 2), np.float32)
    pair = side(ppl).blind(0.7)
    terms = room(ppl).site_terms(*pair, x)
    found = bits_back(
        terms["log_likelihood"], room(ppl).latent_free_log_prob(*pair, x), terms["kl"]
    )
    np.testing.assert_allclose(found["saved"], 0, atol=1e-5)
    np.testing.assert_allclose(found["cost"], 0, atol=1e-6)


TINY = (
    "--set", "model.init_args={latents: [3, 2], hidden: [16, 8], layers: 1}",
    "--set", "training.epochs=2",
)  # fmt: skip
SMALL = (
    "--images", "40", "--samples", "5", "--check", "latents,collapse",
    "--set", "latents.probe_images=200", "--set", "latents.steps=3", "--set", "collapse.draws=10",
    "--set", "latents.traversals=2", "--set", "latents.shown=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ladder, trained once."""
    path = tmp_path_factory.mktemp("runs") / "a"
    assert cli.main(["train", "lvae-digits", "--out", str(path), *TINY]) == 0
    return path


def test_checks_of_a_run(
    trained: Path,
    tmp_path: Path,
    ppl: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All that is told and drawn; in NumPyro of a set without labels."""
    readings = {"purity", "probe_accuracy"}
    if ppl == "numpyro":
        request.getfixturevalue("unlabelled")
    run = tmp_path / "a"
    shutil.copytree(trained, run)
    assert cli.main(["evaluate", str(run), "--ppl", ppl, "--json", *SMALL]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["checks"]
    latents, collapse = told["latents"], told["collapse"]
    assert readings & set(latents) == (set() if ppl == "numpyro" else readings)
    for name in {"active_units", "active_units_kl", "moved", *(readings & set(latents))}:
        assert set(latents[name]) == {"z1", "z2"}
    assert 0 <= latents["active_units_kl"]["z1"] <= 3
    assert collapse["active"] == sum(latents["active_units_kl"].values())
    assert collapse["cost"] == pytest.approx(sum(latents["kl"].values()), rel=1e-4)
    assert collapse["net"] == pytest.approx(collapse["saved"] - collapse["cost"], rel=1e-6)
    assert collapse["information_lower"] <= collapse["information_ceiling"] == np.log(40)
    tree = xr.open_datatree(run / "evaluation.nc")
    assert tree["latents/scores"].dims == ("site", "image", "component")
    assert tree["collapse/books/saved"].attrs["units"] == "nats per image"
    drawn = {path.stem for path in (run / "figures").glob("*.png")}
    wanted = {"units", "activity", "pca", "tsne", "redrawn", "traversals", "interpolation"}
    assert {f"latents_{name}" for name in wanted} | {"collapse"} <= drawn


def test_history_counts_active_units(trained: Path) -> None:
    history = xr.open_dataset(trained / "history.nc")
    for name in ("active_units", "active_units_kl"):
        assert history[name].dims == ("step", "site")
        assert (history[name] <= [3, 2]).all()
        assert (history[name] >= 0).all()


@pytest.fixture
def unlabelled(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, on digits without labels."""
    from dataclasses import replace

    from ppl_vae import experiment

    loaded = experiment.load_data

    def without(recipe: Any) -> Any:
        data = loaded(recipe)
        bare = {name: replace(getattr(data, name), labels=None) for name in ("train", "test")}
        return replace(data, **bare)

    monkeypatch.setattr(experiment, "load_data", without)
    return trained


def test_labels_demanded_where_there_are_none(
    unlabelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", str(unlabelled), "--json", "--images", "20", "--samples", "5"]
    assert cli.main([*argv, "--check", "latents", "--set", "latents.labels=true"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("ppl-vae: error: latents.labels: expected a data set with labels")
