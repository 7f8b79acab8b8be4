"""The project's Pyro training step against torch by hand: operations, losses, times."""

from __future__ import annotations

__all__ = ["measure"]

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.by_hand_torch import ByHand
from benchmarks.problem import (
    BATCH,
    HIDDEN,
    LATENTS,
    LEARNING_RATE,
    X_SHAPE,
    Plan,
    columns,
    difference,
    grey_images,
    schedules,
)
from benchmarks.timing import interleaved
from guides.pyro import LadderGuide
from models.pyro import HierarchicalVAE
from ppl_vae.data import Images
from ppl_vae.pyro import state
from ppl_vae.pyro.training import PyroTrainer, _surroundings
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

SETTINGS = TrainingSettings(batch_size=BATCH, learning_rate=LEARNING_RATE, device="cpu", threads=1)
Turn = Callable[[int], np.ndarray]


def measure(plan: Plan) -> dict[str, Any]:
    """Operations a step, difference of the losses, seconds a step {threads: {who: (repeats,)}}."""
    with _surroundings(SETTINGS):  # as `fit` runs its epochs
        images = grey_images(plan.steps * BATCH)
        flops = _flops(images)
        turns = _turns(images, plan.steps)
        apart = difference(turns["ppl-vae"](0), turns["by hand"](0))
        seconds = {}
        for count in plan.threads:
            torch.set_num_threads(count)
            times = interleaved(turns, plan.repeats)
            seconds[count] = {who: values / plan.steps for who, values in times.items()}
    return {"flops": flops, "losses_apart": apart, "seconds": seconds}


def _pair() -> tuple[HierarchicalVAE, LadderGuide]:
    torch.manual_seed(0)
    model = HierarchicalVAE(X_SHAPE, LATENTS, HIDDEN)
    return model, LadderGuide(model)


def _sides(images: np.ndarray) -> tuple[PyroTrainer, ByHand]:
    """The project's trainer and the hand-written one, from the same weights."""
    model, guide = _pair()
    by_hand = ByHand(images, state(model, guide))
    data = Images(images, binarization="dynamic")
    return PyroTrainer(model, guide, data, None, ObjectiveSettings(), SETTINGS), by_hand


def _flops(images: np.ndarray) -> dict[str, int]:
    """Floating-point operations of one step, forward and backward, as torch counts them."""
    ours, by_hand = _sides(images)
    x = torch.bernoulli(by_hand.images[:BATCH].float() / 255)
    found = {}
    for who, step in (("ppl-vae", ours.step), ("by hand", by_hand.step)):
        with FlopCounterMode(display=False) as counter:
            step(x, 0.5, LEARNING_RATE)
        found[who] = int(counter.get_total_flops())
    return found


def _turns(images: np.ndarray, steps: int) -> dict[str, Turn]:
    """Each contestant's epoch, on the turn's own random stream, the same for all."""
    ours, by_hand = _sides(images)
    stock = Stock(images)

    def run_ours(turn: int) -> np.ndarray:
        torch.manual_seed(turn)
        return columns(ours.run_epoch(turn, *schedules(turn, steps), _silent))

    def run_by_hand(turn: int) -> np.ndarray:
        torch.manual_seed(turn)
        return by_hand.run_epoch(*schedules(turn, steps))

    def run_stock(turn: int) -> np.ndarray:
        torch.manual_seed(turn)
        return stock.run_epoch(steps)

    return {"ppl-vae": run_ours, "by hand": run_by_hand, "stock": run_stock}


class Stock:
    """Pyro's own objective as a torch module under fused Adam: no warm-up, no terms by site."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.as_tensor(images)
        model, guide = _pair()
        self.elbo = TraceMeanField_ELBO()(model, guide)
        self.parameters = [*model.parameters(), *guide.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, fused=True)

    def run_epoch(self, steps: int) -> np.ndarray:
        """(steps, 2): loss, gradient norm."""
        order = torch.randperm(len(self.images))
        rows = []
        for i in range(steps):
            x = torch.bernoulli(self.images[order[i * BATCH : (i + 1) * BATCH]].float() / 255)
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
