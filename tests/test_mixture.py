"""The mixture of discretised logistics: sums, published edges, layout, draws, both PPLs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logsumexp
from zoo import side, tools

from ppl_vae.errors import UsageError

LOCS = [-2.5, -1.0, -0.999, 0.1, 0.99, 1.0, 3.0]  # inside the range, at its edges, beyond
LOG_SCALES = [-7.0, -3.0, 0.0, 4.0]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """float64 in JAX as well."""
    with side("numpyro").precision("float64"):
        yield


def levels(num_levels: int) -> Any:
    return np.arange(num_levels) / (num_levels - 1)


def one_channel() -> list[Any]:
    """Logits, locs, log scales of (28,) images of one pixel: a component of interest, and one off.

    The second component is nearly as wide as the range.
    """
    loc, log_scale = (a.ravel() for a in np.meshgrid(LOCS, LOG_SCALES))
    ones = np.ones_like(loc)
    return [
        np.stack([1.5 * ones, 0 * ones], 1)[:, :, None, None],
        np.stack([loc, 0.2 * ones], 1)[:, None, :, None, None],
        np.stack([log_scale, -0.5 * ones], 1)[:, None, :, None, None],
    ]


def colours(coefficient: float, log_scale: float, channels: int = 3) -> list[Any]:
    """Parts of one image of one pixel, two components, coefficients of either sign."""
    rng = np.random.default_rng(3)
    loc = rng.uniform(-1.2, 1.2, (1, channels, 2, 1, 1))
    pairs = channels * (channels - 1) // 2
    signs = np.where(np.arange(2 * pairs).reshape(1, pairs, 2, 1, 1) % 3 == 0, -1.0, 1.0)
    logits, log_scales = np.array([[0.3, -0.4]])[..., None, None], np.full(loc.shape, log_scale)
    return [logits, loc, log_scales, *([coefficient * signs] if pairs else [])]


@pytest.mark.parametrize("num_levels", [256, 32])
def test_sums_to_one(ppl: str, num_levels: int) -> None:
    """Narrow and wide scales, locations inside, at and beyond both edges, 8 bits and 5."""
    x = levels(num_levels)[:, None, None, None, None]
    found = tools(ppl).mixture(one_channel(), x, num_levels=num_levels)
    assert found["log_prob"].shape == (num_levels, len(LOCS) * len(LOG_SCALES))
    total = np.exp(found["log_prob"]).sum(0)
    np.testing.assert_allclose(total, 1, atol=1e-9)
    # The mean leaves rounding out, by which no value moves more than half a level.
    mean = (x[:, 0, 0, 0] * np.exp(found["log_prob"])).sum(0)
    assert np.abs(found["mean"][:, 0, 0, 0] - mean).max() <= 0.5 / (num_levels - 1)
    wide = one_channel()[2][:, 0, 0, 0, 0] >= -3  # far wider than a level, where little is rounded
    error = np.abs(found["mean"][:, 0, 0, 0] - mean)[wide]
    assert error.max() < 0.05 / (num_levels - 1)


@pytest.mark.parametrize("log_scale", [-7.0, -1.0])
def test_colours_sum_to_one(ppl: str, log_scale: float) -> None:
    """Every colour of 5 bits, coefficients saturated."""
    x = np.array(list(product(levels(32), repeat=3)))[:, None, :, None, None]
    found = tools(ppl).mixture(colours(1.0, log_scale), x, num_levels=32)
    assert np.exp(found["log_prob"]).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("log_scale", [-7.0, -1.0])
def test_the_last_colour_sums_out(ppl: str, log_scale: float) -> None:
    """8 bits: over all blues, P(r, g, b) adds up to P(r, g); at every corner, saturated."""
    corners = np.array(list(product([0, 100, 255], repeat=2))) / 255
    x = np.stack([np.append(rg, b) for rg in corners for b in levels(256)])
    parts = colours(1.0, log_scale)
    found = tools(ppl).mixture(parts, x[:, None, :, None, None])["log_prob"].reshape(9, 256)
    fewer = [parts[0], parts[1][:, :2], parts[2][:, :2], parts[3][:, :1]]
    expected = tools(ppl).mixture(fewer, corners[:, None, :, None, None])["log_prob"][:, 0]
    np.testing.assert_allclose(logsumexp(found, axis=1), expected, rtol=1e-9, atol=1e-12)


def test_published_edges(ppl: str) -> None:
    """NVAE's upper edge gives 254 the tail of 255 besides; Very Deep VAE's edges are the levels."""
    parts, x = colours(0.0, -1.0, channels=1), levels(256)[:, None, None, None, None]
    found = {
        edges: np.exp(tools(ppl).mixture(parts, x, edges=edges)["log_prob"][:, 0])
        for edges in ("proper", "vdvae", "nvae")
    }
    assert found["proper"].min() > 1e-5  # where mass is above that, all go by mass
    np.testing.assert_allclose(found["vdvae"], found["proper"], rtol=1e-9)
    expected = found["proper"].copy()
    expected[254] += expected[255]
    np.testing.assert_allclose(found["nvae"], expected, rtol=1e-9)


@pytest.mark.parametrize("edges", ["vdvae", "nvae"])
@pytest.mark.parametrize("num_levels", [256, 32])
def test_published_tails(ppl: str, edges: str, num_levels: int) -> None:
    """Mass below 1e-5 is the density at the level times its width."""
    scale, x = 0.004, np.array([0.0, 16 / (num_levels - 1), 1.0])
    single = np.ones((1, 1, 1, 1, 1))
    parts = [0 * single[0], 0.6 * single, np.log(scale) * single]
    options = {"edges": edges, "num_levels": num_levels}
    found = tools(ppl).mixture(parts, x[:, None, None, None, None], **options)["log_prob"][:, 0]
    off = (2 * x[1] - 1 - 0.6) / scale
    density = expit(off) * expit(-off) / scale
    assert found[1] == pytest.approx(np.log(density * 2 / (num_levels - 1)), rel=1e-9)
    half = 1 / (num_levels - 1)
    assert found[0] == pytest.approx((half - 1.6) / scale, rel=1e-6)  # log of a far sigmoid
    assert found[2] == pytest.approx(np.log(expit(-(0.4 - half) / scale)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("edges", ["proper", "vdvae", "nvae"])
def test_gradients_are_finite(ppl: str, edges: str) -> None:
    """float32 at 0, 254 and 255, narrow and wide, saturated, means far off; and not all zero."""
    x = np.array(list(product([0, 1, 254, 255], repeat=3)))[:, None, :, None, None] / 255
    cases = [(width, shift) for width in (-7.0, 0.0, 7.0) for shift in (-4.0, 0.0, 4.0)]
    each = [colours(1.0, width) for width, _ in cases]
    parts = [np.concatenate(part).astype(np.float32) for part in zip(*each, strict=True)]
    parts[1] += np.array([shift for _, shift in cases], np.float32).reshape(-1, 1, 1, 1, 1)
    found = tools(ppl).mixture(parts, x.astype(np.float32), edges=edges)
    assert found["log_prob"].dtype == np.float32
    assert [name for name, value in found.items() if not np.isfinite(value).all()] == []
    moved = [(found[f"slope_{i}"] != 0).any((1, 2, 3, 4)) for i in (1, 2, 3)]
    assert np.logical_or.reduce(moved).all()


def test_draws_are_as_often_as_their_probability(ppl: str) -> None:
    """Each of 27 colours of three levels, over 40,000 draws."""
    x, n = np.array(list(product(levels(3), repeat=3)))[:, None, :, None, None], 40_000
    found = tools(ppl).mixture(colours(0.8, -1.0), x, draws=n, num_levels=3)
    drawn = np.round(found["draws"].reshape(n, 3) * 2)
    np.testing.assert_allclose(drawn / 2, found["draws"].reshape(n, 3))
    expected = np.exp(found["log_prob"][:, 0])
    often = np.bincount((drawn @ [9, 3, 1]).astype(int), minlength=27) / n
    assert (np.abs(often - expected) < 4.5 * np.sqrt(expected * (1 - expected) / n)).all()


def test_mean_is_that_of_the_draws(ppl: str) -> None:
    """Components well within the range, colours leaning on each other."""
    parts, n = colours(0.5, -4.0), 20_000
    parts[1] = 0.3 * parts[1]
    found = tools(ppl).mixture(parts, np.zeros((1, 3, 1, 1)), draws=n)
    draws = found["draws"].reshape(n, 3)
    error = draws.std(0) / np.sqrt(n)
    assert (np.abs(draws.mean(0) - found["mean"].ravel()) < 4.5 * error + 0.05 / 255).all()


def test_expanded(ppl: str) -> None:
    found = tools(ppl).mixture(colours(1.0, -1.0), np.zeros((1, 3, 1, 1)), expanded=(4, 1))
    assert found["mean"].shape == found["draws"].shape == (4, 1, 3, 1, 1)
    assert found["log_prob"].shape == (4, 1)


def test_parameters_lie_as_published(ppl: str) -> None:
    """M logits, then for each colour M locs, M log scales, M coefficients, by the authors' sums."""
    rng, m = np.random.default_rng(0), 4
    h, x = rng.normal(size=(2, 10 * m, 3, 2)), rng.integers(0, 256, (2, 3, 3, 2)) / 255
    h[:, m + m : m + 2 * m] -= 9  # the first colour's log scales: some below -7
    found = tools(ppl).likelihood(h, x, "discretized_logistic_mixture", components=m)
    (r, g, b), blocks = np.moveaxis(2 * x - 1, 1, 0)[:, :, None], h[:, m:].reshape(2, 3, 3, m, 3, 2)
    lean = np.tanh(blocks[:, :, 2])
    loc = blocks[:, :, 0].copy()
    loc[:, 1] += lean[:, 0] * r
    loc[:, 2] += lean[:, 1] * r + lean[:, 2] * g
    scale = np.exp(np.maximum(blocks[:, :, 1], -7))
    value = np.stack([r, g, b], 1)
    upper = np.where(value > 1 - 1e-9, np.inf, (value + 1 / 255 - loc) / scale)
    lower = np.where(value < -1 + 1e-9, -np.inf, (value - 1 / 255 - loc) / scale)
    # By the tail that loses no digits: σ(a) - σ(b) = σ(-b) - σ(-a).
    flip = lower > 0
    mass = expit(np.where(flip, -lower, upper)) - expit(np.where(flip, -upper, lower))
    with np.errstate(divide="ignore"):
        per_component = np.log(mass).sum(1) + h[:, :m] - logsumexp(h[:, :m], axis=1, keepdims=True)
    expected = logsumexp(per_component, axis=1).sum((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize(("channels", "outputs"), [(1, 3), (2, 6), (3, 10), (4, 15)])
def test_number_of_parameters(ppl: str, channels: int, outputs: int) -> None:
    """M (1 + 2c + c(c-1)/2), 10 M for colours; another number is refused."""
    name, x = "discretized_logistic_mixture", np.zeros((1, channels, 1, 1))
    h = np.random.default_rng(0).normal(size=(1, 2 * outputs, 1, 1))
    assert tools(ppl).likelihood(h, x, name, components=2).shape == (1,)
    with pytest.raises(UsageError, match="features for images"):
        tools(ppl).likelihood(np.concatenate([h, h[:, :2]], 1), x, name, components=2)


def test_unknown_edges(ppl: str) -> None:
    with pytest.raises(UsageError, match="'vdvae'"):
        tools(ppl).mixture(colours(1.0, 0.0), np.zeros((1, 3, 1, 1)), edges="vdva")
