"""What the zoo and its peers solve alike: nets, images, batches, and what a comparison consists of.

Every side has the zoo's one-layer `VAE` with `MeanFieldGuide`: tanh layers both ways, the encoder's
last layer gives loc and, by a softplus, variance; Bernoulli pixels. All load the zoo's weights.
"""

from __future__ import annotations

__all__ = ["BATCH", "LATENT", "RATE", "SHAPE", "Bout", "apart", "binary_images", "layers", "widths"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.problem import grey_images

BATCH, LATENT, RATE = 128, 50, 1e-3
SHAPE = (1, 28, 28)
Turn = Callable[[int], object]


@dataclass(frozen=True)
class Bout:
    """One peer against the zoo.

    Args:
        name: the peer's.
        batch: images a step.
        turns: {what is timed: (the peer's turn, the zoo's)}.
        losses: {"what", "theirs", "ours", "apart"} each: nats per image, and relative difference.
    """

    name: str
    batch: int
    turns: Mapping[str, tuple[Turn, Turn]]
    losses: list[dict[str, Any]]


def binary_images(steps: int, batch: int) -> np.ndarray:
    """(steps · batch, 1, 28, 28) uint8, 0 or 1: nothing is drawn anew while time is taken."""
    return (grey_images(steps * batch, SHAPE) > 127).astype(np.uint8)


def widths(hidden: tuple[int, ...], latent: int) -> tuple[list[int], list[int]]:
    """Sizes of the encoder's layers and of the decoder's, from the input on.

    >>> widths((200, 100), 50)
    ([784, 200, 100, 100], [50, 100, 200, 784])
    """
    size = int(np.prod(SHAPE))
    return [size, *hidden, 2 * latent], [latent, *hidden[::-1], size]


def layers(weights: Mapping[str, np.ndarray], part: str) -> list[np.ndarray]:
    """Weight (out, in) and bias of each layer of "model" or "guide", from the input on."""

    def place(name: str) -> tuple[bool, str, bool]:
        layer, _, kind = name.rpartition(".")
        return ".heads." in name or ".out." in name, layer, kind == "bias"

    names = (name for name in weights if name.startswith(f"{part}."))
    return [weights[name] for name in sorted(names, key=place)]


def apart(what: str, theirs: Any, ours: Any) -> dict[str, Any]:
    """A row of losses; the largest relative difference where there are several."""
    theirs, ours = np.asarray(theirs, np.float64), np.asarray(ours, np.float64)
    worst = np.abs(theirs - ours).max() / np.abs(ours).max()
    return {
        "what": what, "theirs": float(theirs.mean()), "ours": float(ours.mean()),
        "apart": float(worst),
    }  # fmt: skip
