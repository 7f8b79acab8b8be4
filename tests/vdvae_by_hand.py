"""Very Deep VAE written out once more, over the authors' names and in torch's functions alone.

It shares nothing with the zoo but the facts: for weights of any of the authors' configurations, an
image and the latents drawn for it, the divergence of each group and the decoder's output.
"""

from __future__ import annotations

__all__ = ["divergences", "shapes"]

import math
import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Config = dict[str, Any]


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """{name: shape} of a configuration's `state_dict`."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, num_inputs: int, num_outputs: int, size: int = 1) -> None:
        found[f"{name}.weight"] = (num_outputs, num_inputs, size, size)
        found[f"{name}.bias"] = (num_outputs,)

    def block(name: str, side: int, num_inputs: int, num_outputs: int) -> None:
        inner, size = int(width(config, side) * config["bottleneck_multiple"]), 3 if side > 2 else 1
        conv(f"{name}.c1", num_inputs, inner)
        conv(f"{name}.c2", inner, inner, size)
        conv(f"{name}.c3", inner, inner, size)
        conv(f"{name}.c4", inner, num_outputs)

    zdim, top = config["zdim"], config["width"]
    conv("encoder.in_conv", config["image_channels"], top, 3)
    for i, (side, _) in enumerate(blocks(config["enc_blocks"])):
        block(f"encoder.enc_blocks.{i}", side, width(config, side), width(config, side))
    found["decoder.gain"] = found["decoder.bias"] = (1, top, 1, 1)
    sides = []
    for i, (side, _) in enumerate(blocks(config["dec_blocks"])):
        name, channels = f"decoder.dec_blocks.{i}", width(config, side)
        block(f"{name}.enc", side, 2 * channels, 2 * zdim)
        block(f"{name}.prior", side, channels, 2 * zdim + channels)
        conv(f"{name}.z_proj", zdim, channels)
        block(f"{name}.resnet", side, channels, channels)
        sides.append(side)
    for j, side in enumerate(sorted({s for s in sides if s <= config["no_bias_above"]})):
        found[f"decoder.bias_xs.{j}"] = (1, width(config, side), side, side)
    conv("decoder.out_net.out_conv", top, 10 * config["num_mixtures"])
    return found


def divergences(
    weights: dict[str, Tensor], config: Config, inputs: Tensor, latents: list[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """(divergence of each group, (n,) from the top down; the decoder's output (n, 10 M, h, w)).

    Args:
        inputs: what the encoder's first convolution sees, (n, channels, side, side).
        latents: of each group, from the top down, (n, zdim, side, side).
    """
    maps = _encoded(weights, config, inputs)
    zdim, n = config["zdim"], len(inputs)
    sides = sorted({side for side, _ in blocks(config["dec_blocks"])})
    state: dict[int, Tensor] = {}
    for side in sides:
        channels = width(config, side)
        state[side] = torch.zeros(n, channels, side, side, dtype=inputs.dtype)
        if side <= config["no_bias_above"]:
            biased = [s for s in sides if s <= config["no_bias_above"]]
            state[side] = state[side] + weights[f"decoder.bias_xs.{biased.index(side)}"]
    found = []
    for i, (side, mark) in enumerate(blocks(config["dec_blocks"])):
        name, y = f"decoder.dec_blocks.{i}", state[side]
        if mark:
            factor = side // mark
            above = state[mark][:, : y.shape[1]]
            y = y + above.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        prior = _block(weights, f"{name}.prior", y)
        posterior = _block(weights, f"{name}.enc", torch.cat([y, maps[side]], 1))
        mu_p, log_p, increment = prior[:, :zdim], prior[:, zdim : 2 * zdim], prior[:, 2 * zdim :]
        mu_q, log_q = posterior[:, :zdim], posterior[:, zdim:]
        ratio = torch.exp(2 * (log_q - log_p))
        kl = log_p - log_q - 0.5 + 0.5 * (ratio + (mu_q - mu_p) ** 2 * torch.exp(-2 * log_p))
        found.append(kl.sum((1, 2, 3)))
        y = y + increment + _conv(weights, f"{name}.z_proj", latents[i])
        state[side] = y + _block(weights, f"{name}.resnet", y)
    last = state[sides[-1]] * weights["decoder.gain"] + weights["decoder.bias"]
    return found, _conv(weights, "decoder.out_net.out_conv", last)


def _encoded(weights: dict[str, Tensor], config: Config, inputs: Tensor) -> dict[int, Tensor]:
    x = _conv(weights, "encoder.in_conv", inputs)
    maps = {x.shape[2]: x}
    for i, (_, mark) in enumerate(blocks(config["enc_blocks"])):
        x = x + _block(weights, f"encoder.enc_blocks.{i}", x)
        if mark:
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // mark, mark, w // mark, mark).mean((3, 5))
        wider = torch.zeros(len(x), width(config, x.shape[2]), *x.shape[2:], dtype=x.dtype)
        wider[:, : x.shape[1]] = x
        maps[x.shape[2]] = x = wider
    return maps


def _block(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    for part in ("c1", "c2", "c3", "c4"):
        x = _conv(weights, f"{name}.{part}", 0.5 * x * (1 + torch.erf(x / math.sqrt(2))))
    return x


def _conv(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = weights[f"{name}.weight"]
    return functional.conv2d(x, weight, weights[f"{name}.bias"], padding=weight.shape[2] // 2)


def blocks(text: str) -> list[tuple[int, int]]:
    """(resolution, number behind d or m, else 0) of each block."""
    found: list[tuple[int, int]] = []
    for side, kind, number in re.findall(r"(\d+)([xdm]?)(\d*)", text):
        if kind in ("d", "m"):
            found.append((int(side), int(number)))
        else:
            found += [(int(side), 0)] * int(number or 1)
    return found


def width(config: Config, side: int) -> int:
    """Channels at a resolution."""
    custom = dict(piece.split(":") for piece in config["custom_width_str"].split(",") if piece)
    return int(custom.get(str(side), config["width"]))
