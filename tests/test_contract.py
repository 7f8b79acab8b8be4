"""What every model, every guide and every pair of them promises, in both PPLs."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from zoo import CASES, PAIRS, PPLS, X_SHAPE, Case, images, noisy, room, side

from ppl_vae.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*samples its sites in another order")
LADDERS = [pair for pair in PAIRS if pair.model == "hierarchy"]
BOTH_WAYS = [pair for pair in LADDERS if pair.guide in ("ladder", "bottom-up")]
# All guides in Pyro; in NumPyro, where XLA takes seconds for each program, the two orders.
QUICK = [pair for pair in LADDERS if pair.ppl == "pyro" or pair in BOTH_WAYS]
# NVAE and Very Deep VAE, which XLA takes long to compile, have their own guides for all.
DEEP = ("nvae", "very-deep")
DEEPEST = [pair for pair in PAIRS if pair.guide == pair.model]
COMPILED = [
    pair
    for pair in PAIRS
    if pair.model not in DEEP or pair.guide == pair.model or str(pair).startswith("pyro-very-deep")
]


def over(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=str)


# Sites and shapes


@over(PAIRS)
def test_sites_are_the_model_s(case: Case) -> None:
    """The table's sites, top first, in the model and in the guide."""
    model, guide = case.build()
    assert dict(guide.sites) == room(case.ppl).latent_sites(model) == case.sites
    assert list(guide.sites) == list(case.sites)
    assert room(case.ppl).data_shape(model) == X_SHAPE
    found, latents = side(case.ppl).asked(model, guide, images())
    assert latents == {z: (6, *event) for z, event in case.sites.items()}
    assert found == {
        "log p(x)",
        "log p(x | z)",
        *(f"{d}({z})" for z in case.sites for d in ("log p", "log q", "kl", "sampled kl")),
    }


@over([pair for pair in QUICK if pair.guide != "mean-field"])
def test_shapes_of_every_answer(case: Case) -> None:
    pair, x = case.build(), images()
    ppl = room(case.ppl)
    weights = np.asarray(ppl.log_weights(*pair, x, 2, block=6))
    assert weights.shape == (2, 6)
    if case.ppl == "pyro":  # JAX would compile each cut anew, and has a key for each row
        cut = ppl.log_weights(*pair, x, 2, block=1)
        np.testing.assert_allclose(cut, weights, rtol=1e-5)
    found = ppl.site_terms(*pair, x)
    assert found["log_likelihood"].shape == (6,)
    assert {z: kl.shape for z, kl in found["kl"].items()} == dict.fromkeys(case.sites, (6,))
    moments = ppl.posterior_moments(*pair, x)
    for z, event in case.sites.items():
        assert [part.shape for part in moments[z]] == [(6, *event)] * 2
        assert (moments[z][1] > 0).all()
    drawn = ppl.sample(pair[0], 6)
    expected = {**{z: (6, *event) for z, event in case.sites.items()}, "x": (6, *X_SHAPE)}
    assert side(case.ppl).shapes(drawn) == {**expected, "x_mean": (6, *X_SHAPE)}
    drawn = ppl.posterior_sample(*pair, x, 2)
    expected = {z: (2, 6, *event) for z, event in case.sites.items()}
    assert side(case.ppl).shapes(drawn) == {**expected, "x_mean": (2, 6, *X_SHAPE)}


@over([case for case in CASES if (case.model, case.guide) == ("hierarchy-conv", "ladder")])
def test_images_in_the_likelihood_s_range(case: Case) -> None:
    """Whether data, drawn or averaged: floating point, in the table's ranges."""
    pair, x = case.build(), images(case.likelihood)
    found = {name: np.asarray(v) for name, v in room(case.ppl).sample(pair[0], 6).items()}
    found["reconstruction"] = np.asarray(room(case.ppl).reconstruct(*pair, x))
    for name in ("x", "x_mean", "reconstruction"):
        assert found[name].shape == (6, *X_SHAPE)
        assert found[name].dtype == np.float32
        if case.likelihood != "normal":
            assert ((found[name] >= 0) & (found[name] <= 1)).all()
    levels = {"bernoulli": 1, "normal": 0}.get(case.likelihood, 255)
    if levels:
        np.testing.assert_allclose(found["x"] * levels, np.round(found["x"] * levels), atol=1e-4)
    assert np.isfinite(np.asarray(room(case.ppl).log_weights(*pair, found["x"], 1))).all()


@over([pair for pair in PAIRS if (pair.model, pair.guide) == ("vae", "mean-field")])
def test_one_image_at_a_time(case: Case) -> None:
    """Batches of one train, where there is no batch norm."""
    pair = case.build()
    before = room(case.ppl).state(*pair)
    fitted = room(case.ppl).fit(*pair, images(), epochs=1, batch_size=1, progress=False)
    assert fitted.history["step"].values.tolist() == [6]
    assert np.isfinite(fitted.history["elbo"]).all()
    assert still(before, room(case.ppl).state(*pair)) == []
    assert np.shape(room(case.ppl).log_weights(*pair, images(n=1), 1)) == (1, 1)


