"""NumPyro's convolutions: the slopes written for the CPU are those that JAX derives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from zoo import FITTING, Case, side


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with side("numpyro").precision("float64"):
        yield


SHAPES = [
    # height, width, kernel, strides, padding
    (5, 4, (3, 3), (1, 1), ((1, 1), (1, 1))),
    (5, 4, (3, 3), (2, 2), ((1, 1), (1, 1))),
    (8, 7, (3, 3), (2, 2), ((1, 1), (1, 1))),
    (6, 5, (1, 1), (1, 1), "VALID"),
    (6, 5, (2, 3), (2, 1), "VALID"),
    (7, 8, (5, 3), (3, 2), "SAME"),
    (1, 1, (3, 3), (1, 1), ((1, 1), (1, 1))),
    (9, 6, (2, 2), (3, 4), ((0, 2), (1, 0))),  # pixels that no window covers
    (6, 7, (3, 5), (1, 1), ((2, 0), (2, 2))),  # PixelCNN's rows above
    (6, 7, (1, 3), (1, 2), ((0, 0), (3, -2))),  # padded on one side, cut on the other
    (2, 1, (5, 5), (1, 1), ((2, 2), (2, 2))),  # taps that see padding alone
    (3, 3, (2, 2), (2, 3), ((2, 0), (0, 2))),
]


# Few enough for a convolution or not, pixels of a product, devices: maps by maps; products of all
# images, one by one, by pairs (of five), and shared out.
WAYS = [(16_000, 1024, 1), (0, 1024, 1), (0, 1, 1), (0, "pairs", 1), (0, 1, 2)]


@pytest.mark.parametrize(("height", "width", "kernel", "strides", "padding"), SHAPES)
def test_slopes_are_autodiff_s(
    height: int,
    width: int,
    kernel: Any,
    strides: Any,
    padding: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import jax
    from jax import lax

    from ppl_vae.numpyro.nets import convolution

    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, height, width, 3)), rng.standard_normal((*kernel, 3, 4))

    def slopes(convolve: Any) -> Any:
        def loss(x: Any, w: Any) -> Any:
            found = convolve(x, w, strides, padding, dimension_numbers=convolution.LAYOUT)
            return (found**3).sum()

        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss, (0, 1)))(x, w))

    expected = slopes(lax.conv_general_dilated)
    out = jax.eval_shape(
        lambda x, w: lax.conv_general_dilated(
            x, w, strides, padding, dimension_numbers=convolution.LAYOUT
        ),
        x,
        w,
    ).shape
    for few, pixels, devices in WAYS:
        monkeypatch.setattr(convolution, "FEW", few)
        pixels = 2 * out[1] * out[2] if pixels == "pairs" else pixels
        monkeypatch.setattr(convolution, "PIXELS", pixels)
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        for ours, theirs in zip(slopes(convolution.conv_general_dilated), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_slopes_of_slopes_of_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `vmap` over weights, and the gradient of a gradient's length."""
    import jax
    from jax import lax

    from ppl_vae.numpyro.nets import convolution

    monkeypatch.setattr(convolution, "FEW", 0)
    monkeypatch.setattr(convolution, "PIXELS", 40)  # two images at once, of five
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 5, 4, 3)), rng.standard_normal((2, 3, 3, 3, 4))

    def steepness(convolve: Any) -> Any:
        def loss(w: Any) -> Any:
            found = convolve(x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=convolution.LAYOUT)
            return (found**3).mean()

        return jax.vmap(jax.grad(lambda w: (jax.grad(loss)(w) ** 2).sum()))(w)

    ours, theirs = map(steepness, (convolution.conv_general_dilated, lax.conv_general_dilated))
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_few_bits_are_summed_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand ones in bfloat16, which has no 257: a sum kept in it stops there."""
    import jax
    import jax.numpy as jnp

    from ppl_vae.numpyro.nets import convolution

    x, w = jnp.ones((1000, 1, 2, 1), jnp.bfloat16), jnp.ones((1, 2, 1, 1), jnp.bfloat16)
    for few, pixels in ((16_000, 1), (0, 1), (0, 1024)):
        monkeypatch.setattr(convolution, "FEW", few)
        monkeypatch.setattr(convolution, "PIXELS", pixels)
        slope = jax.grad(lambda w: convolution.conv_general_dilated(x, w, (1, 1), "VALID").sum())(w)
        assert slope.dtype == jnp.bfloat16
        assert slope.ravel().tolist() == [1000, 1000]


def test_no_images_have_no_slope() -> None:
    import jax
    import jax.numpy as jnp

    from ppl_vae.numpyro.nets import convolution

    def loss(w: Any) -> Any:
        return convolution.conv_general_dilated(jnp.ones((0, 4, 4, 2)), w, (1, 1), "SAME").sum()

    assert not jax.grad(loss)(jnp.ones((3, 3, 2, 5))).any()


def test_depthwise_slopes_are_autodiff_s() -> None:
    import jax
    from jax import lax

    from ppl_vae.numpyro.nets.convolution import LAYOUT
    from ppl_vae.numpyro.nets.depthwise import depthwise

    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((3, 1, 5, 5))

    def by_groups(x: Any, w: Any) -> Any:
        turned = w.transpose(2, 3, 1, 0)
        return lax.conv_general_dilated(
            x, turned, (1, 1), "SAME", dimension_numbers=LAYOUT, feature_group_count=3
        )

    found = [
        jax.value_and_grad(lambda x, w, f=f: (f(x, w) ** 3).sum(), (0, 1))(x, w)
        for f in (depthwise, by_groups)
    ]
    for ours, theirs in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("model", "guide"), FITTING)
def test_every_layer_asks_for_them(model: str, guide: str) -> None:
    from flax import nnx

    from ppl_vae.numpyro.nets.convolution import conv_general_dilated

    for part in Case("numpyro", model, guide).build():
        for path, layer in nnx.iter_graph(part):
            if isinstance(layer, nnx.Conv):
                assert layer.conv_general_dilated is conv_general_dilated, path
