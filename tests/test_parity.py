"""One set of weights, one draw of the latents, the same numbers in Pyro and in NumPyro."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from zoo import FITTING, LIKELIHOODS, PPLS, Case, images, noisy, room, side

from ppl_vae.architecture import ACTIVATIONS

TOLERANCE: dict[str, Any] = {
    "float32": {"rtol": 1e-4, "atol": 1e-6},
    "float64": {"rtol": 1e-9, "atol": 0.0},
}


# Likelihoods meet guides in the decoder's output alone: one guide stands for all. NVAE, which XLA
# takes long to compile, meets its own guides, one of them under the Normal that it has of its own.
TRIPLES = [
    (model, guide, likelihood)
    for model, guide in FITTING
    for likelihood in LIKELIHOODS
    if likelihood == ("normal" if guide == "nvae-free" else "bernoulli") or guide == "ladder"
    if model != "nvae" or guide.startswith("nvae")
]


@pytest.mark.parametrize(("model", "guide", "likelihood"), TRIPLES)
@pytest.mark.filterwarnings("ignore:.*samples its sites in another order")
def test_densities_agree(model: str, guide: str, likelihood: str) -> None:
    """log p(x, z) and log q by site, and each divergence; batch norm in both of its modes."""
    pairs = {ppl: Case(ppl, model, guide, likelihood).build() for ppl in PPLS}
    # A tower's wide heads under large weights give scales too small to undo a flow in float32.
    scale = 0.1 if (model, guide) == ("very-deep", "iaf") else 0.5
    weights = noisy(room("pyro").state(*pairs["pyro"]), scale=scale)
    for precision in TOLERANCE:
        with side("numpyro").precision(precision):
            for ppl, pair in pairs.items():
                if precision == "float64":
                    side(ppl).double(*pair)
                room(ppl).load_state(*pair, weights)
            for training in (False, True):  # in this order: training moves the running statistics
                check(pairs, images(likelihood, dtype=np.dtype(precision)), precision, training)


def check(pairs: dict[str, Any], x: Any, precision: str, training: bool) -> None:
    for ppl, pair in pairs.items():
        side(ppl).set_training(*pair, training)
    expected, latents = side("pyro").densities(*pairs["pyro"], x)
    found, drawn = side("numpyro").densities(*pairs["numpyro"], x, latents=latents)
    assert side("numpyro").shapes(drawn) == side("pyro").shapes(latents)
    assert expected.keys() == found.keys()
    named = [f"{density}({site})" for site in latents for density in ("log p", "log q", "kl")]
    assert {"log p(x)", "log p(x | z)", *named} <= found.keys()
    for values in (expected, found):
        np.testing.assert_array_equal(values["log p(x)"], values["log p(x | z)"])
    for name, value in expected.items():
        where = f"{name}, {precision}, {training=}"
        assert found[name].dtype == value.dtype == x.dtype, where
        assert found[name].shape == value.shape == (len(x),), where
        np.testing.assert_allclose(found[name], value, **TOLERANCE[precision], err_msg=where)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_agree(name: str) -> None:
    x = np.linspace(-8, 8, 101)
    with side("numpyro").precision("float64"):
        found = {ppl: side(ppl).activation(name, x) for ppl in PPLS}
    np.testing.assert_allclose(found["numpyro"], found["pyro"], rtol=1e-9, atol=1e-12)
    assert found["pyro"][-1] == pytest.approx(1.0 if name == "tanh" else 8.0, rel=1e-2)
