"""The one problem that every side of the overhead benchmark solves, and how long it is measured.

The five-layer ladder of Sønderby et al. 2016 (Ladder VAE, section 3): two batch-normalised
leaky-ReLU layers a level, Bernoulli images of 28 × 28, batches of 256.
"""

from __future__ import annotations

__all__ = [
    "BATCH",
    "HIDDEN",
    "LATENTS",
    "LEARNING_RATE",
    "X_SHAPE",
    "Plan",
    "columns",
    "difference",
    "grey_images",
    "schedules",
]

from dataclasses import dataclass

import numpy as np

from ppl_vae.loop import EpochLog

X_SHAPE = (1, 28, 28)
LATENTS = (64, 32, 16, 8, 4)  # z1, nearest the data, first
HIDDEN = (512, 256, 128, 64, 32)
BATCH = 256
LEARNING_RATE = 1e-3
WARM_UP = 1000  # steps until the divergences count in full


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


def grey_images(n: int) -> np.ndarray:
    """(n, 1, 28, 28) uint8: blobs at random places on black. Nothing to download."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:28, 0:28]
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
        first_step: of all columns, before any weight has moved.
        loss: of the loss over all steps; round-off grows, because Adam divides by small gradients.
    """
    apart = np.abs(ours - by_hand) / np.abs(by_hand)
    return {"first_step": float(apart[0].max()), "loss": float(apart[:, 0].max())}
