"""The project's Pyro training step against torch by hand: operations, memory, losses, times."""

from __future__ import annotations

__all__ = ["measure"]

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.profiler import ProfilerActivity, profile

import guides.pyro
import models.pyro
from benchmarks.by_hand_torch import ByHand
from benchmarks.counting import counting
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
from ppl_vae.pyro import state
from ppl_vae.pyro.trainer import PyroTrainer
from ppl_vae.pyro.training import _surroundings
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

Turn = Callable[[int], np.ndarray]


def measure(plan: Plan, problem: Problem) -> dict[str, Any]:
    """Operations and peak memory a step, difference of the losses, seconds a step.

    Seconds are {threads: {who: (repeats,)}}.
    """
    settings = _settings(problem)
    with _surroundings(settings):  # as `fit` runs its epochs
        images = grey_images(plan.steps * problem.batch, problem.x_shape)
        flops, memory = _counted(problem, images)
        turns = _turns(problem, images, plan.steps)
        apart = difference(turns["ppl-vae"](0), turns["by hand"](0))
        seconds = {}
        for count in plan.threads:
            torch.set_num_threads(count)
            times = interleaved(turns, plan.repeats)
            seconds[count] = {who: values / plan.steps for who, values in times.items()}
    return {"flops": flops, "memory": memory, "losses_apart": apart, "seconds": seconds}


def _settings(problem: Problem) -> TrainingSettings:
    return TrainingSettings(
        batch_size=problem.batch, learning_rate=LEARNING_RATE, device="cpu", threads=1
    )


def _pair(problem: Problem) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = getattr(models.pyro, problem.model)(problem.x_shape, **problem.model_args)
    return model, getattr(guides.pyro, problem.guide)(model, **problem.guide_args)


def _sides(problem: Problem, images: np.ndarray) -> tuple[PyroTrainer, ByHand]:
    """The project's trainer and the hand-written one, from the same weights."""
    model, guide = _pair(problem)
    by_hand = ByHand(problem, images, state(model, guide))
    data, settings = Images(images, binarization="dynamic"), _settings(problem)
    return PyroTrainer(model, guide, data, None, ObjectiveSettings(), settings), by_hand


def _counted(problem: Problem, images: np.ndarray) -> tuple[dict[str, int], dict[str, int]]:
    """Floating-point operations of a step as torch counts them, and bytes at its peak.

    The bytes are above what stands before the step: weights, Adam's moments, the batch.
    """
    ours, by_hand = _sides(problem, images)
    x = torch.bernoulli(by_hand.images[: problem.batch].float() / 255)
    flops, memory = {}, {}
    for who, step in (("ppl-vae", ours.step), ("by hand", by_hand.step)):
        with counting() as counter:
            step(x, 0.5, LEARNING_RATE)
        flops[who] = int(counter.get_total_flops())
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step(x, 0.5, LEARNING_RATE)
        memory[who] = _peak(profiler)
    return flops, memory


def _peak(profiler: Any) -> int:
    """Bytes at the peak of what was allocated and freed while `profiler` looked on."""
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return int(np.cumsum([size for _, size in changes]).max())


def _turns(problem: Problem, images: np.ndarray, steps: int) -> dict[str, Turn]:
    """Each contestant's epoch, on the turn's own random stream, the same for all."""
    ours, by_hand = _sides(problem, images)

    def run_ours(turn: int) -> np.ndarray:
        torch.manual_seed(turn)
        return columns(ours.run_epoch(turn, *schedules(turn, steps), _silent))

    def run_by_hand(turn: int) -> np.ndarray:
        torch.manual_seed(turn)
        return by_hand.run_epoch(turn, *schedules(turn, steps))

    turns: dict[str, Turn] = {"ppl-vae": run_ours, "by hand": run_by_hand}
    if problem.family == "ladder":
        stock = Stock(problem, images)

        def run_stock(turn: int) -> np.ndarray:
            torch.manual_seed(turn)
            return stock.run_epoch(steps)

        turns["stock"] = run_stock
    return turns


class Stock:
    """Pyro's own objective as a torch module under fused Adam: no warm-up, no terms by site."""

    def __init__(self, problem: Problem, images: np.ndarray) -> None:
        self.images, self.batch = torch.as_tensor(images), problem.batch
        model, guide = _pair(problem)
        self.elbo = TraceMeanField_ELBO()(model, guide)
        self.parameters = [*model.parameters(), *guide.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=True)

    def run_epoch(self, steps: int) -> np.ndarray:
        """(steps, 2): loss, gradient norm."""
        order = torch.randperm(len(self.images))
        rows = []
        for i in range(steps):
            index = order[i * self.batch : (i + 1) * self.batch]
            x = torch.bernoulli(self.images[index].float() / 255)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.elbo(x) / len(x)
            loss.backward()
            grads = [p.grad for p in self.parameters if p.grad is not None]
            norm = nn.utils.get_total_norm(grads)
            self.optimizer.step()
            rows.append(torch.stack([loss.detach(), norm]))
        return torch.stack(rows).numpy()


def _silent(_: int) -> None:
    """A progress bar that shows nothing."""
