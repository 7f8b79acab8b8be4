"""Residual Normal posteriors and inverse autoregressive flows, against closed forms, both PPLs."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from zoo import Case, images, room, side, tools

from ppl_vae.errors import UsageError

N, D = 3, 5


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """float64 in JAX as well."""
    with side("numpyro").precision("float64"):
        yield


def residuals(prior_scale: float = 0.7, dtype: Any = np.float64) -> list[Any]:
    """(prior loc, prior scale), shift, factor of N posteriors over D values."""
    rng = np.random.default_rng(1)
    loc, shift = (rng.normal(size=(N, D)).astype(dtype) for _ in range(2))
    scale = np.full((N, D), prior_scale, dtype)
    return [(loc, scale), shift, np.exp(rng.normal(size=(N, D))).astype(dtype)]


def closed(scale: Any, shift: Any, factor: Any) -> Any:
    return 0.5 * (shift**2 / scale**2 + factor**2 - np.log(factor**2) - 1).sum(-1)


# Residual Normal


def test_residual_divergence_is_its_formula_and_what_is_sampled(ppl: str) -> None:
    """log q - log p of 20,000 draws within three standard errors, for each posterior."""
    (loc, scale), shift, factor = residuals()
    found = tools(ppl).residual((loc, scale), shift, factor, draws=20_000)
    np.testing.assert_allclose(found["kl"], closed(scale, shift, factor), rtol=1e-12)
    np.testing.assert_allclose(found["expanded"], [found["kl"]] * 2, rtol=1e-12)
    np.testing.assert_allclose(found["cool"], 0.5)  # at a temperature, as any Normal
    error = found["ratio"].std(0) / np.sqrt(len(found["ratio"]))
    assert (np.abs(found["ratio"].mean(0) - found["kl"]) < 3 * error).all()


def test_residual_divergence_leaves_the_prior_s_place_alone(ppl: str) -> None:
    """No slope by the prior's location; by its scale only through the shift: -Δμ² / σ³."""
    (loc, scale), shift, factor = residuals()
    found = tools(ppl).residual((loc, scale), shift, factor)
    assert not found.get("slope_0", np.zeros(1)).any()
    np.testing.assert_allclose(found["slope_1"], -(shift**2) / scale**3, rtol=1e-10)


def test_residual_divergence_is_finite_over_a_narrow_prior(ppl: str) -> None:
    """float32, a prior's scale of 1e-3."""
    (loc, scale), shift, factor = residuals(1e-3, np.float32)
    found = tools(ppl).residual((loc, scale), shift, factor)
    assert found["kl"].dtype == np.float32
    np.testing.assert_allclose(found["kl"], closed(scale, shift, factor), rtol=1e-4)
    assert all(np.isfinite(value).all() for value in found.values())


def test_residual_divergence_from_another_normal(ppl: str) -> None:
    """The ordinary closed form, where the Normal asked about is not the one that was shifted."""
    (loc, scale), shift, factor = residuals()
    other = (loc + 0.3, 2.0 * scale)
    found = tools(ppl).residual((loc, scale), shift, factor, other=other)
    ratio = scale * factor / other[1]
    expected = 0.5 * (((loc + shift - other[0]) / other[1]) ** 2 + ratio**2 - 1) - np.log(ratio)
    np.testing.assert_allclose(found["kl"], expected.sum(-1), rtol=1e-12)


@pytest.mark.parametrize("name", ["ResidualNormalGuide", "LadderGuide", "InpaintingGuide"])
def test_priors_that_are_not_normal_are_refused(ppl: str, name: str) -> None:
    model = tools(ppl).log_normal()
    guide = side(ppl).guide_of(SimpleNamespace(guide_class=name), model)
    message = f"{name}: expected a Normal prior at site z1, came LogNormal: take MeanFieldGuide"
    with pytest.raises(UsageError, match=message):
        room(ppl).posterior_sample(model, guide, np.zeros((2, 1, 1, 1)), 1)


# Flows


@pytest.mark.parametrize("reverse", [False, True])
def test_masked_nets_are_autoregressive(ppl: str, reverse: bool) -> None:
    """By finite differences: output d moves with inputs before d, never with d or those after."""
    rng, step = np.random.default_rng(0), 1e-4
    z, h = rng.normal(size=D), rng.normal(size=2)
    net = tools(ppl).made(D, 2, seed=4, reverse=reverse)
    still = net(z, h)
    assert still.shape == (2, D)
    moves = np.stack([net(z + step * e, h) - still for e in np.eye(D)], -1) / step  # (2, out, in)
    seen = np.tril(np.ones((D, D)), -1)
    seen = seen[::-1, ::-1] if reverse else seen
    assert (np.abs(moves) * (1 - seen)).max() == 0
    assert ((np.abs(moves) > 1e-4).any(0) == (seen > 0)).all()
    assert (net(z, h + 1.0) != still).all()  # context reaches every output, the first as well


@pytest.mark.parametrize(("event_shape", "steps"), [((4,), 3), ((2, 3), 2), ((), 1)])
def test_flow_s_density(ppl: str, event_shape: tuple[int, ...], steps: int) -> None:
    """log q(y) = log N(x) - log |det dy/dx|, the determinant by autodiff; one pass a step."""
    found = tools(ppl).flow(event_shape, steps, seed=2)
    assert found["passes"] == steps
    assert found["kept"].shape == (4,)
    expected = found["base"] - found["log_det"]
    np.testing.assert_allclose(found["kept"], expected, rtol=1e-10)
    np.testing.assert_allclose(found["anew"], expected, rtol=1e-10)
    np.testing.assert_allclose(found["again"], found["draw"], rtol=1e-10)
    assert (np.abs(found["log_det"]) > 1e-3).all()


@pytest.mark.parametrize("base", ["ladder", "residual_normal"])
def test_flows_on_other_bases(ppl: str, base: str) -> None:
    """One pass of each net for the objective; at the flows' end other densities than the base's."""
    model, _ = Case(ppl, "hierarchy", "ladder").build()
    guide = tools(ppl).flows_on(model, base=base, flows=2, width=8, num_context=3)
    side(ppl).double(model, guide)
    x = images(dtype=np.float64)
    with tools(ppl).calls() as seen:
        likelihood, kl = side(ppl).terms(model, guide, x)
    assert len(seen) == 2 * 3
    plain = side(ppl).terms(model, guide.base, x)[1]
    assert kl.keys() == plain.keys() == {"z1", "z2", "z3"}
    assert all(np.isfinite(part).all() for part in (likelihood["x"], *kl.values()))
    assert all((kl[site] != plain[site]).all() for site in kl)


def test_wrong_flows(ppl: str) -> None:
    model, _ = Case(ppl, "vae", "mean-field").build()
    with pytest.raises(UsageError, match=r"base: unknown 'lader'.*ladder"):
        tools(ppl).flows_on(model, base="lader")
    with pytest.raises(UsageError, match="flows: expected at least 1, came 0"):
        tools(ppl).flows_on(model, flows=0)


def test_moments_of_flows_are_those_of_draws(ppl: str) -> None:
    """They have no closed form: means of 32 draws agree with those of another 400."""
    pair = Case(ppl, "vae", "iaf").build()
    loc, scale = room(ppl).posterior_moments(*pair, images(n=4))["z1"]
    draws = np.asarray(room(ppl).posterior_sample(*pair, images(n=4), 400, seed=1)["z1"])
    assert (np.abs(loc - draws.mean(0)) < 5 * draws.std(0) * np.sqrt(1 / 32 + 1 / 400)).all()
    np.testing.assert_allclose(scale, draws.std(0), rtol=0.7)