@over([pair for pair in PAIRS if pair.guide == "ladder" and "conv" in pair.model])
@pytest.mark.parametrize("x_shape", [(1, 7, 3), (3, 1, 1)])
def test_odd_sizes(case: Case, x_shape: tuple[int, ...]) -> None:
    """Sides that do not halve evenly, and single pixels, come back in their own size."""
    pair, x = case.build(x_shape=x_shape), images(x_shape=x_shape)
    found = room(case.ppl).posterior_sample(*pair, x, 1)["x_mean"]
    assert np.shape(found) == (1, 6, *x_shape)
    assert np.isfinite(np.asarray(found)).all()


@over([pair for pair in LADDERS if pair.guide == "ladder"])
def test_float64_all_the_way(case: Case) -> None:
    with side(case.ppl).precision("float64"):
        pair, x = case.build(), images(dtype=np.float64)
        side(case.ppl).double(*pair)
        assert np.asarray(room(case.ppl).log_weights(*pair, x, 1)).dtype == np.float64
        drawn = room(case.ppl).sample(pair[0], 6)
        assert {np.asarray(value).dtype for value in drawn.values()} == {np.dtype(np.float64)}


# Parameters


# In NumPyro a row a guide and a row a model: densities are Pyro's (test_parity), for every pair.
SLOPED = [
    pair
    for i, pair in enumerate(COMPILED)
    if pair.ppl == "pyro"
    or pair.guide not in {earlier.guide for earlier in COMPILED[:i] if earlier.ppl == pair.ppl}
    or pair.model not in {earlier.model for earlier in COMPILED[:i] if earlier.ppl == pair.ppl}
]


@over([*SLOPED, *(case for case in CASES if (case.model, case.guide) == ("vae", "ladder"))])
def test_every_parameter_gets_a_gradient(case: Case) -> None:
    """And every output of every layer, so that half a head cannot be cut off."""
    pair = case.build()
    # In training batch norm takes out what biases before it add, as NVAE's cells and a residual's
    # prior have them; and a rectifier shut for all images would hide what is behind it.
    straight = case.guide != "residual-normal" and case.model != "nvae"
    side(case.ppl).set_training(*pair, straight)
    open_gates(case, pair)
    stir(case, pair)
    found = side(case.ppl).gradients(*pair, images(case.likelihood))
    weights = room(case.ppl).state(*pair)
    assert found.keys() == {name for name in weights if "running_" not in name}
    assert [name for name, g in found.items() if not np.isfinite(g).all()] == []
    by_output = {name: np.abs(g).reshape(len(g), -1).max(1) for name, g in found.items()}
    assert [name for name, slopes in by_output.items() if not (slopes > 0).all()] == []


def open_gates(case: Case, pair: Any) -> None:
    """The rectifiers of squeeze-excite gates, in NVAE's cells, far from shut."""
    weights = room(case.ppl).state(*pair)
    opened = {
        name: np.full_like(value, 2.0)
        for name, value in weights.items()
        if name.endswith("gate.squeeze.bias")
    }
    room(case.ppl).load_state(*pair, {**weights, **opened})


def stir(case: Case, pair: Any) -> None:
    """Weights off their start, where the last layers of very deep nets are zero."""
    if case.model == "very-deep":
        scale = 0.5 if case.guide == "very-deep" else 0.1  # wide heads of a tower would saturate
        room(case.ppl).load_state(*pair, noisy(room(case.ppl).state(*pair), scale=scale))


@over([replace(pair, guide="nvae-free") if pair.guide == "nvae" else pair for pair in COMPILED])
def test_stock_svi_moves_every_weight(case: Case) -> None:
    """With the PPL's own SVI and ELBO; batch norm's statistics move as well.

    NVAE without its flows, which XLA takes long to compile: those of `iaf` stand for them.
    """
    pair = case.build()
    open_gates(case, pair)
    stir(case, pair)
    before = room(case.ppl).state(*pair)
    elbo = "TraceMeanField_ELBO" if side(case.ppl).is_guide(pair[1]) else "Trace_ELBO"
    after = side(case.ppl).stock_svi(*pair, images(), elbo)
    held = ("codebook.running_vectors", "codebook.running_started")  # of starts and restarts
    assert [name for name in still(before, after) if not name.endswith(held)] == []
    assert [name for name, value in after.items() if not np.isfinite(value).all()] == []
    assert case.has_batch_norm == any("running_var" in name for name in after)


