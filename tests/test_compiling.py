"""Nets compiled by torch, block by block: the same weights, under the same names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import train_tiny
from torch import nn
from zoo import Case, images, room

from ppl_vae import runs
from ppl_vae.errors import UsageError
from ppl_vae.pyro import compiling, state
from ppl_vae.pyro.compiling import blocks, compiled
from ppl_vae.recipes import Recipe
from ppl_vae.runs import Run


@pytest.mark.parametrize(
    ("model", "guide", "kinds"),
    [
        ("hierarchy", "ladder", {"MLP": 5, "GaussianHead": 5, "MLPDecoder": 1}),
        ("nvae", "nvae", {"ResidualCell": 4, "InvertedCell": 3, "ShiftNet": 4}),
        ("very-deep", "very-deep", {"Bottleneck": 8}),
        ("pixel", "mean-field",
         {"ConvEncoder": 1, "GaussianHead": 1, "ConvDecoder": 1, "PixelCNNNet": 1}),
    ],
)  # fmt: skip
def test_blocks_are_what_programs_are_made_of(model: str, guide: str, kinds: Any) -> None:
    pair = Case("pyro", model, guide).build()
    found = blocks(*pair)
    assert Counter(type(block).__name__ for block in found) == kinds
    inside = [id(part) for block in found for part in block.modules()]
    assert len(inside) == len(set(inside))  # none within another


def test_a_user_s_net_is_one_block() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
            self.one = nn.Linear(1, 1)  # nothing to join

    own = Own()
    assert blocks(own, lambda x: x) == [own.net]


def fitted(case: Case, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Any:
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    pair = case.build()
    x = images(case.likelihood)
    settings = {"epochs": 2, "batch_size": 3, "precision": "float64", **settings}
    history = room("pyro").fit(*pair, x, valid=x[:2], device="cpu", progress=False, **settings)
    return pair, history.history


def assert_close(one: Any, two: Any) -> None:
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_allclose(one[name], two[name], 1e-6, 1e-8, err_msg=name)


def test_compiled_blocks_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the machine code, whose making takes a minute: `benchmarks.speed` compares that."""
    case = Case("pyro", "very-deep", "very-deep")
    calls: list[Any] = []
    compile_ = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **kw: [calls.append(self), compile_(self, **kw)]
    )
    plain, expected = fitted(case, monkeypatch)
    assert not calls
    pair, history = fitted(case, monkeypatch, compile=True)
    assert calls == blocks(*pair)
    assert all(block._compiled_call_impl is None for block in calls)  # and afterwards as before
    assert_close(state(*pair), state(*plain))
    np.testing.assert_allclose(history["valid_elbo"], expected["valid_elbo"], rtol=1e-9)


def test_a_compiled_run_is_loaded_as_any_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = {**train_tiny.RECIPE, "training": {"compile": True, "epochs": 1, "device": "cpu"}}
    run = Run.create(tmp_path / "run", recipe, "pyro", x_shape=[2, 5, 4])
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    pair = room("pyro").build(Recipe.from_dict(recipe), (2, 5, 4))
    room("pyro").fit(*pair, images(), run=run, progress=False, epochs=1, compile=True, device="cpu")
    again = runs.load(run)
    assert not [b for b in blocks(*again) if b._compiled_call_impl is not None]
    assert_close(state(*again), state(*pair))


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    model, guide = Case("pyro", "vae", "mean-field").build()
    said = pytest.raises(
        UsageError, match=r"training\.compile: no C\+\+ compiler .*set it to false"
    )
    with said, compiled(model, guide):
        pass
