"""NVAE's own parts: autoregressive order, weight norm, clamps, levels, scales."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from zoo import PPLS, Case, side

from ppl_vae.errors import UsageError
from ppl_vae.scales import Scales, groups_per_scale


def cells(ppl: str) -> Any:
    """`tests/<ppl>_cells.py`."""
    return importlib.import_module(f"{ppl}_cells")


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """float64 in JAX as well."""
    with side("numpyro").precision("float64"):
        yield


def one_map() -> Any:
    return np.random.default_rng(0).standard_normal((2, 3, 4))


def ranks(reverse: bool) -> Any:
    """Place of each value of a (2, 3, 4) map in its order: pixels, then channels within one."""
    channel, row, column = np.indices((2, 3, 4))
    pixel = 4 * row + column
    return (2 * ((11 - pixel) if reverse else pixel) + channel).ravel()


@pytest.mark.parametrize("reverse", [False, True])
def test_a_shift_sees_what_comes_before(ppl: str, reverse: bool) -> None:
    """By autodiff: nothing of itself or later; and, where the kernels reach, what is earlier."""
    found, order = cells(ppl).jacobian(one_map(), reverse), ranks(reverse)
    earlier = order[None, :] < order[:, None]
    np.testing.assert_array_equal(found[~earlier], 0)
    beside = earlier & (order[None, :] >= order[:, None] - 2)  # the last pixel, own channels before
    row_ends = np.indices((2, 3, 4))[2].ravel() == (3 if reverse else 0)
    assert (found[beside & ~row_ends[:, None]] != 0).all()


def test_a_flow_keeps_volume_and_turns_back(ppl: str) -> None:
    z = np.stack([one_map(), 2 * one_map()])
    y, log_det, back = cells(ppl).flow(z)
    assert np.abs(y - z).max() > 1e-3
    np.testing.assert_array_equal(log_det, np.zeros(2))
    np.testing.assert_allclose(back, z, rtol=1e-12, atol=1e-12)
    sign, of_autodiff = np.linalg.slogdet(cells(ppl).forward(z[0]))
    assert sign == 1
    assert of_autodiff == pytest.approx(0, abs=1e-12)


def test_weight_norm(ppl: str) -> None:
    """exp(g) v / (‖v‖ + 1e-5), v and the bias within ±1/√fan-in, g at log(‖v‖ + 0.01)."""
    found, effective = cells(ppl).conv(6, 40, 3, seed=1)
    v = found["weight"].astype(np.float64)
    norm = np.sqrt((v**2).sum((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(found["log_weight_norm"], np.log(norm + 0.01), rtol=1e-5)
    expected = np.exp(found["log_weight_norm"].astype(np.float64)) * v / (norm + 1e-5)
    np.testing.assert_allclose(effective, expected, rtol=1e-5)
    bound = 1 / np.sqrt(6 * 9)
    for part in ("weight", "bias"):
        assert np.abs(found[part]).max() <= bound
        assert np.abs(found[part]).max() > 0.8 * bound
        assert found[part].std() == pytest.approx(bound / np.sqrt(3), rel=0.2)


def test_a_shift_begins_small(ppl: str) -> None:
    log_norm, v = cells(ppl).last_log_norm(2)
    norm = np.sqrt((v**2).sum((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(log_norm, np.log(norm + 0.01) + np.log(0.1), rtol=1e-5)


def test_clamped_normal(ppl: str) -> None:
    """Bounds far out, nearly the identity at zero, and the ordinary divergence."""
    raw = np.array([0.0, 0.1, -3.0, 1e4, -1e4])
    loc, scale, kl = cells(ppl).clamped(raw, raw)
    np.testing.assert_allclose(loc, [0, 5 * np.tanh(0.02), -5 * np.tanh(0.6), 5, -5], rtol=1e-12)
    np.testing.assert_allclose(scale, np.exp(loc) + 0.01, rtol=1e-12)
    expected = 0.5 * ((scale / 1.01) ** 2 + (loc / 1.01) ** 2 - 1) - np.log(scale / 1.01)
    np.testing.assert_allclose(kl, expected, rtol=1e-9, atol=1e-12)


def test_five_bits(ppl: str) -> None:
    """Of 256 levels eight each become one; those already there stay."""
    grey = np.arange(256).reshape(-1, 1, 1, 1) / 255
    found = cells(ppl).seen(grey, 32)
    np.testing.assert_allclose(found.ravel(), np.arange(256) // 8 / 31, rtol=1e-12)
    np.testing.assert_array_equal(cells(ppl).seen(found, 32), found)
    np.testing.assert_array_equal(cells(ppl).seen(grey, 256), grey)


@pytest.mark.parametrize("ppl", PPLS)
def test_its_guide_is_for_nvae_alone(ppl: str) -> None:
    with pytest.raises(UsageError, match="NVAEGuide answers NVAE alone, came HierarchicalVAE"):
        Case(ppl, "hierarchy", "nvae").build()


@pytest.mark.parametrize(
    ("x_shape", "padding", "margins", "top"),
    [
        ((1, 28, 28), 2, ((2, 2), (2, 2)), (4, 4)),
        ((1, 28, 28), 0, ((2, 2), (2, 2)), (4, 4)),  # 28 is no multiple of 8
        ((3, 32, 64), 0, ((0, 0), (0, 0)), (4, 8)),
        ((1, 5, 1), 0, ((1, 2), (3, 4)), (1, 1)),
    ],
)
def test_padding(x_shape: Any, padding: int, margins: Any, top: Any) -> None:
    """Up to the next multiple of 8 for two blocks and two scales, as even as may be."""
    scales = Scales(x_shape, (2, 2), blocks=2, padding=padding)
    assert scales.margins == margins
    assert scales.sides(0) == top
    assert scales.sides(1) == (2 * top[0], 2 * top[1])


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"channels": 1}, "channels: expected at least 2, came 1"),
        ({"latent_channels": 0}, "latent_channels: expected at least 1, came 0"),
        ({"block_cells": 0}, "block_cells: expected at least 1, came 0"),
        ({"blocks": -1}, "blocks: expected at least 0, came -1"),
    ],
)
def test_sizes_that_do_not_fit(ppl: str, size: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Case(ppl, "nvae", "nvae").build(**size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, [3]), r"groups: expected one number, or one a scale \(2\), came \(3,\)"),
        ((0, 3), "scales: expected at least 1"),
    ],
)
def test_groups_that_do_not_fit(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        groups_per_scale(*arguments)


def test_groups_by_halving() -> None:
    assert groups_per_scale(5, 16, True, 4) == (16, 8, 4, 4, 4)  # the paper's on 256 × 256
    assert groups_per_scale(3, 20, True) == (20, 10, 5)
    assert groups_per_scale(2, 10) == (10, 10)
    with pytest.raises(UsageError, match="groups: expected at least 1 at each scale"):
        Scales((1, 8, 8), (0,), 1)


def test_initial_weights_are_drawn_as_one_draw_of_their_shape() -> None:
    """However many numbers the initialiser draws at once to compile few programs."""
    import jax
    from flax import nnx

    from ppl_vae.numpyro.nets.initial import DRAWN, glorot_uniform, uniform

    key = jax.random.key(1)
    for shape in ((3, 2), (DRAWN + 1,)):
        expected = jax.random.uniform(key, shape, "float32", -0.2, 0.2)
        np.testing.assert_array_equal(uniform(25)(key, shape, "float32"), expected)
    for shape in ((5, 7), (3, 3, 2, 70)):
        expected = nnx.initializers.glorot_uniform()(key, shape, "float32")
        np.testing.assert_array_equal(glorot_uniform()(key, shape), expected)
    traced = jax.jit(glorot_uniform(), static_argnums=1)(key, (5, 7))  # as in a compiled build
    np.testing.assert_allclose(traced, glorot_uniform()(key, (5, 7)), rtol=1e-6)
