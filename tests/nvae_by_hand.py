"""NVAE's terms from a state_dict under the authors' names, in NumPy, one step after the other.

Independent of the zoo's nets and of its mapping of names: what a key is shows from its name and its
neighbours, and the towers are walked in the order of their numbers. Evaluation mode, float64.
"""

from __future__ import annotations

__all__ = ["Weights", "bilinear", "conv", "terms"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def conv(x: Any, w: Any, b: Any = None, stride: int = 1) -> Any:
    """Convolution of (n, c, h, w), padded to keep the sides; depthwise where w has one input."""
    pad = w.shape[-1] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    if w.shape[1] == 1 and x.shape[1] > 1:
        h = np.einsum("nchwij,cij->nchw", windows, w[:, 0])
    else:
        h = np.einsum("nchwij,ocij->nohw", windows, w, optimize=True)
    return h if b is None else h + b[:, None, None]


def silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def elu(x: Any) -> Any:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def bilinear(x: Any) -> Any:
    """Doubled sides, corner pixels on corner pixels, by interpolation along each axis."""
    for axis in (2, 3):
        side = x.shape[axis]
        at = np.arange(2 * side) * (side - 1) / (2 * side - 1)
        low = np.minimum(np.floor(at).astype(int), max(side - 2, 0))
        high = np.minimum(low + 1, side - 1)
        share = np.expand_dims(at - low, tuple(range(1, x.ndim - axis)))
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


class Weights:
    """A state_dict with the layers that it holds."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = {key: np.asarray(value, np.float64) for key, value in arrays.items()}

    def has(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self.arrays)

    def conv(self, at: str, x: Any, stride: int = 1, mask: Any = None) -> Any:
        v = self.arrays[f"{at}.weight"] * (1 if mask is None else mask)
        norm = np.sqrt((v**2).sum((1, 2, 3), keepdims=True))
        w = np.exp(self.arrays[f"{at}.log_weight_norm"]) * v / (norm + 1e-5)
        return conv(x, w, self.arrays.get(f"{at}.bias"), stride)

    def norm(self, at: str, x: Any) -> Any:
        scale, shift, mean, var = (
            self.arrays[f"{at}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + shift

    def gate(self, at: str, x: Any) -> Any:
        if not self.has(f"{at}.se."):
            return x
        h = x.mean((2, 3))
        for part, bend in (("0", lambda h: np.maximum(h, 0)), ("2", sigmoid)):
            weight, bias = (self.arrays[f"{at}.se.se.{part}.{p}"] for p in ("weight", "bias"))
            h = bend(h @ weight.T + bias)
        return x * h[:, :, None, None]

    def encoder_cell(self, at: str, x: Any) -> Any:
        down = self.has(f"{at}.skip.")
        h = self.conv(f"{at}._ops.0.conv_0", silu(self.norm(f"{at}._ops.0.bn_act", x)), 1 + down)
        h = self.conv(f"{at}._ops.1.conv_0", silu(self.norm(f"{at}._ops.1.bn_act", h)))
        if down:
            rows_columns = ((0, 0), (1, 1), (0, 1), (1, 0))
            parts = [
                self.conv(f"{at}.skip.conv_{i + 1}", silu(x)[:, :, r::2, c::2])
                for i, (r, c) in enumerate(rows_columns)
            ]
            x = np.concatenate(parts, 1)
        return x + 0.1 * self.gate(at, h)

    def decoder_cell(self, at: str, x: Any) -> Any:
        up, ops = self.has(f"{at}.skip."), f"{at}._ops.0.conv"
        h, skip = x, x
        if up:
            h = x.repeat(2, 2).repeat(2, 3)
            skip = self.conv(f"{at}.skip.1", bilinear(x))
        h = self.norm(f"{ops}.{0 + up}.bn", h)
        for i in (1, 2):
            h = conv(h, self.arrays[f"{ops}.{i + up}.conv.0.weight"])
            h = silu(self.norm(f"{ops}.{i + up}.conv.1", h))
        h = conv(h, self.arrays[f"{ops}.{3 + up}.weight"])
        return skip + 0.1 * self.gate(at, self.norm(f"{ops}.{4 + up}.bn", h))

    def shift(self, at: str, z: Any, reverse: bool) -> Any:
        """μ of an autoregressive cell."""
        latents = z.shape[1]
        masks = [visible(latents, 6 * latents, 3, 1), None, visible(6 * latents, latents, 1, 0)]
        masks[1] = visible(1, 1, 5, 0)
        first, second, third = (m[:, :, ::-1, ::-1] if reverse else m for m in masks)
        h = elu(self.conv(f"{at}.conv.convz.0", z, mask=first))
        h = elu(elu(self.conv(f"{at}.conv.convz.2", h, mask=second)))
        return self.conv(f"{at}.mu.conv_0", h, mask=third)

    def before_flow(self, at: str, y: Any) -> Any:
        """z of y = z - μ(z), cell by cell from the last, by substitution until nothing changes."""
        for cell, reverse in ((f"{at}.cell2", True), (f"{at}.cell1", False)):
            z = y
            for _ in range(y[0].size):
                before, z = z, y + self.shift(cell, z, reverse)
                if np.array_equal(before, z):
                    break
            y = z
        return y


def visible(num_inputs: int, num_outputs: int, size: int, strict: int) -> Any:
    """A mask written tap by tap: rows above, pixels to the left, channel blocks before."""
    mask = np.zeros((num_outputs, num_inputs, size, size))
    blocks = min(num_inputs, num_outputs)
    for out, into, row, column in np.ndindex(*mask.shape):
        above = row < size // 2 or (row == size // 2 and column < size // 2)
        centre = row == column == size // 2
        own, other = out // (num_outputs // blocks), into // (num_inputs // blocks)
        mask[out, into, row, column] = above or (centre and other + strict <= own)
    return mask


def normal(raw: Any) -> tuple[Any, Any]:
    """(mean, standard deviation) of raw outputs (n, 2·latents, h, w), clamped."""
    m, log = (5 * np.tanh(part / 5) for part in np.split(raw, 2, 1))
    return m, np.exp(log) + 0.01


def log_density(z: Any, mean: Any, std: Any) -> Any:
    log = -0.5 * ((z - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    return log.sum((1, 2, 3))


def divergence(q: tuple[Any, Any], p: tuple[Any, Any]) -> Any:
    ratio = (q[1] / p[1]) ** 2
    return (0.5 * (ratio + ((q[0] - p[0]) / p[1]) ** 2 - 1 - np.log(ratio))).sum((1, 2, 3))


def terms(
    state_dict: Mapping[str, Any], config: Mapping[str, Any], x: Any, draws: list[Any]
) -> tuple[Any, list[Any]]:
    """(likelihood parameters, divergence of each group) at `draws`, top group first.

    Args:
        x: (n, c, h, w) in [0, 1]; MNIST's 28 × 28 are padded here.
    """
    weights = Weights(state_dict)
    margin = 2 if config["dataset"] == "mnist" else 0
    h = 2 * np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin))) - 1
    h = weights.conv("stem", h)
    for i in range(config["num_preprocess_blocks"] * config["num_preprocess_cells"]):
        h = weights.encoder_cell(f"pre_process.{i}", h)
    combiners = []
    for i in range(1000):
        if weights.has(f"enc_tower.{i}.conv."):
            combiners.append((f"enc_tower.{i}.conv", h))
        elif weights.has(f"enc_tower.{i}."):
            h = weights.encoder_cell(f"enc_tower.{i}", h)
    combiners.reverse()
    h = elu(weights.conv("enc0.1", elu(h)))
    raw_q = weights.conv("enc_sampler.0", h)
    raw_p = np.zeros_like(raw_q)
    state = np.broadcast_to(
        weights.arrays["prior_ftr0"], (len(x), *weights.arrays["prior_ftr0"].shape)
    )
    kl: list[Any] = []
    for i in range(1000):
        if weights.has(f"dec_tower.{i}.conv."):
            group = len(kl)
            if group:
                raw_p = weights.conv(f"dec_sampler.{group - 1}.1", elu(state))
                name, seen = combiners[group - 1]
                raw_q = weights.conv(f"enc_sampler.{group}", seen + weights.conv(name, state))
                raw_q = raw_q + raw_p * config["res_dist"]
            q, p, z = normal(raw_q), normal(raw_p), draws[group]
            if config["num_nf"]:
                start = weights.before_flow(f"nf_cells.{group}", z)
                kl.append(log_density(start, *q) - log_density(z, *p))
            else:
                kl.append(divergence(q, p))
            state = weights.conv(f"dec_tower.{i}.conv", np.concatenate([state, z], 1))
        elif weights.has(f"dec_tower.{i}."):
            state = weights.decoder_cell(f"dec_tower.{i}", state)
    for i in range(config["num_postprocess_blocks"] * config["num_postprocess_cells"]):
        state = weights.decoder_cell(f"post_process.{i}", state)
    out = weights.conv("image_conditional.1", elu(state))
    return out[:, :, margin : out.shape[2] - margin, margin : out.shape[3] - margin], kl


def log_likelihood(config: Mapping[str, Any], parameters: Any, x: Any) -> Any:
    """(n,) of images under the parameters: Bernoulli, or the authors' mixture of logistics."""
    if config["dataset"] == "mnist":
        return (x * parameters - np.logaddexp(0, parameters)).sum((1, 2, 3))
    m = config["num_mixture_dec"]
    logits, colours = parameters[:, :m], parameters[:, m:].reshape(len(x), 3, 3, m, *x.shape[2:])
    log_share = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
    red, green, blue = (2 * x[:, c, None] - 1 for c in range(3))
    of_red, of_green, of_blue = (np.tanh(colours[:, c, 2]) for c in range(3))
    leans = (0, of_red * red, of_green * red + of_blue * green)
    total = log_share
    for c, (level, lean) in enumerate(zip((red, green, blue), leans, strict=True)):
        scale = np.exp(np.maximum(colours[:, c, 1], -7))
        off = level - colours[:, c, 0] - lean
        upper, lower = sigmoid((off + 1 / 255) / scale), sigmoid((off - 1 / 255) / scale)
        middle = off / scale
        density = middle - np.log(scale) - 2 * np.logaddexp(0, middle) - np.log(127.5)
        mass = np.where(upper - lower > 1e-5, np.log(np.maximum(upper - lower, 1e-12)), density)
        below, above = np.log(upper), np.log(sigmoid((1 / 255 - off) / scale))
        total = total + np.where(level < -0.999, below, np.where(level > 0.99, above, mass))
    return np.logaddexp.reduce(total, 1).sum((1, 2))
