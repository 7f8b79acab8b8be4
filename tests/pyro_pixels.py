"""What the tests of autoregressive nets ask of Pyro; `numpyro_pixels.py` has the same names."""

from __future__ import annotations

__all__ = ["build", "cached", "fed_back", "jacobian", "log_prob", "naive", "outputs", "transformer"]

from typing import Any

import numpy as np
import torch

from ppl_vae.pyro import Autoregressive, Likelihood, load_state, state
from ppl_vae.pyro.nets import PixelCNNNet, TransformerNet


def build(weights: Any, *args: Any, **kwargs: Any) -> Any:
    """A float64 net; `weights` makes arrays from those that it starts with."""
    net = PixelCNNNet(*args, **kwargs).double()
    load_state(net, None, weights(state(net, None)))
    return net


def transformer(weights: Any, *args: Any, **kwargs: Any) -> Any:
    """The same of a transformer."""
    net = TransformerNet(*args, **kwargs).double()
    load_state(net, None, weights(state(net, None)))
    return net


@torch.no_grad()
def outputs(net: Any, x: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
    return net(torch.as_tensor(x), None if features is None else torch.as_tensor(features)).numpy()


def jacobian(net: Any, x: np.ndarray) -> np.ndarray:
    """(outputs, pixels of the input) of one image, channels summed in absolute value."""
    _, h, w = x.shape

    def of(image: torch.Tensor) -> torch.Tensor:
        return net(image[None])[0]

    found = torch.autograd.functional.jacobian(of, torch.as_tensor(x))
    return found.abs().sum((0, 3)).reshape(h * w, h * w).numpy()


@torch.no_grad()
def log_prob(net: Any, x: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
    given = None if features is None else torch.as_tensor(features)
    batch = () if features is None else (len(features),)
    law = Autoregressive(net, Likelihood("bernoulli"), batch, given)
    return law.log_prob(torch.as_tensor(x)).numpy()


def cached(net: Any, n: int, features: np.ndarray | None, seed: int) -> np.ndarray:
    torch.manual_seed(seed)
    given = None if features is None else torch.as_tensor(features)
    return Autoregressive(net, Likelihood("bernoulli"), (n,), given).sample().numpy()


def fed_back(net: Any, n: int, features: np.ndarray | None) -> np.ndarray:
    """Images whose pixels are their own parameters, as a cached draw has them."""
    given = None if features is None else torch.as_tensor(features)
    return net.generate(lambda parameters: parameters, n, given).numpy()


@torch.no_grad()
def naive(net: Any, n: int, features: np.ndarray | None, seed: int) -> np.ndarray:
    """A whole pass for every pixel."""
    torch.manual_seed(seed)
    x = torch.zeros(n, *net.x_shape, dtype=torch.float64)
    for i in range(net.x_shape[1]):
        for j in range(net.x_shape[2]):
            logits = torch.as_tensor(outputs(net, x.numpy(), features))[:, :, i, j]
            x[:, :, i, j] = Likelihood("bernoulli")(logits[..., None, None]).sample()[..., 0, 0]
    return x.numpy()
