"""What the tests of autoregressive nets ask of NumPyro; `pyro_pixels.py` has the same names."""

from __future__ import annotations

__all__ = ["build", "cached", "jacobian", "log_prob", "naive", "outputs", "transformer"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import random

from ppl_vae.numpyro import Autoregressive, Likelihood, load_state, state
from ppl_vae.numpyro.nets import PixelCNNNet, TransformerNet


@jax.enable_x64(True)
def build(weights: Any, *args: Any, **kwargs: Any) -> Any:
    """A float64 net; `weights` makes arrays from those that it starts with."""
    net = PixelCNNNet(*args, **kwargs, rngs=nnx.Rngs(0))
    nnx.update(net, jax.tree.map(lambda leaf: leaf.astype(float), nnx.state(net)))
    load_state(net, None, weights(state(net, None)))
    return net


@jax.enable_x64(True)
def transformer(weights: Any, *args: Any, **kwargs: Any) -> Any:
    """The same of a transformer."""
    net = TransformerNet(*args, **kwargs, rngs=nnx.Rngs(0))
    nnx.update(net, jax.tree.map(lambda leaf: leaf.astype(float), nnx.state(net)))
    load_state(net, None, weights(state(net, None)))
    return net


@jax.enable_x64(True)
def outputs(net: Any, x: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
    return np.asarray(net(jnp.asarray(x), None if features is None else jnp.asarray(features)))


@jax.enable_x64(True)
def jacobian(net: Any, x: np.ndarray) -> np.ndarray:
    """(outputs, pixels of the input) of one image, channels summed in absolute value."""
    _, h, w = x.shape
    found = jax.jacobian(lambda image: net(image[None])[0])(jnp.asarray(x))
    return np.asarray(abs(found).sum((0, 3)).reshape(h * w, h * w))


@jax.enable_x64(True)
def log_prob(net: Any, x: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
    given = None if features is None else jnp.asarray(features)
    batch = () if features is None else (len(features),)
    law = Autoregressive(net, Likelihood("bernoulli"), batch, given)
    return np.asarray(law.log_prob(jnp.asarray(x)))


@jax.enable_x64(True)
def cached(net: Any, n: int, features: np.ndarray | None, seed: int) -> np.ndarray:
    given = None if features is None else jnp.asarray(features)
    law = Autoregressive(net, Likelihood("bernoulli"), (n,), given)
    return np.asarray(law.sample(random.key(seed))).astype(float)


@jax.enable_x64(True)
def naive(net: Any, n: int, features: np.ndarray | None, seed: int) -> np.ndarray:
    """A whole pass for every pixel."""
    _, height, width = net.x_shape
    given = None if features is None else jnp.asarray(features)
    run = nnx.jit(lambda net, x: net(x, given))
    x = jnp.zeros((n, *net.x_shape), float)
    for i, row_key in enumerate(random.split(random.key(seed), height)):
        for j, key in enumerate(random.split(row_key, width)):
            logits = run(net, x)[:, :, i : i + 1, j : j + 1]
            drawn = Likelihood("bernoulli")(logits).sample(key)
            x = x.at[:, :, i : i + 1, j : j + 1].set(drawn)
    return np.asarray(x)
