"""Ways to take the ladder's, NVAE's and Very Deep VAE's training steps in torch, ready to run."""

from __future__ import annotations

__all__ = ["begin", "check"]

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from benchmarks.against_torch import _pair
from benchmarks.by_hand_torch import ByHand, Recorded
from benchmarks.counting import counting
from benchmarks.problem import LEARNING_RATE, Problem, columns, schedules
from ppl_vae.data import Images
from ppl_vae.errors import UsageError
from ppl_vae.pyro import state
from ppl_vae.pyro.compiling import compiled
from ppl_vae.pyro.trainer import PyroTrainer
from ppl_vae.pyro.training import _surroundings
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

Turn = Callable[[int], np.ndarray]


def check(device: str) -> None:
    """Before anything is measured; UsageError where there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU here: leave it out, or take cpu")


def begin(
    problem: Problem, images: np.ndarray, options: argparse.Namespace, stack: ExitStack
) -> dict[str, Any]:
    """Every way after its first turn, on the turn's own random stream, the same for all.

    Returns:
        {turns, first and second (those turns' columns), memory (bytes at its peak, CUDA's alone),
        seconds (that it took), by way; operations (matrix products of a step), rate (such
        operations a second in one large product)}.
    """
    stack.enter_context(_surroundings(TrainingSettings(device=options.device, threads=1)))
    found: dict[str, Any] = {"turns": {}, "first": {}, "second": {}, "memory": {}, "seconds": {}}
    on_gpu = options.device == "cuda"
    for way, make in _ways(problem, images, options, stack).items():
        begun, stands = time.perf_counter(), 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            stands = torch.cuda.memory_allocated()
        turn = _seeded(make())
        found["turns"][way], found["first"][way] = turn, turn(0)
        found["seconds"][way] = time.perf_counter() - begun
        found["second"][way] = turn(1)
        if on_gpu:
            found["memory"][way] = torch.cuda.max_memory_allocated() - stands
    size = 8192 if on_gpu and not options.quick else 512
    return {**found, "operations": _operations(problem, images), "rate": _rate(size, options)}


def _ways(
    problem: Problem, images: np.ndarray, options: argparse.Namespace, stack: ExitStack
) -> dict[str, Callable[[], Turn]]:
    def ours(compiles: bool, records: bool) -> Turn:
        model, guide = _pair(problem)
        stack.enter_context(compiled(model, guide, wanted=compiles))
        settings = TrainingSettings(
            batch_size=problem.batch, learning_rate=LEARNING_RATE, device=options.device,
            cuda_graph=records, compile=compiles,
        )  # fmt: skip
        data = Images(images, binarization="dynamic")
        trainer = PyroTrainer(model, guide, data, None, ObjectiveSettings(), settings)
        return lambda turn: columns(
            trainer.run_epoch(turn, *schedules(turn, options.steps), lambda _: None)
        )

    def by_hand(kind: Any, *args: Any) -> Turn:
        side = kind(problem, images, state(*_pair(problem)), *args)
        return lambda turn: side.run_epoch(turn, *schedules(turn, options.steps))

    ways: dict[str, Callable[[], Turn]] = {"as written": lambda: ours(False, False)}
    ways |= {"compiled": lambda: ours(True, False)} if options.compile else {}
    if options.device != "cuda":
        return {**ways, "by hand": lambda: by_hand(ByHand)}
    ways["recorded"] = lambda: ours(False, True)
    ways |= {"compiled, recorded": lambda: ours(True, True)} if options.compile else {}
    ways["by hand, not recorded"] = lambda: by_hand(ByHand, "cuda")
    return {**ways, "by hand": lambda: by_hand(Recorded)}


def _seeded(turn: Turn) -> Turn:
    def run(number: int) -> np.ndarray:
        torch.manual_seed(number)
        return turn(number)

    return run


def _operations(problem: Problem, images: np.ndarray) -> int:
    side = ByHand(problem, images, state(*_pair(problem)))
    x = torch.bernoulli(side.images[: problem.batch].float() / 255)
    with counting() as counter:
        side.step(x, 0.5, LEARNING_RATE)
    return int(counter.get_total_flops())


def _rate(size: int, options: argparse.Namespace) -> float:
    """Operations a second of square products, the best of seven.

    Of float32, by the tensor cores (TF32) where there are any: the convolutions run so, and JAX.
    """
    a, seconds = torch.randn(size, size, device=options.device), []
    precision = torch.get_float32_matmul_precision()
    if options.device == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        for _ in range(7):
            begun = time.perf_counter()
            float((a @ a)[0, 0])
            seconds.append(time.perf_counter() - begun)
    finally:
        torch.set_float32_matmul_precision(precision)
    return 2 * size**3 / min(seconds)
