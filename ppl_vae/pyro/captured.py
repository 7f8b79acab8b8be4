"""Steps that ask nothing of the host: recorded once as a CUDA graph, and then replayed.

All that an epoch's steps need is on the device before it begins, a row for each of them: where its
images are, the divergences' weight, the learning rate. A counter there says which row comes next,
and what a step found goes into a table there. So a step is the same operations on the same memory
each time, and one launch can stand for its thousands.

The first steps run operation by operation, and one is then recorded, which runs nothing. They are
training's own steps: nothing has to be undone, and a run that is resumed begins so again.
"""

from __future__ import annotations

__all__ = ["StaticSteps", "obstacle", "static_steps"]

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.pyro import ranks

WARM_UP = 3  # steps before one is recorded: libraries choose and build their kernels in them


class StaticSteps:
    """Epochs of a `PyroTrainer` without the host.

    Args:
        trainer: whose steps they are.
        capture: record one of them; False runs all of them operation by operation, on any device.
    """

    def __init__(self, trainer: Any, capture: bool = True) -> None:
        device, dtype, steps = trainer.device, trainer.train.dtype, trainer.steps_per_epoch
        self.trainer, self.capture = trainer, capture
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.places = torch.zeros(steps, trainer.batch_size, dtype=torch.long, device=device)
        self.weights = torch.zeros(steps, dtype=dtype, device=device)
        # Fused optimisers want float32 of a rate on CUDA; on the CPU they take the float's own.
        exact = torch.float64 if device.type == "cpu" else torch.float32
        self.rates = torch.zeros(steps, dtype=exact, device=device)
        self.rows = torch.zeros(steps, 4 + len(trainer.sites), dtype=dtype, device=device)
        self.forget()

    def forget(self) -> None:
        """Record anew: what a recorded step knows by address has gone."""
        self.graph: Any = None
        self.taken = 0

    def run(
        self,
        places: np.ndarray,
        kl_weight: np.ndarray,
        learning_rate: np.ndarray,
        tick: Callable[[int], Any],
    ) -> Tensor:
        """Rows of steps (steps, 4 + sites), see `PyroTrainer.step`, on the device.

        Args:
            places: images (steps, batch size) of each step, no more steps than an epoch has.
            kl_weight, learning_rate: (steps,).
            tick: called after each step has been given to the device.
        """
        count = len(places)
        self.places[:count].copy_(torch.as_tensor(places))
        self.weights[:count].copy_(torch.as_tensor(kl_weight))
        self.rates[:count].copy_(torch.as_tensor(learning_rate))
        self.at.zero_()
        for _ in range(count):
            self._next()
            tick(1)
        return self.rows[:count].clone()

    def step(self) -> None:
        """The step whose turn it is."""
        trainer = self.trainer
        # A tensor as an index in brackets would be brought to the host.
        x = trainer._batch(trainer.train, self.places.index_select(0, self.at)[0])
        weight, rate = (part.index_select(0, self.at)[0] for part in (self.weights, self.rates))
        row = trainer.step(x, weight, rate)
        self.rows.index_copy_(0, self.at, row[None].to(self.rows.dtype))
        self.at.add_(1)

    def _next(self) -> None:
        if self.capture and self.graph is None and self.taken == WARM_UP:
            self._record()
        if self.graph is not None:
            self.graph.replay()
        elif self.capture:
            self._aside()
            self.taken += 1
        else:
            self.step()

    def _aside(self) -> None:
        """A step on a stream of its own, as what is recorded later must have been run before."""
        with torch.cuda.device(self.trainer.device):
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                self.step()
            here.wait_stream(aside)

    def _record(self) -> None:
        """Record a step; where that fails, training goes on without, from where it stands."""
        device = self.trainer.device
        place = torch.cuda.current_device() if device.index is None else device.index
        random = torch.cuda.default_generators[place]
        kept, graph = random.clone_state(), torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        self.trainer.optimizer.zero_grad(set_to_none=True)  # the graph has gradients of its own
        try:
            # A stream of this device's own (torch keeps one for all), and the present one put back:
            # torch does not where the end of a recording fails.
            with (
                torch.cuda.device(device),
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(
                    graph,
                    pool=pool,
                    stream=torch.cuda.Stream(device),
                    capture_error_mode="thread_local",
                ),
            ):
                self.step()
        except RuntimeError as error:
            random.graphsafe_set_state(kept)  # which may think that it is being recorded
            _give_back(place, pool)
            self.trainer.optimizer.zero_grad(set_to_none=True)
            self.capture = False
            cause = error.__context__ or error  # the end of a recording that failed fails as well
            _tell(_first_line(cause))
        else:
            self.graph = graph


def _give_back(place: int, pool: Any) -> None:
    """A pool that a recording broke off in: torch goes on to allocate into it, and keeps it."""
    try:
        torch._C._cuda_endAllocateToPool(place, pool)
    except (AttributeError, RuntimeError):  # torch has done so
        return
    torch._C._cuda_releasePool(place, pool)


def static_steps(trainer: Any) -> StaticSteps | None:
    """Steps to record, if the settings want them and nothing is in the way; what is, is told."""
    wanted = trainer.settings.cuda_graph
    if wanted is False:
        return None
    reason = obstacle(trainer)
    if reason is None:
        return StaticSteps(trainer)
    if wanted or trainer.device.type == "cuda":
        _tell(reason)
    return None


def obstacle(trainer: Any) -> str | None:
    """Why a trainer's steps cannot be recorded; None where nothing is known that forbids it."""
    if trainer.device.type != "cuda":
        return f"the device is {trainer.device.type}, and graphs are CUDA's"
    if ranks.count() > 1:
        return f"{ranks.count()} processes share each batch, and wait for each other in it"
    if not trainer.shuffles:
        return "an automatic guide makes its parameters as it runs"
    if trainer.plain or not all(isinstance(p, nn.Module) for p in (trainer.model, trainer.guide)):
        return "a plain function makes its parameters as it runs"
    if trainer.train.streamed:
        return "images come from disk batch by batch"
    return None


def _tell(reason: str) -> None:
    warnings.warn(f"training.cuda_graph: steps are not recorded: {reason}", stacklevel=3)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
