"""Training by hand in plain JAX, as one would write it without a PPL; and the Ladder VAE so.

The mathematics of `HierarchicalVAE` with `LadderGuide` and the analytic ELBO, in one pass.
"""

from __future__ import annotations

__all__ = ["ByHand"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax, random

from benchmarks.nvae_jax import NVAEByHand
from benchmarks.problem import Problem
from benchmarks.very_deep_jax import VeryDeepByHand

Tree = Any


def block(params: Tree, stats: Tree, h: Array) -> tuple[Array, Tree]:
    """Two layers of linear, batch norm, leaky ReLU; (output, new running statistics)."""
    running = []
    for layer, (old_mean, old_variance) in zip(params, stats, strict=True):
        h = h @ layer["w"]
        mean = h.mean(0)
        centred = h - mean
        variance = jnp.square(centred).mean(0)
        running.append((0.9 * old_mean + 0.1 * mean, 0.9 * old_variance + 0.1 * variance))
        scale = lax.rsqrt(variance + 1e-5) * layer["scale"]
        h = jax.nn.leaky_relu(centred * scale + layer["bias"])
    return h, running


def gaussian(params: Tree, h: Array) -> tuple[Array, Array]:
    loc, raw = jnp.split(h @ params["w"] + params["b"], 2, axis=-1)
    return loc, jax.nn.softplus(raw) + 1e-6


def draw(key: Any, loc: Array, variance: Array) -> tuple[Any, Array]:
    key, now = random.split(key)
    return key, loc + jnp.sqrt(variance) * random.normal(now, loc.shape, loc.dtype)


def bound(params: Tree, stats: Tree, x: Array, key: Any) -> tuple[Array, list[Array], Tree]:
    """Batch means of log p(x | z) and of each site's divergence, z1 first; new statistics."""
    h = x = x.reshape(len(x), -1)
    messages: list[Any] = []
    new: dict[str, Any] = {"up": [], "down": [None] * len(params["down"])}
    for net, old, head in zip(params["up"], stats["up"], params["messages"], strict=True):
        h, running = block(net, old, h)
        new["up"].append(running)
        messages.append(gaussian(head, h))
    loc, variance = messages[-1]
    key, z = draw(key, loc, variance)
    kl = [0.5 * (variance + jnp.square(loc) - 1 - jnp.log(variance)).sum(-1).mean()]
    for level in reversed(range(len(params["down"]))):
        h, new["down"][level] = block(params["down"][level], stats["down"][level], z)
        prior_loc, prior_variance = gaussian(params["priors"][level], h)
        data_loc, data_variance = messages[level]
        precision, prior_precision = 1 / data_variance, 1 / prior_variance
        variance = 1 / (precision + prior_precision)
        loc = variance * (data_loc * precision + prior_loc * prior_precision)
        key, z = draw(key, loc, variance)
        ratio = variance * prior_precision
        shift = jnp.square(loc - prior_loc) * prior_precision
        kl.append(0.5 * (ratio + shift - 1 - jnp.log(ratio)).sum(-1).mean())
    h, new["decoder"] = block(params["decoder"], stats["decoder"], z)
    logits = h @ params["out"]["w"] + params["out"]["b"]
    log_likelihood = (x * logits - jax.nn.softplus(logits)).sum(-1).mean()
    return log_likelihood, kl[::-1], new


class Ladder:
    """The ladder as the trainer takes it."""

    def __init__(self, problem: Problem) -> None:
        pass

    def arrays(self, given: dict[str, np.ndarray]) -> tuple[Tree, Tree]:
        """(parameters, running statistics) from weights as `ppl_vae.numpyro.state` names them."""
        return from_torch_layout(given)

    def bound(
        self, params: Tree, stats: Tree, x: Array, key: Any
    ) -> tuple[Array, list[Array], Tree]:
        return bound(params, stats, x, key)


NETS: dict[str, Any] = {"ladder": Ladder, "nvae": NVAEByHand, "very-deep": VeryDeepByHand}


class ByHand:
    """Its training: Adam, an epoch one scan over batches gathered and binarised on the device."""

    def __init__(self, problem: Problem, images: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        self.images, self.batch = jnp.asarray(images), problem.batch
        self.net = NETS[problem.family](problem)
        params, stats = self.net.arrays(arrays)
        self.adam = optax.scale_by_adam()
        self.now = (params, stats, self.adam.init(params))
        self.epoch = jax.jit(self._epoch, donate_argnums=0)

    def run_epoch(self, key: Any, kl_weight: np.ndarray, learning_rate: np.ndarray) -> np.ndarray:
        """Rows of every step: loss, log likelihood, gradient norm, divergences z1 … zL."""
        rates = (jnp.asarray(kl_weight, jnp.float32), jnp.asarray(learning_rate, jnp.float32))
        self.now, rows = self.epoch(self.now, self.images, key, rates)
        return np.asarray(rows, dtype=np.float64)

    def _epoch(self, now: Tree, images: Array, key: Any, rates: Any) -> tuple[Tree, Array]:
        batch = self.batch
        steps = len(images) // batch
        shuffle, draws = random.split(key)
        order = random.permutation(shuffle, len(images))[: steps * batch].reshape(steps, batch)

        def body(now: Tree, inputs: Any) -> tuple[Tree, Array]:
            index, key, kl_weight, rate = inputs
            binarise, noise = random.split(key)
            grey = images[index].astype(jnp.float32) / 255
            x = random.bernoulli(binarise, grey).astype(jnp.float32)
            return self.step(now, x, noise, kl_weight, rate)

        return lax.scan(body, now, (order, random.split(draws, steps), *rates))

    def loss(
        self, params: Tree, stats: Tree, x: Array, key: Any, kl_weight: Any
    ) -> tuple[Array, Any]:
        log_likelihood, kl, new = self.net.bound(params, stats, x, key)
        return kl_weight * sum(kl) - log_likelihood, (log_likelihood, kl, lax.stop_gradient(new))

    def step(self, now: Tree, x: Array, key: Any, kl_weight: Any, rate: Any) -> tuple[Tree, Array]:
        params, stats, moments = now
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (log_likelihood, kl, stats)), grads = gradient(params, stats, x, key, kl_weight)
        norm = jnp.sqrt(sum(jnp.square(grad).sum() for grad in jax.tree.leaves(grads)))
        updates, moments = self.adam.update(grads, moments)
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
        return (params, stats, moments), jnp.stack([loss, log_likelihood, norm, *kl])


def from_torch_layout(arrays: dict[str, np.ndarray]) -> tuple[Tree, Tree]:
    """(parameters, running statistics) from weights as `ppl_vae.numpyro.state` names them."""

    def linear(name: str) -> Tree:
        return {"w": jnp.array(arrays[f"{name}.weight"].T), "b": jnp.array(arrays[f"{name}.bias"])}

    def layers(name: str) -> Tree:
        return [
            {
                "w": jnp.array(arrays[f"{name}.linears.{i}.weight"].T),
                "scale": jnp.array(arrays[f"{name}.norms.{i}.weight"]),
                "bias": jnp.array(arrays[f"{name}.norms.{i}.bias"]),
            }
            for i in range(2)
        ]

    def running(name: str) -> Tree:
        kinds = ("running_mean", "running_var")
        return [tuple(jnp.array(arrays[f"{name}.norms.{i}.{k}"]) for k in kinds) for i in range(2)]

    levels = range(1 + max(int(name.split(".")[2]) for name in arrays if ".heads." in name))
    nets: dict[str, Any] = {
        "up": [f"guide.tower.nets.{level}" for level in levels],
        "down": [f"model.groups.{level}.mlp" for level in levels[:-1]],
        "decoder": "model.decoder.mlp",
    }
    params = jax.tree.map(layers, nets)
    params["messages"] = [linear(f"guide.heads.{level}.linear") for level in levels]
    params["priors"] = [linear(f"model.groups.{level}.head.linear") for level in levels[:-1]]
    params["out"] = linear("model.decoder.out")
    return params, jax.tree.map(running, nets)
