"""Weights in torch's layout, and what they are called, whichever PPL holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from zoo import FITTING, PAIRS, PPLS, Case, images, noisy, room, side

from ppl_vae.errors import UsageError

MOMENTUM, N = 0.1, 6


@pytest.mark.parametrize(("model", "guide"), FITTING)
def test_names_and_shapes_are_the_same_in_both(model: str, guide: str) -> None:
    found = {ppl: room(ppl).state(*Case(ppl, model, guide).build()) for ppl in PPLS}
    shapes = {ppl: {name: value.shape for name, value in found[ppl].items()} for ppl in PPLS}
    assert shapes["pyro"] == shapes["numpyro"]
    assert {value.dtype for value in found["numpyro"].values()} == {np.dtype(np.float32)}
    for arrays in found.values():  # fresh biases are zero, statistics those of N(0, 1)
        for name, value in arrays.items():
            as_torch = model == "nvae" or (".flows." in name and ".convs." in name)  # NVAE's parts
            if name.endswith((".bias", "running_mean")) and not as_torch:
                np.testing.assert_array_equal(value, 0)
            if name.endswith("running_var"):
                np.testing.assert_array_equal(value, 1)


@pytest.mark.parametrize("ppl", PPLS)
def test_the_layout_is_torch_s(ppl: str) -> None:
    """Linear (out, in), convolution (out, in, height, width), batch norm by torch's four names."""
    found = {
        name: value.shape
        for name, value in room(ppl).state(*Case(ppl, "hierarchy-conv", "ladder").build()).items()
    }
    expected = {
        "model.groups.0.mlp.linears.0.weight": (4, 2),  # z2 of 2 to a width of 4
        "model.groups.0.mlp.norms.0.weight": (4,),
        "model.groups.0.mlp.norms.0.bias": (4,),
        "model.groups.0.mlp.norms.0.running_mean": (4,),
        "model.groups.0.mlp.norms.0.running_var": (4,),
        "model.groups.0.head.linear.weight": (6, 4),  # loc and variance of z1
        "model.groups.0.head.linear.bias": (6,),
        "model.decoder.out.weight": (2, 5, 3, 3),  # 5 channels to 2
        "guide.tower.nets.0.convs.0.weight": (5, 2, 3, 3),
        "guide.heads.1.linear.weight": (4, 4),
    }
    assert {name: found.get(name) for name in expected} == expected
    assert "model.groups.0.mlp.linears.0.bias" not in found  # batch norm brings its own
    assert "guide.tower.nets.0.convs.0.bias" not in found


@pytest.mark.parametrize("case", PAIRS, ids=str)
def test_what_is_put_in_comes_out(case: Case) -> None:
    pair = case.build()
    before = room(case.ppl).state(*pair)
    weights = {name: v.astype(np.float32) for name, v in noisy(before).items()}
    room(case.ppl).load_state(*pair, weights)
    after = room(case.ppl).state(*pair)
    assert after.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.mark.parametrize("ppl", PPLS)
def test_running_variance_is_each_ppl_s_own(ppl: str) -> None:
    """After a pass in training mode: torch averages the unbiased variance, Flax the biased one.

    r ← 0.9 r + 0.1 v, over the first layer of the guide's tower, whose inputs are the images.
    """
    pair = Case(ppl, "hierarchy", "ladder").build()
    side(ppl).set_training(*pair, True)
    before = room(ppl).state(*pair)
    x = images(n=N)
    after = side(ppl).mutated(*pair, x)
    weight = before["guide.tower.nets.0.linears.0.weight"].astype(np.float64)
    h = x.reshape(N, -1).astype(np.float64) @ weight.T
    mean, var = (after[f"guide.tower.nets.0.norms.0.running_{name}"] for name in ("mean", "var"))
    variance = h.var(0, ddof=1 if ppl == "pyro" else 0)
    np.testing.assert_allclose(mean, MOMENTUM * h.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(var, 1 - MOMENTUM + MOMENTUM * variance, rtol=1e-5)


@pytest.mark.parametrize("ppl", PPLS)
def test_state_is_a_copy(ppl: str) -> None:
    """What has been taken out stays what it was while the pair trains on."""
    pair = Case(ppl, "vae", "mean-field").build()
    taken = room(ppl).state(*pair)
    kept = {name: value.copy() for name, value in taken.items()}
    room(ppl).load_state(*pair, noisy(taken))
    for name, value in kept.items():
        np.testing.assert_array_equal(taken[name], value)


@pytest.mark.parametrize("ppl", PPLS)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda arrays, name: arrays.pop(name), r"missing \['model.decoder.out.weight'\]"),
        (lambda arrays, name: arrays.update(other=np.zeros(2)), r"not known \['other'\]"),
        (
            lambda arrays, name: arrays.update({name: arrays[name].T}),
            r"model.decoder.out.weight expected shape \(40, 5\), came \(5, 40\)",
        ),
        (
            lambda arrays, name: arrays.update({name: np.zeros(40)}),
            r"model.decoder.out.weight expected shape \(40, 5\), came \(40,\)",
        ),
    ],
    ids=["missing", "foreign", "transposed", "flat"],
)
def test_weights_that_do_not_fit_are_refused(ppl: str, spoil: Any, message: str) -> None:
    """And nothing of them is taken over."""
    pair = Case(ppl, "vae", "mean-field").build()
    before = room(ppl).state(*pair)
    arrays = {name: value.astype(np.float32) for name, value in noisy(before).items()}
    spoil(arrays, "model.decoder.out.weight")
    with pytest.raises(UsageError, match=message):
        room(ppl).load_state(*pair, arrays)
    after = room(ppl).state(*pair)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
