"""What the tests of autoregressive nets ask of NumPyro; `pyro_pixels.py` has the same names."""

from __future__ import annotations

__all__ = ["build", "cached", "fed_back", "jacobian", "log_prob", "naive", "outputs", "transformer"]

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import random
from numpyro_whole import whole

from ppl_vae.numpyro import Autoregressive, Likelihood, load_state, state
from ppl_vae.numpyro.build import as_dtype
from ppl_vae.numpyro.nets import PixelCNNNet, TransformerNet


@jax.enable_x64(True)
def build(weights: Any, *args: Any, **kwargs: Any) -> Any:
    """A float64 net; `weights` makes arrays from those that it starts with."""
    net = PixelCNNNet(*args, **kwargs, rngs=nnx.Rngs(0))
    as_dtype(net, jnp.float64)
    load_state(net, None, weights(state(net, None)))
    return net


@jax.enable_x64(True)
def transformer(weights: Any, *args: Any, **kwargs: Any) -> Any:
    """The same of a transformer."""
    net = TransformerNet(*args, **kwargs, rngs=nnx.Rngs(0))
    as_dtype(net, jnp.float64)
    load_state(net, None, weights(state(net, None)))
    return net


@jax.enable_x64(True)
@whole
def outputs(net: Any, x: np.ndarray, features: np.ndarray | None = None) -> Any:
    return net(x, features)


@jax.enable_x64(True)
@whole
def jacobian(net: Any, x: np.ndarray) -> Any:
    """(outputs, pixels of the input) of one image, channels summed in absolute value."""
    _, h, w = x.shape
    found = jax.jacobian(lambda image: net(image[None])[0])(x)
    return abs(found).sum((0, 3)).reshape(h * w, h * w)


@jax.enable_x64(True)
@whole
def log_prob(net: Any, x: np.ndarray, features: np.ndarray | None = None) -> Any:
    batch = () if features is None else (len(features),)
    return Autoregressive(net, Likelihood("bernoulli"), batch, features).log_prob(x)


@jax.enable_x64(True)
@whole
def cached(net: Any, n: int, features: np.ndarray | None, seed: int) -> Any:
    law = Autoregressive(net, Likelihood("bernoulli"), (n,), features)
    return law.sample(random.key(seed)).astype(float)


@jax.enable_x64(True)
@whole
def fed_back(net: Any, n: int, features: np.ndarray | None) -> Any:
    """Images whose pixels are their own parameters, as a cached draw has them."""
    return net.generate(lambda key, parameters: parameters, n, features, random.key(0))


@jax.enable_x64(True)
def naive(net: Any, n: int, features: np.ndarray | None, seed: int) -> np.ndarray:
    """A whole pass for every pixel."""
    _, height, width = net.x_shape
    given = None if features is None else jnp.asarray(features)
    run = nnx.jit(lambda net, x: net(x, given))
    keys = jax.vmap(partial(random.split, num=width))(random.split(random.key(seed), height))
    draw = jax.jit(lambda logits, key: Likelihood("bernoulli")(logits).sample(key))
    x = np.zeros((n, *net.x_shape))
    for i, j in np.ndindex(height, width):
        logits = np.asarray(run(net, x))[:, :, i : i + 1, j : j + 1]
        x[:, :, i : i + 1, j : j + 1] = draw(logits, keys[i, j])
    return x