@over(BOTH_WAYS)
def test_our_objective_under_stock_svi(case: Case) -> None:
    """The objective is an ELBO of its PPL: stock SVI takes it, whatever the guide's order."""
    from unittest import mock

    pair = case.build()
    before = room(case.ppl).state(*pair)
    stock = import_module(f"{case.ppl}.infer")
    with mock.patch.object(stock, "Objective", room(case.ppl).Objective, create=True):
        assert still(before, side(case.ppl).stock_svi(*pair, images(), "Objective")) == []


@over(
    [
        *QUICK,
        *(pair for pair in PAIRS if pair.model == "vae-conv" and pair.guide == "ladder"),
        *(pair for pair in PAIRS if str(pair).startswith("pyro-nvae-nvae-free")),
    ]
)
def test_fit_moves_every_weight(case: Case) -> None:
    pair = case.build()
    open_gates(case, pair)
    before = room(case.ppl).state(*pair)
    fitted = room(case.ppl).fit(*pair, images(), epochs=2, batch_size=3, progress=False)
    after = room(case.ppl).state(*pair)
    assert still(before, after) == []
    assert fitted.params == {}
    history = fitted.history
    assert history["step"].values.tolist() == [2, 4]
    assert history["site"].values.tolist() == sorted(case.sites)
    np.testing.assert_allclose(
        history["elbo"], history["log_likelihood"] - history["kl"].sum("site"), rtol=1e-6
    )
    np.testing.assert_allclose(history["loss"], -history["elbo"], rtol=1e-5)


