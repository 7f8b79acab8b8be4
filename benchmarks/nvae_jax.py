"""NVAE by hand in plain JAX: functions of flat dictionaries of arrays, one pass of both towers.

The mathematics of `NVAE` with `NVAEGuide` (residual posteriors, no flows, Bernoulli images) and the
analytic ELBO. Arrays keep the zoo's names; maps have their channels last. The zoo's functions in
place of XLA's slow convolutions serve here as well: operations, no nets.
"""

from __future__ import annotations

__all__ = ["NVAEByHand"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, random

from benchmarks.problem import Problem
from ppl_vae.numpyro.nets.convolution import conv
from ppl_vae.numpyro.nets.depthwise import depthwise

Tree = Any


class Net:
    """Layers under their names; what batch norm has seen of this batch goes into `new`."""

    def __init__(self, params: Tree, stats: Tree) -> None:
        self.params, self.stats, self.new = params, stats, {}  # type: ignore[var-annotated]

    def conv(self, at: str, x: Array, stride: int = 1) -> Array:
        """Of a direction and a length."""
        v = self.params[f"{at}.weight"]
        norm = jnp.sqrt(jnp.sum(v**2, (1, 2, 3), keepdims=True))
        w = jnp.exp(self.params[f"{at}.log_weight_norm"]) * v / (norm + 1e-5)
        h = conv(x, w, stride, v.shape[-1] // 2)
        return h + self.params[f"{at}.bias"] if f"{at}.bias" in self.params else h

    def linear(self, at: str, x: Array) -> Array:
        return x @ self.params[f"{at}.weight"].T + self.params[f"{at}.bias"]

    def norm(self, at: str, x: Array) -> Array:
        mean = x.mean((0, 1, 2))
        centred = x - mean
        variance = jnp.square(centred).mean((0, 1, 2))
        for part, value in (("running_mean", mean), ("running_var", variance)):
            name = f"{at}.{part}"
            self.new[name] = 0.95 * self.stats[name] + 0.05 * value
        scale = lax.rsqrt(variance + 1e-5) * self.params[f"{at}.weight"]
        return centred * scale + self.params[f"{at}.bias"]

    def gate(self, at: str, x: Array) -> Array:
        h = jax.nn.relu(self.linear(f"{at}.squeeze", x.mean((1, 2))))
        return x * jax.nn.sigmoid(self.linear(f"{at}.excite", h))[:, None, None]

    def encoder_cell(self, at: str, x: Array) -> Array:
        down = f"{at}.skip.convs.0.weight" in self.params
        h = self.conv(f"{at}.convs.0", jax.nn.silu(self.norm(f"{at}.norms.0", x)), 1 + down)
        h = self.conv(f"{at}.convs.1", jax.nn.silu(self.norm(f"{at}.norms.1", h)))
        if down:
            x = jax.nn.silu(x)
            shifts = enumerate(((0, 0), (1, 1), (0, 1), (1, 0)))
            parts = [self.conv(f"{at}.skip.convs.{k}", x[:, i::2, j::2]) for k, (i, j) in shifts]
            x = jnp.concatenate(parts, -1)
        return x + 0.1 * self.gate(f"{at}.gate", h)

    def decoder_cell(self, at: str, x: Array) -> Array:
        h = x
        if f"{at}.skip.conv.weight" in self.params:
            h = x.repeat(2, 1).repeat(2, 2)
            rows, columns = (bilinear(side) for side in x.shape[1:3])
            x = self.conv(f"{at}.skip.conv", jnp.einsum("oh,pw,nhwc->nopc", rows, columns, x))
        h = conv(self.norm(f"{at}.norms.0", h), self.params[f"{at}.convs.0.weight"], 1, 0)
        h = jax.nn.silu(self.norm(f"{at}.norms.1", h))
        h = depthwise(h, self.params[f"{at}.convs.1.weight"])
        h = jax.nn.silu(self.norm(f"{at}.norms.2", h))
        h = self.norm(f"{at}.norms.3", conv(h, self.params[f"{at}.convs.2.weight"], 1, 0))
        return x + 0.1 * self.gate(f"{at}.gate", h)


def bilinear(side: int) -> np.ndarray:
    at = np.linspace(0, side - 1, 2 * side)[:, None]
    return np.maximum(1 - np.abs(at - np.arange(side)), 0).astype(np.float32)


def normal(loc: Any, log_scale: Any) -> tuple[Array, Array]:
    """Softly clamped."""
    return 5 * jnp.tanh(loc / 5), jnp.exp(5 * jnp.tanh(log_scale / 5)) + 0.01


def drawn(key: Any, loc: Array, scale: Array) -> Array:
    """The noise is drawn with channels first, as the zoo draws it."""
    n, height, width, channels = loc.shape
    noise = random.normal(key, (n, channels, height, width), loc.dtype)
    return loc + scale * noise.transpose(0, 2, 3, 1)


class NVAEByHand:
    """Two scales, one group at the coarser one."""

    def __init__(self, problem: Problem) -> None:
        self.fine, self.blocks = problem.model_args["groups"][0], problem.model_args["blocks"]
        whole = 2 ** (self.blocks + 1)
        self.sides = [-(-side // whole) * whole for side in problem.x_shape[1:]]

    def arrays(self, given: dict[str, np.ndarray]) -> tuple[Tree, Tree]:
        """(parameters, running statistics) from weights as `ppl_vae.numpyro.state` names them."""
        params, stats = {}, {}
        for name, array in given.items():
            here = name.partition(".")[2]
            if "running" in name:
                stats[here] = jnp.array(array)
                continue
            params[here] = jnp.array(array)
        return params, stats

    def bound(
        self, params: Tree, stats: Tree, x: Array, key: Any
    ) -> tuple[Array, list[Array], Tree]:
        """Batch means of log p(x | z) and of each site's divergence, z1 first; new statistics."""
        net = Net(params, stats)
        (high, wide), (height, width) = self.sides, x.shape[2:]
        above, left = (high - height) // 2, (wide - width) // 2
        rest = ((above, high - height - above), (left, wide - width - left))
        maps = self.encoded(net, jnp.pad(x.transpose(0, 2, 3, 1), ((0, 0), *rest, (0, 0))))
        top = params["top"].transpose(1, 2, 0)
        h = jnp.broadcast_to(top, (len(x), *top.shape))
        divergences = []
        for i in range(self.fine + 1):
            for cell in range(0 if i == 0 else 2 if i == 1 else 1):
                h = net.decoder_cell(f"groups.{i}.cells.{cell}", h)
            seen = maps[i] + net.conv(f"combine.{i - 1}", h) if i else maps[0]
            loc, log = jnp.split(net.conv(f"heads.{i}", seen), 2, -1)
            prior_loc, prior_log = jnp.zeros(()), jnp.zeros(())
            if i:
                prior = net.conv(f"groups.{i}.head", jax.nn.elu(h))
                prior_loc, prior_log = jnp.split(prior, 2, -1)
                loc, log = prior_loc + loc, prior_log + log
            (loc, scale), (prior_loc, prior_scale) = normal(loc, log), normal(prior_loc, prior_log)
            key, now = random.split(key)
            z = drawn(now, loc, scale)
            ratio = (scale / prior_scale) ** 2
            kl = ratio + ((loc - prior_loc) / prior_scale) ** 2 - 1 - jnp.log(ratio)
            divergences.append(0.5 * kl.sum((1, 2, 3)).mean())
            h = net.conv(f"groups.{i}.combine", jnp.concatenate([h, z], -1))
        for i in range(self.blocks):
            h = net.decoder_cell(f"post.{i}", h)
        logits = net.conv("out", jax.nn.elu(h))[:, above : above + height, left : left + width, 0]
        x = x[:, 0]
        log_likelihood = (x * logits - jax.nn.softplus(logits)).sum((1, 2)).mean()
        return log_likelihood, divergences[::-1], net.new

    def encoded(self, net: Net, x: Array) -> list[Array]:
        """Maps of the tower, from the top group down."""
        h = net.conv("tower.stem", 2 * x - 1)
        for i in range(self.blocks):
            h = net.encoder_cell(f"tower.pre.{i}", h)
        found = []
        for i in range(self.fine + 1):
            for cell in range(2 if i == self.fine else 1):
                h = net.encoder_cell(f"tower.groups.{i}.{cell}", h)
            found.append(h)
        found[-1] = jax.nn.elu(net.conv("tower.top", jax.nn.elu(h)))
        return found[::-1]
