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


@pytest.mark.parametrize(("height", "width", "kernel", "strides", "padding"), SHAPES)
def test_slopes_are_autodiff_s(
    height: int, width: int, kernel: Any, strides: Any, padding: Any
) -> None:
    import jax
    from jax import lax

    from ppl_vae.numpyro.nets.convolution import LAYOUT, conv_general_dilated

    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, height, width, 3)), rng.standard_normal((*kernel, 3, 4))

    def slopes(convolve: Any) -> Any:
        def loss(x: Any, w: Any) -> Any:
            return (convolve(x, w, strides, padding, dimension_numbers=LAYOUT) ** 3).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, w)

    for ours, theirs in zip(
        jax.tree.leaves(slopes(conv_general_dilated)),
        jax.tree.leaves(slopes(lax.conv_general_dilated)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


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