def still(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the weights that have not moved."""
    assert before.keys() == after.keys()
    return [name for name in before if np.array_equal(before[name], after[name])]


# Weights


@over(COMPILED)
def test_saved_and_loaded_it_is_the_same(case: Case, tmp_path: Path) -> None:
    """Through a file, into a pair that began elsewhere: the same densities, bit for bit."""
    ppl, x = room(case.ppl), images()
    pair, other = case.build(seed=0), case.build(seed=1)
    for each in (pair, other):
        side(case.ppl).set_training(*each, False)
    ppl.load_state(*pair, noisy(ppl.state(*pair)))
    save_file(ppl.state(*pair), tmp_path / "weights.safetensors")
    if case.ppl == "numpyro" and case not in (*BOTH_WAYS, *DEEPEST):
        ppl.load_state(*other, load_file(tmp_path / "weights.safetensors"))
        assert still(ppl.state(*pair), ppl.state(*other)) == list(ppl.state(*pair))
        return  # the program is its weights'; XLA takes seconds to say so
    expected, _ = side(case.ppl).densities(*pair, x)
    before, _ = side(case.ppl).densities(*other, x)
    # The divergence of nearest codes is log K a position, whatever the weights.
    moved = ("log p(x)",) if case.guide == "vector-quantizer" else ("log p(x)", "kl(z1)")
    assert not any(np.array_equal(before[name], expected[name]) for name in moved)
    ppl.load_state(*other, load_file(tmp_path / "weights.safetensors"))
    found, _ = side(case.ppl).densities(*other, x)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@over([pair for pair in COMPILED if pair.guide != "bottom-up" and "conv" not in pair.model])
def test_a_copied_guide_keeps_its_model(case: Case) -> None:
    """deepcopy makes weights of the guide's own, and refers to the one model."""
    model, guide = case.build()
    twin = copy.deepcopy(guide)
    assert twin.model is guide.model is model
    ppl = room(case.ppl)
    before, of_model = ppl.state(model, guide), ppl.state(model, None)
    ppl.load_state(None, twin, noisy(ppl.state(None, twin)))
    after = ppl.state(model, twin)
    assert sorted(before) == sorted(after)
    assert still(before, after) == sorted(of_model, key=list(before).index)
    assert still(before, ppl.state(model, guide)) == list(before)
    assert not any(name.startswith("guide.model") for name in before)


# Pairs that do not fit


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize("guide", ["mean-field", "ladder", "bottom-up"])
def test_a_guide_of_other_sites_is_refused(ppl: str, guide: str) -> None:
    model = Case(ppl, "hierarchy", guide).build()[0]
    other = Case(ppl, "hierarchy-conv", guide).build()[1]
    with pytest.raises(UsageError, match=r"guide covers sites z1, z2 but .* has z1, z2, z3"):
        room(ppl).fit(model, other, images(), epochs=1, progress=False)


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize("guide", ["mean-field", "bottom-up"])
def test_a_guide_of_other_sizes_is_refused(ppl: str, guide: str) -> None:
    """Where the names agree, the message has the shapes that do not."""
    case = Case(ppl, "hierarchy", guide)
    other = case.build(latents=(3, 4, 1))[1]
    with pytest.raises(UsageError, match=r"z2.*\(4,\).*z2.*\(2,\)"):
        room(ppl).fit(case.build()[0], other, images(), epochs=1, progress=False)


@pytest.mark.parametrize("ppl", PPLS)
def test_a_guide_of_another_model_is_refused(ppl: str) -> None:
    """It would run its own model, and leave the one to be trained alone."""
    case = Case(ppl, "hierarchy", "ladder")
    with pytest.raises(UsageError, match="another model"):
        room(ppl).fit(case.build()[0], case.build()[1], images(), epochs=1, progress=False)


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize("call", ["fit", "log_weights"])
@pytest.mark.parametrize("names", [("z1",), ("z1", "z3"), ()])
def test_a_plain_guide_of_other_sites_is_refused(
    ppl: str, call: str, names: tuple[str, ...]
) -> None:
    """A misspelt or forgotten site is named, whoever wrote the guide."""
    model, guide = side(ppl).chain(("z1", "z2")), side(ppl).independent(names)
    x = np.zeros((4, 1, 1, 1), np.float32)
    settings = {"fit": {"epochs": 1, "progress": False}, "log_weights": {"num_samples": 2}}
    with pytest.raises(UsageError, match="z2"):
        getattr(room(ppl), call)(model, guide, x, **settings[call])


@pytest.mark.parametrize("ppl", PPLS)
def test_a_ladder_over_autoregressive_priors_is_refused(ppl: str) -> None:
    """It would merge with a loc and a scale that the prior does not have."""
    models, guides = (import_module(f"{kind}.{ppl}") for kind in ("models", "guides"))
    arguments = {"latents": (1, 1), "hidden": (3, 4), "channels": 4, "layers": 1}
    pair = side(ppl).build(models.HierarchicalPixelVAE, guides.LadderGuide, (1, 8, 8), arguments, 0)
    with pytest.raises(UsageError, match=r"LadderGuide: .* at site z1, came Autoregressive"):
        room(ppl).log_weights(*pair, images(n=2, x_shape=(1, 8, 8)), 1)


@pytest.mark.parametrize("ppl", PPLS)
def test_images_of_another_shape_are_refused(ppl: str) -> None:
    pair = Case(ppl, "hierarchy", "ladder").build()
    with pytest.raises(UsageError, match=r"expected images of shape \(n, 2, 5, 4\), came \(3, 1,"):
        room(ppl).log_weights(*pair, images(n=3, x_shape=(1, 5, 4)), 1)


# Guides and models of one's own


@over([pair for pair in PAIRS if pair.model == "vae"])
def test_guides_take_a_user_s_program(case: Case) -> None:
    """Sites under other names and of any shape, a scalar and a matrix among them."""
    events = {"top": (2, 3), "scalar": (), "low": (4,)}
    model = side(case.ppl).program(events, X_SHAPE)
    guide = side(case.ppl).guide_of(case, model)
    assert dict(guide.sites) == events
    drawn = side(case.ppl).shapes(room(case.ppl).posterior_sample(model, guide, images(), 1))
    expected = {z: (1, 6, *event) for z, event in events.items()}
    assert drawn == {**expected, "x_mean": (1, 6, *X_SHAPE)}
    if case.guide == "bottom-up":
        assert np.shape(room(case.ppl).log_weights(model, guide, images(), 2)) == (2, 6)


@pytest.mark.parametrize("ppl", PPLS)
def test_a_guide_of_one_s_own_is_one_method(ppl: str) -> None:
    """`posterior` alone; it sees name, prior, shape and context, and may leave a site its prior."""
    model, _ = Case(ppl, "hierarchy", "ladder").build()
    guide, seen = side(ppl).prior_guide(model)
    found, _ = side(ppl).densities(model, guide, images())
    assert [(site.name, tuple(site.event_shape)) for site in seen[:3]] == [
        ("z3", (1,)), ("z2", (2,)), ("z1", (3,))
    ]  # fmt: skip
    assert [site.context is None for site in seen[:3]] == [True, False, False]
    assert all(np.shape(site.prior.loc) == (6, *site.event_shape) for site in seen[:3])
    for z in ("z1", "z2", "z3"):
        np.testing.assert_array_equal(found[f"kl({z})"], np.zeros(6))
        np.testing.assert_array_equal(found[f"log p({z})"], found[f"log q({z})"])


# The PPLs' own tools


@over([pair for pair in BOTH_WAYS if pair.guide != "mean-field"])
def test_stock_predictive(case: Case) -> None:
    """Posterior draws in the shape that the PPL promises: (samples, n, …)."""
    pair = case.build()
    drawn = side(case.ppl).predictive(*pair, images(), 4, list(case.sites))
    for z, event in case.sites.items():
        assert drawn[z] == (4, 6, *event)


@over([pair for pair in BOTH_WAYS if pair.guide != "mean-field"])
def test_stock_renyi_elbo(case: Case) -> None:
    pair = case.build()
    assert np.isfinite(side(case.ppl).renyi(*pair, images(), 3))
