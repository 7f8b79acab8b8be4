"""The problems that every side of the overhead benchmark solves, and how long it is measured.

| family | nets |
|---|---|
| ladder | the five layers of Sønderby et al. 2016 (Ladder VAE, section 3): two batch-normalised |
| | leaky-ReLU layers a level, Bernoulli images of 28 × 28, batches of 256 |
| nvae | those of the recipe nvae-mnist-small, batches of 128 |
| very-deep | those of the recipe vdvae-mnist, batches of 128 |
"""

from __future__ import annotations

__all__ = [
    "FAMILIES",
    "LEARNING_RATE",
    "TOYS",
    "Plan",
    "Problem",
    "columns",
    "difference",
    "grey_images",
    "schedules",
]

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ppl_vae.loop import EpochLog

LEARNING_RATE = 1e-3
GRAD_NORM = 2  # column
WARM_UP = 1000  # steps until the divergences count in full


@dataclass(frozen=True)
class Problem:
    """A model with its guide, by their names in the zoo, and the batches they learn from."""

    family: str
    model: str
    guide: str
    x_shape: tuple[int, int, int]
    batch: int
    model_args: dict[str, Any] = field(default_factory=dict)
    guide_args: dict[str, Any] = field(default_factory=dict)


LATENTS = (64, 32, 16, 8, 4)  # z1, nearest the data, first
HIDDEN = (512, 256, 128, 64, 32)
CELLS = {"blocks": 2, "block_cells": 1, "group_cells": 1}

FAMILIES = {
    "ladder": Problem(
        "ladder", "HierarchicalVAE", "LadderGuide", (1, 28, 28), 256,
        {"latents": LATENTS, "hidden": HIDDEN},
    ),
    "nvae": Problem(
        "nvae", "NVAE", "NVAEGuide", (1, 28, 28), 128,
        {"scales": 2, "groups": (2, 1), "latent_channels": 8, "channels": 4, **CELLS},
    ),
    "very-deep": Problem(
        "very-deep", "VeryDeepVAE", "VeryDeepGuide", (1, 28, 28), 128,
        {"decoder": "1x2,7m1,7x3,14m7,14x1,28m14", "width": 16, "widths": "14:32,7:32,1:32",
         "latent_channels": 8},
        {"encoder": "28d2,14x1,14d2,7x2,7d7,1x1"},
    ),
}  # fmt: skip
"""What is measured."""

TOYS = {
    "ladder": FAMILIES["ladder"],
    "nvae": Problem(
        "nvae", "NVAE", "NVAEGuide", (1, 7, 6), 8,
        {"scales": 2, "groups": (1, 1), "latent_channels": 2, "channels": 2, **CELLS, "blocks": 1},
    ),
    "very-deep": Problem(
        "very-deep", "VeryDeepVAE", "VeryDeepGuide", (1, 4, 3), 8,
        {"decoder": "1x1,4m1", "width": 24, "widths": "1:32", "latent_channels": 2,
         "bottleneck": 0.5},
        {"encoder": "4x1,4d4,1x1"},
    ),
}  # fmt: skip
"""The same at a size for tests."""


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Args:
        repeats: timed turns of every contestant.
        steps: optimiser steps a turn, which are one epoch.
        threads: torch's thread counts, each measured by itself.
        quick: for tests: XLA compiles in haste, and single steps instead of an epoch's scan.
    """

    repeats: int
    steps: int
    threads: tuple[int, ...]
    quick: bool = False


def grey_images(n: int, x_shape: tuple[int, int, int] = (1, 28, 28)) -> np.ndarray:
    """(n, *x_shape) uint8: blobs at random places on black. Nothing to download."""
    rng = np.random.default_rng(0)
    _, height, columns = x_shape
    y, x = np.mgrid[0:height, 0:columns] * (28 / max(height, columns))
    centre = rng.uniform(8, 20, (n, 2, 1, 1))
    width = rng.uniform(2, 5, (n, 2, 1, 1))
    square = ((y - centre[:, 0]) / width[:, 0]) ** 2 + ((x - centre[:, 1]) / width[:, 1]) ** 2
    return np.round(255 * np.exp(-square)).astype(np.uint8)[:, None]


def schedules(turn: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the divergences and learning rate at a turn's steps."""
    at = np.arange(turn * steps, (turn + 1) * steps)
    return np.clip((at + 1) / WARM_UP, 0.0, 1.0), np.full(steps, LEARNING_RATE)


def columns(log: EpochLog) -> np.ndarray:
    """(steps, 3 + sites): loss, log likelihood, gradient norm, divergences z1 … zL."""
    return np.column_stack([log.loss, log.log_likelihood, log.grad_norm, log.kl])


def difference(ours: np.ndarray, by_hand: np.ndarray) -> dict[str, float]:
    """Largest relative difference of two turns with the same weights, batches and noise.

    Args:
        ours, by_hand: `columns`.

    Returns:
        first_step: of loss, log likelihood and divergences, before any weight has moved.
        grad_norm: of the gradient norm then; a sum of squares over all weights in float32, whose
            round-off differs between processors.
        loss: of the loss over all steps; round-off grows, because Adam divides by small gradients.
    """
    apart = np.abs(ours - by_hand) / np.abs(by_hand)
    return {
        "first_step": float(np.delete(apart[0], GRAD_NORM).max()),
        "grad_norm": float(apart[0, GRAD_NORM]),
        "loss": float(apart[:, 0].max()),
    }
