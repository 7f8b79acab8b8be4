"""A trainer that shares each batch with those of other processes (`ppl_vae.pyro.ranks`).

Each process computes its images' part of the loss (`ppl_vae.pyro.sharing`); torch's
DistributedDataParallel sums the gradients while they come, so every process then takes the same
step. Free bits, balancing and codebooks see the whole batch's means, batch norm if asked to.
"""

from __future__ import annotations

__all__ = ["ShardedObjective", "ShardedTrainer"]

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ppl_vae import loop
from ppl_vae.errors import UsageError
from ppl_vae.pyro import ranks
from ppl_vae.pyro.asking import batch_norms, keeps_order
from ppl_vae.pyro.data import DeviceImages
from ppl_vae.pyro.guide import quiet
from ppl_vae.pyro.nets.synchronised import synchronised
from ppl_vae.pyro.objective import Means, Objective, Terms
from ppl_vae.pyro.sharded_optimizer import ShardedOptimizer
from ppl_vae.pyro.sharing import Share, current
from ppl_vae.pyro.streams import kept_streams
from ppl_vae.pyro.trainer import PyroTrainer
from ppl_vae.settings import ObjectiveSettings


class ShardedObjective(Objective):
    """The objective of a batch of which each process has a share."""

    def means(self, terms: Terms) -> Means:
        own = super().means(terms)
        extra = [] if isinstance(own.penalty, float) else [own.penalty]
        likelihood, *rest = _share().means([own.log_likelihood, *own.kl.values(), *extra])
        penalty = rest.pop() if extra else own.penalty
        return Means(likelihood, dict(zip(own.kl, rest, strict=True)), penalty)

    def batch_means(self, values: list[Tensor]) -> list[Tensor]:
        return _share().means(super().batch_means(values))


