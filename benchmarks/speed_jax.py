"""The ladder's, NVAE's and Very Deep VAE's training epochs in NumPyro and in JAX, ready to run."""

from __future__ import annotations

__all__ = ["begin", "check"]

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import random

import guides.numpyro
import models.numpyro
from benchmarks.by_hand_jax import ByHand
from benchmarks.counting_jax import operations
from benchmarks.problem import LEARNING_RATE, Problem, columns, schedules
from ppl_vae.data import Images
from ppl_vae.errors import UsageError
from ppl_vae.numpyro import state
from ppl_vae.numpyro.trainer import NumPyroTrainer
from ppl_vae.settings import ObjectiveSettings, TrainingSettings


def check(device: str) -> None:
    """Before anything is measured.

    Raises:
        UsageError: JAX has no such device.
    """
    try:
        jax.devices("cpu" if device == "cpu" else "gpu")
    except RuntimeError as error:
        raise UsageError(
            f"--device {device}: JAX has none here: install jax[cuda13] for a GPU's, or give --ppl "
            "pyro"
        ) from error


def begin(
    problem: Problem, images: np.ndarray, options: argparse.Namespace, stack: ExitStack
) -> dict[str, Any]:
    """Both sides after their first turn; see `benchmarks.speed_torch.begin`.

    Operations are XLA's count and what loops do again, element-wise ones among them. Memory is
    NumPyro's alone, and only where it goes beyond what the process held before: JAX keeps one peak
    for all that it does.
    """
    device = jax.devices("cpu" if options.device == "cpu" else "gpu")[0]
    stack.enter_context(jax.default_device(device))
    rngs = nnx.Rngs(0)
    model_of = getattr(models.numpyro, problem.model)
    model = model_of(problem.x_shape, **problem.model_args, rngs=rngs)
    guide = getattr(guides.numpyro, problem.guide)(model, **problem.guide_args, rngs=rngs)
    weights, before = state(model, guide), _memory(device, "bytes_in_use")
    known = _memory(device, "peak_bytes_in_use")
    settings = TrainingSettings(batch_size=problem.batch, learning_rate=LEARNING_RATE)
    data = Images(images, binarization="dynamic")
    ours = NumPyroTrainer(model, guide, data, None, ObjectiveSettings(), settings, device)
    turns: dict[str, Callable[[int], np.ndarray]] = {}
    found: dict[str, Any] = {
        "turns": turns, "first": {}, "second": {}, "memory": {}, "seconds": {},
    }  # fmt: skip

    def add(way: str, turn: Callable[[int], np.ndarray]) -> None:
        begun = time.perf_counter()
        turns[way], found["first"][way] = turn, turn(0)
        found["seconds"][way] = time.perf_counter() - begun
        found["second"][way] = turn(1)

    add(
        "as written",
        lambda turn: columns(ours.run_epoch(turn, *schedules(turn, options.steps), lambda _: None)),
    )
    peak = _memory(device, "peak_bytes_in_use")
    found["memory"]["as written"] = peak - before if peak > known else None
    by_hand = ByHand(problem, images, weights)
    add(
        "by hand",
        lambda turn: by_hand.run_epoch(
            random.fold_in(ours.key, turn), *schedules(turn, options.steps)
        ),
    )
    size = 8192 if options.device == "cuda" and not options.quick else 512
    return {**found, "operations": _operations(problem, by_hand), "rate": _rate(size)}


def _memory(device: Any, what: str) -> int:
    """Bytes; 0 where JAX does not count them, as on the CPU."""
    return int((device.memory_stats() or {}).get(what, 0))


def _operations(problem: Problem, by_hand: ByHand) -> float:
    """Of the step as the CPU has it: XLA counts nothing that it has not lowered for it."""
    x, rate = jax.ShapeDtypeStruct((problem.batch, *problem.x_shape), "float32"), jax.numpy.float32
    now, key = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (by_hand.now, random.key(0))
    )
    with jax.default_device(jax.devices("cpu")[0]):
        step = jax.jit(by_hand.step).trace(now, x, key, rate(0.5), rate(LEARNING_RATE))
        return operations(step.lower(), step.jaxpr)


def _rate(size: int) -> float:
    """Operations a second of square products at JAX's own precision, the best of seven."""
    a, product, seconds = random.normal(random.key(0), (size, size)), jax.jit(lambda a: a @ a), []
    for _ in range(8):  # the first compiles
        begun = time.perf_counter()
        product(a).block_until_ready()
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / min(seconds)
