"""The project's NumPyro training step against JAX by hand: operations, memory, losses, times."""

from __future__ import annotations

__all__ = ["measure"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import random

import guides.numpyro
import models.numpyro
from benchmarks.by_hand_jax import ByHand
from benchmarks.counting_jax import operations
from benchmarks.problem import (
    LEARNING_RATE,
    Plan,
    Problem,
    columns,
    difference,
    grey_images,
    schedules,
)
from benchmarks.timing import interleaved
from ppl_vae.data import Images
from ppl_vae.numpyro import state
from ppl_vae.numpyro.trainer import NumPyroTrainer
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

# Machine code of poor quality, soon: the operations that XLA counts are the same.
HASTE: dict[str, Any] = {"xla_backend_optimization_level": 0}
Turn = Callable[[int], np.ndarray]


def measure(plan: Plan, problem: Problem) -> dict[str, Any]:
    """Operations and peak memory a step, difference of the losses, seconds a step.

    Seconds are {who: (repeats,)}.
    """
    with jax.default_device(jax.devices("cpu")[0]):
        images = grey_images(plan.steps * problem.batch, problem.x_shape)
        ours, by_hand = _sides(problem, images)
        steps, flops = _compiled(problem, ours, by_hand)
        memory = {who: _peak(step) for who, step in steps.items()}
        single = plan.quick
        turns = _steps(ours, by_hand, steps, plan) if single else _epochs(ours, by_hand, plan)
        apart = difference(turns["ppl-vae"](0), turns["by hand"](0))
        times = interleaved(turns, plan.repeats)
    seconds = {who: values / plan.steps for who, values in times.items()}
    return {"flops": flops, "memory": memory, "losses_apart": apart, "seconds": seconds}


def _sides(problem: Problem, images: np.ndarray) -> tuple[NumPyroTrainer, ByHand]:
    """The project's trainer and the hand-written one, from the same weights."""
    rngs = nnx.Rngs(0)
    model_of, guide_of = (
        getattr(models.numpyro, problem.model),
        getattr(guides.numpyro, problem.guide),
    )
    model = model_of(problem.x_shape, **problem.model_args, rngs=rngs)
    guide = guide_of(model, **problem.guide_args, rngs=rngs)
    by_hand = ByHand(problem, images, state(model, guide))
    settings = TrainingSettings(batch_size=problem.batch, learning_rate=LEARNING_RATE)
    data, cpu = Images(images, binarization="dynamic"), jax.devices("cpu")[0]
    return NumPyroTrainer(model, guide, data, None, ObjectiveSettings(), settings, cpu), by_hand


def _compiled(
    problem: Problem, ours: NumPyroTrainer, by_hand: ByHand
) -> tuple[dict[str, Any], dict[str, float]]:
    """One step of each, outside of an epoch's loop, and its operations."""
    x = jnp.zeros((problem.batch, *problem.x_shape))
    inputs = (x, random.key(0), jnp.float32(0.5), jnp.float32(LEARNING_RATE))
    sides = (("ppl-vae", ours), ("by hand", by_hand))
    traced = {who: jax.jit(side.step).trace(side.now, *inputs) for who, side in sides}
    steps = {who: each.lower().compile(compiler_options=HASTE) for who, each in traced.items()}
    return steps, {who: operations(step, traced[who].jaxpr) for who, step in steps.items()}


def _peak(step: Any) -> int:
    """Bytes that a compiled step takes above its arguments: results and what lies between."""
    found = step.memory_analysis()
    return int(found.temp_size_in_bytes + found.output_size_in_bytes)


def _epochs(ours: NumPyroTrainer, by_hand: ByHand, plan: Plan) -> dict[str, Turn]:
    """Each contestant's epoch, one scan, on the turn's own random stream, the same for both."""

    def run_ours(turn: int) -> np.ndarray:
        return columns(ours.run_epoch(turn, *schedules(turn, plan.steps), _silent))

    def run_by_hand(turn: int) -> np.ndarray:
        return by_hand.run_epoch(random.fold_in(ours.key, turn), *schedules(turn, plan.steps))

    return {"ppl-vae": run_ours, "by hand": run_by_hand}


def _steps(
    ours: NumPyroTrainer, by_hand: ByHand, steps: dict[str, Any], plan: Plan
) -> dict[str, Turn]:
    """The same by single steps, which spares the compilation of two epochs."""
    now: dict[str, Any] = {"ppl-vae": ours.now, "by hand": by_hand.now}
    x = ours.train.batch(slice(0, by_hand.batch), random.key(0))

    def turn_of(who: str) -> Turn:
        def run(turn: int) -> np.ndarray:
            rows = []
            for i, rates in enumerate(zip(*schedules(turn, plan.steps), strict=True)):
                key = random.key(turn * plan.steps + i)
                now[who], row = steps[who](now[who], x, key, *map(jnp.float32, rates))
                rows.append(row)
            table = np.asarray(jnp.stack(rows), dtype=np.float64)
            return np.delete(table, 3, axis=1) if who == "ppl-vae" else table  # without `skipped`

        return run

    return {who: turn_of(who) for who in now}


def _silent(_: int) -> None:
    """A progress bar that shows nothing."""
