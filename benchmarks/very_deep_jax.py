"""Very Deep VAE by hand in plain JAX: functions of a flat dictionary of arrays, in a single pass.

The mathematics of `VeryDeepVAE` with `VeryDeepGuide` (Bernoulli images) and the analytic ELBO.
Arrays keep the zoo's names; maps have their channels last. The zoo's function in place of XLA's
slow convolution serves here as well: an operation, no net.
"""

from __future__ import annotations

__all__ = ["VeryDeepByHand"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random

from benchmarks.nvae_jax import drawn
from benchmarks.problem import Problem
from ppl_vae.numpyro.nets.convolution import conv_general_dilated
from ppl_vae.numpyro.nets.mlp import gelu
from ppl_vae.stages import Pyramid, read_stages, read_widths

Tree = Any


def conv(params: Tree, at: str, x: Array) -> Array:
    w = params[f"{at}.weight"]
    pad = w.shape[0] // 2
    h = conv_general_dilated(x, w, (1, 1), [(pad, pad)] * 2)
    return h + params[f"{at}.bias"]


def block(params: Tree, at: str, h: Array) -> Array:
    for i in range(4):
        h = conv(params, f"{at}.convs.{i}", gelu(h))
    return h


class VeryDeepByHand:
    """Sizes alone come from the zoo's `Pyramid`."""

    def __init__(self, problem: Problem) -> None:
        sizes = problem.model_args
        self.pyramid = Pyramid(
            problem.x_shape,
            read_stages(sizes["decoder"], "decoder"),
            sizes["width"],
            read_widths(sizes["widths"]),
            sizes["latent_channels"],
            sizes.get("bottleneck", 0.25),
        )
        self.path = self.pyramid.climb(read_stages(problem.guide_args["encoder"], "encoder"))

    def arrays(self, given: dict[str, np.ndarray]) -> tuple[Tree, Tree]:
        """(parameters, no statistics) from weights as `ppl_vae.numpyro.state` names them."""
        params = {}
        for name, array in given.items():
            if array.ndim == 4:  # a kernel, or a map that is added: channels last
                array = array.transpose((2, 3, 1, 0) if "weight" in name else (0, 2, 3, 1))
            params[name.partition(".")[2]] = jnp.array(array)
        return params, {}

    def bound(
        self, params: Tree, stats: Tree, x: Array, key: Any
    ) -> tuple[Array, list[Array], Tree]:
        """Batch means of log p(x | z) and of each site's divergence, z1 first."""
        pyramid, (height, width) = self.pyramid, x.shape[2:]
        rows, columns = pyramid.margins
        padded = jnp.pad(x.transpose(0, 2, 3, 1), ((0, 0), rows, columns, (0, 0)))
        maps = self.encoded(params, (255 * padded - 127.5) / 127.5)
        states = {}
        for i, side in enumerate(pyramid.biases):
            start = params[f"starts.{i}"]
            states[side] = jnp.broadcast_to(start, (len(x), *start.shape[1:]))
        divergences = []
        for i, (side, up, _) in enumerate(pyramid.places):
            h, at = states[side], f"groups.{i}"
            if up is not None:
                factor = side // up
                h = h + states[up][..., : h.shape[-1]].repeat(factor, 1).repeat(factor, 2)
            latents = pyramid.latent_channels
            found = block(params, f"{at}.prior_net", h)
            prior_loc, prior_log, increment = jnp.split(found, (latents, 2 * latents), -1)
            raw = block(params, f"heads.{i}", jnp.concatenate([h, maps[side]], -1))
            loc, log = jnp.split(raw, 2, -1)
            scale, prior_scale = jnp.exp(log), jnp.exp(prior_log)
            key, now = random.split(key)
            z = drawn(now, loc, scale)
            ratio = (scale / prior_scale) ** 2
            kl = ratio + ((loc - prior_loc) / prior_scale) ** 2 - 1 - jnp.log(ratio)
            divergences.append(0.5 * kl.sum((1, 2, 3)).mean())
            h = h + increment + conv(params, f"{at}.project", z)
            states[side] = h + block(params, f"{at}.residual", h)
        h = states[pyramid.side] * params["gain"] + params["bias"]
        (above, _), (left, _) = rows, columns
        logits = conv(params, "out", h)[:, above : above + height, left : left + width, 0]
        x = x[:, 0]
        log_likelihood = (x * logits - jax.nn.softplus(logits)).sum((1, 2)).mean()
        return log_likelihood, divergences[::-1], stats

    def encoded(self, params: Tree, x: Array) -> dict[int, Array]:
        """The tower's last map at each resolution."""
        h = conv(params, "tower.stem", x)
        found = {self.pyramid.side: h}
        for i, (side, down) in enumerate(self.path):
            h = h + block(params, f"tower.blocks.{i}", h)
            if down > 1:
                n, high, wide, channels = h.shape
                h = h.reshape(n, high // down, down, wide // down, down, channels).mean((2, 4))
            more = self.pyramid.channels(side // down) - h.shape[-1]
            h = jnp.pad(h, ((0, 0), (0, 0), (0, 0), (0, more)))
            found[side // down] = h
        return found