class ShardedTrainer(PyroTrainer):
    """One of several processes' trainers; see `ppl_vae.loop.Trainer`."""

    def __init__(self, model: Any, guide: Any, *args: Any) -> None:
        super().__init__(model, guide, *args)
        self.norms = batch_norms(model, guide) if self.settings.sync_batch_norm else []
        modules = [part for part in (model, guide) if isinstance(part, nn.Module)]
        self.together: Any = None
        if any(parameter.requires_grad for part in modules for parameter in part.parameters()):
            self.together = self._in_parallel(modules)

    def _begin(self) -> None:
        with Share(self.batch_size).own():  # what a parameter is drawn from is one process's stream
            super()._begin()
        for parameter in self.plain.values():  # modules' are made the same by torch
            dist.broadcast(parameter.data, 0)

    def _objective(self, settings: ObjectiveSettings) -> Objective:
        self._check()
        return ShardedObjective(settings, num_data=len(self.train))

    def _optimizer(self) -> torch.optim.Optimizer:
        whole = super()._optimizer()
        return ShardedOptimizer(whole) if self.settings.sharded_optimizer else whole

    @property
    def _slots(self) -> list[Tensor]:
        if isinstance(self.optimizer, ShardedOptimizer):
            return self.optimizer.slots
        return super()._slots

    def _check(self) -> None:
        """What processes cannot share."""
        processes, least = ranks.count(), self.batch_size // ranks.count()
        if least == 0:
            raise UsageError(
                f"training.batch_size: expected an image for each of {processes} processes at "
                f"least, came {self.batch_size}: raise it, or start fewer processes"
            )
        if least == 1 and not self.settings.sync_batch_norm and batch_norms(self.model, self.guide):
            raise UsageError(
                f"training.batch_size: batch norm needs 2 images in each of {processes} processes, "
                f"came {self.batch_size}: raise it, or set training.sync_batch_norm to true"
            )
        if keeps_order(self.guide):
            raise UsageError(
                f"{type(self.guide).__name__} keeps one posterior for each place in the batch, "
                "which processes cannot share: train in one process, or take an amortised guide"
            )
        for module in (self.model, self.guide):
            for part in module.modules() if isinstance(module, nn.Module) else ():
                if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
                    raise UsageError(
                        f"{type(part).__name__}: expected noise at sample sites alone where "
                        "processes share a batch: train in one process, or leave it out"
                    )

    def _in_parallel(self, modules: list[nn.Module]) -> nn.Module:
        """The pass as a module that sums gradients over processes.

        Its first pass decides in which order gradients are sent, and so how they round: it is
        gone through here, such that a run that is resumed has the order of one that is not.
        """
        few = slice(0, min(2 * ranks.count(), self.batch_size))
        parameters = [p for p in self.parameters.values() if p.requires_grad]

        def loss(run: Callable[..., Any]) -> Tensor:
            share = Share(few.stop)
            with share():
                value: Tensor = run(self.train.batch(share.of(few)), self.full_weight)[0]
            return value

        vectors = self.penalty.vectors if self.penalty else {}
        held = {name: vector.clone() for name, vector in vectors.items()}
        with quiet(self.model, self.guide), kept_streams(self.device):
            slopes = torch.autograd.grad(loss(super().passed), parameters, allow_unused=True)
            together = DistributedDataParallel(
                _Pass(modules, super().passed),
                find_unused_parameters=any(slope is None for slope in slopes),
            )
            together.broadcast_buffers = not self.settings.sync_batch_norm  # else they are the same
            loss(together).backward()
        for parameter in parameters:
            parameter.grad = None
        vectors.update(held)
        return together

    def _batch(self, data: DeviceImages, places: slice | Tensor) -> Tensor:
        """This process's images of a step."""
        total = places.stop - places.start if isinstance(places, slice) else len(places)
        return self._drawn(data, data.rows(Share(total).of(places)), total)

    def _own(self, total: int) -> slice:
        return Share(total).rows

    def _drawn(self, data: DeviceImages, stored: Tensor, total: int) -> Tensor:
        with Share(total).own().drawing():
            return data.prepared(stored)

    def passed(self, x: Tensor, kl_weight: float | Tensor) -> tuple[Tensor, Means]:
        with self._sharing(Share(self.batch_size), self.norms):
            result: tuple[Tensor, Means]
            if self.together is None:
                result = super().passed(x, kl_weight)
            else:
                result = self.together(x, kl_weight)
            return result

    @contextmanager
    def _sharing(self, share: Share, norms: list[Any]) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(share())
            stack.enter_context(share.own(each=self.objective.settings.num_samples))
            stack.enter_context(synchronised(norms))
            yield

    def _backward(self, loss: Tensor) -> None:
        super()._backward(loss)
        for parameter in self.plain.values():  # of plain functions, which no module has
            if parameter.grad is not None:
                ranks.all_sum(parameter.grad).div_(ranks.count())

    def run_epoch(
        self,
        epoch: int,
        kl_weight: np.ndarray,
        learning_rate: np.ndarray,
        tick: Callable[[int], Any],
        first: int = 0,
    ) -> loop.EpochLog:
        log = super().run_epoch(epoch, kl_weight, learning_rate, tick, first)
        if not self.settings.sync_batch_norm:  # each has had its own: the first's are kept
            for module in (self.model, self.guide):
                for buffer in module.buffers() if isinstance(module, nn.Module) else ():
                    dist.broadcast(buffer, 0)
        if isinstance(self.optimizer, ShardedOptimizer):
            self.optimizer.consolidate_state_dict()  # only the first knows whether it will save
            if self.device.type == "cuda":  # torch does not wait for what goes to the host
                torch.cuda.synchronize(self.device)
        return log

    @torch.no_grad()
    def validate(self) -> tuple[float, np.ndarray] | None:
        if self.valid is None:
            return None
        total = torch.zeros(1 + len(self.sites), dtype=torch.float64, device=self.device)
        with self.aside():
            for start in range(0, len(self.valid), self.batch_size):
                places = slice(start, min(start + self.batch_size, len(self.valid)))
                share = Share(places.stop - start)
                x = self._batch(self.valid, places)
                with share.own():
                    terms = self.objective.terms(self.model, self.guide, x)
                means = terms.means(len(self.train))
                row = [means.log_likelihood, *(means.kl[site] for site in self.sites)]
                total += share.size * torch.stack(row).double()
        mean = (ranks.all_sum(total) / len(self.valid)).cpu().numpy()
        return float(mean[0]), mean[1:]


class _Pass(nn.Module):
    """A pair's pass as a module that has the pair's parameters."""

    def __init__(self, modules: list[nn.Module], run: Callable[..., Any]) -> None:
        super().__init__()
        self.pair = nn.ModuleList(modules)
        self.run = run

    def forward(self, x: Tensor, kl_weight: float | Tensor) -> Any:
        return self.run(x, kl_weight)


def _share() -> Share:
    share = current()
    if share is None:
        raise RuntimeError("the objective is shared, but no batch is: enter a Share first")
    return share
