"""Training with products in bfloat16: what is rounded, what is summed, and that it learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax
from zoo import PAIRS, Case, images, room

from ppl_vae.numpyro.bfloat16 import PRODUCTS, in_bfloat16
from ppl_vae.numpyro.trainer import NumPyroTrainer
from ppl_vae.pyro.objective import traces
from ppl_vae.settings import ObjectiveSettings, TrainingSettings


def products(part: Any) -> Iterator[Any]:
    """Every matrix product and convolution of a traced program, those of its bodies too."""
    if isinstance(part, tuple | list):
        for one in part:
            yield from products(one)
    jaxpr = getattr(part, "jaxpr", part)
    for eqn in getattr(jaxpr, "eqns", ()):
        if eqn.primitive.name in PRODUCTS:
            yield eqn
        for inner in eqn.params.values():
            yield from products(inner)


def rounded(a: Any) -> Any:
    return a.astype(jnp.bfloat16).astype(jnp.float32)


def test_products_are_rounded_wherever_they_stand() -> None:
    """In a loop, a choice, what is computed again and what has slopes of its own; and its slope."""

    @jax.custom_vjp
    def own(x: Any, w: Any) -> Any:
        return x @ w

    own.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))

    def program(w: Any, x: Any, product: Any, special: Any) -> Any:
        h, _ = lax.scan(lambda h, _: (jnp.tanh(product(h, w)), None), x, None, length=2)
        h = lax.cond(h.sum() > 0, lambda h: product(h, w), lambda h: product(w, h), h)
        h = jax.checkpoint(lambda h: jnp.sin(product(h, w)))(h)
        return (special(h, w) * h).sum()

    # By hand: factors rounded, and so are those of each slope; sums and all else in float32.
    @jax.custom_vjp
    def by_hand(x: Any, w: Any) -> Any:
        return rounded(x) @ rounded(w)

    by_hand.defvjp(
        lambda x, w: (by_hand(x, w), (x, w)),
        lambda kept, g: (rounded(g) @ rounded(kept[1]).T, rounded(kept[0]).T @ rounded(g)),
    )
    rng = np.random.default_rng(0)
    w, x = (jnp.asarray(0.3 * rng.standard_normal((5, 5)), jnp.float32) for _ in range(2))
    plain = jax.value_and_grad(lambda w: program(w, x, jnp.matmul, own))
    expected = jax.value_and_grad(lambda w: program(w, x, by_hand, by_hand))(w)
    found = jax.jit(in_bfloat16(plain))(w)
    for mine, theirs, exact in zip(found, expected, plain(w), strict=True):
        np.testing.assert_allclose(mine, theirs, 1e-5, 1e-6)
        assert np.abs(mine - exact).max() > 1e-4
    found = jax.make_jaxpr(in_bfloat16(plain))(w)
    assert {aval.dtype for e in products(found) for aval in (v.aval for v in e.invars)} == {
        jnp.dtype(jnp.bfloat16)
    }


def test_a_product_that_asks_for_the_highest_precision_keeps_it() -> None:
    x = jnp.full((2, 2), 1 + 2**-10, jnp.float32)
    kept = in_bfloat16(lambda x: jnp.matmul(x, x, precision="highest"))
    np.testing.assert_array_equal(kept(x), x @ x)


def test_every_product_of_a_step_is_rounded_and_summed_in_float32() -> None:
    """Dense layers, convolutions with slopes of their own, and the way back through both."""
    pair = Case("numpyro", "hierarchy-conv", "ladder").build()
    settings = TrainingSettings(batch_size=3, precision="bfloat16", device="cpu")
    device = jax.devices("cpu")[0]
    trainer = NumPyroTrainer(*pair, images(), None, ObjectiveSettings(), settings, device)
    x = jnp.asarray(images()[:3])
    step = jax.make_jaxpr(trainer.step)(trainer.now, x, jax.random.key(0), 1.0, 1e-3)
    found = list(products(step))
    assert {e.primitive.name for e in found} == set(PRODUCTS)
    for eqn in found:
        assert {v.aval.dtype for v in eqn.invars} == {jnp.dtype(jnp.bfloat16)}
        assert {v.aval.dtype for v in eqn.outvars} == {jnp.dtype(jnp.float32)}


def test_training_in_bfloat16_learns_much_the_same(ppl: str) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        pair = Case(ppl, "vae", "mean-field").build()
        settings = {"epochs": 2, "batch_size": 3, "device": "cpu", "progress": False}
        history = room(ppl).fit(*pair, images(), precision=precision, **settings).history
        found[precision] = history["loss"].values
        weights = room(ppl).state(*pair)
        assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    assert (found["bfloat16"] != found["float32"]).all()
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=0.02)


@pytest.mark.parametrize("case", [pair for pair in PAIRS if pair.ppl == "pyro"], ids=str)
@pytest.mark.filterwarnings("ignore:.*samples its sites in another order")
def test_distributions_keep_their_digits_under_autocast(case: Case) -> None:
    """Pyro: products are rounded; draws and densities of every site are float32 all the same."""
    pair = replace(case, likelihood="normal").build()
    x = torch.as_tensor(images()[:3]).float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = traces(*pair, x)
        sites = [
            (name, site)
            for trace in found
            for name, site in trace.nodes.items()
            if site["type"] == "sample"
        ]
        dtypes = {
            name: (site["value"].dtype, site["fn"].log_prob(site["value"]).dtype)
            for name, site in sites
        }
    assert set(dtypes) >= {*case.sites, "x"}
    assert set(dtypes.values()) == {(torch.float32, torch.float32)}
