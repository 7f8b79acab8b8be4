"""A pair, its optimiser and its data, trained step by step, or by steps that are recorded."""

from __future__ import annotations

__all__ = ["PyroTrainer"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from ppl_vae import loop
from ppl_vae.checks import check_images
from ppl_vae.data.reading import shuffled
from ppl_vae.errors import UsageError
from ppl_vae.memory import images_at_once
from ppl_vae.pyro.asking import keeps_order
from ppl_vae.pyro.captured import static_steps
from ppl_vae.pyro.checks import check_batch_size, check_num_samples
from ppl_vae.pyro.compiling import plain
from ppl_vae.pyro.data import DeviceImages
from ppl_vae.pyro.first_pass import first_pass
from ppl_vae.pyro.guide import quiet
from ppl_vae.pyro.objective import Means, Objective
from ppl_vae.pyro.optimizers import device_of, optimizer_of
from ppl_vae.pyro.regularizers import Penalty
from ppl_vae.pyro.streams import kept_streams
from ppl_vae.pyro.watching import posterior_range, prior_samples
from ppl_vae.pyro.weights import load_state, state
from ppl_vae.runs import Arrays
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

PROBE = 256  # images of the batch that the posterior's range is read from


class PyroTrainer:
    """A model, a guide, their optimiser and their data; see `ppl_vae.loop.Trainer`."""

    def __init__(
        self,
        model: Any,
        guide: Any,
        train: Any,
        valid: Any,
        objective: ObjectiveSettings,
        settings: TrainingSettings,
    ) -> None:
        self.model, self.guide, self.settings = model, guide, settings
        self.device = device_of(settings.device)
        dtype = torch.float64 if settings.precision == "float64" else torch.float32
        for module in (model, guide):
            if isinstance(module, nn.Module):
                module.to(self.device, dtype)
                module.train()
        self.train = DeviceImages(train, self.device, dtype, stream=True)
        self.valid = None if valid is None else DeviceImages(valid, self.device, dtype, True)
        if len(self.train) == 0:
            raise UsageError("train: expected at least one image, came none")
        check_images(self.train, model)
        self.batch_size = min(settings.batch_size, len(self.train))
        check_batch_size(model, guide, self.batch_size)
        check_num_samples(guide, objective.num_samples)
        self.steps_per_epoch = len(self.train) // self.batch_size
        self.objective = self._objective(objective)
        # An automatic guide keeps a posterior for each place in the batch: order must not change.
        self.shuffles = not keeps_order(guide)
        self.penalty: Penalty | None = None
        self._begin()
        if objective.penalised:
            self.penalty = Penalty(model, guide, objective, self.full_weight, settings.seed)
        self.static = static_steps(self)
        self.optimizer = self._optimizer()
        self.averaged = (
            {name: p.detach().clone() for name, p in self.parameters.items()}
            if settings.ema
            else None
        )

    def _objective(self, settings: ObjectiveSettings) -> Objective:
        return Objective(settings, num_data=len(self.train))

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = list(self.parameters.values())
        return optimizer_of(parameters, self.settings, capturable=self.static is not None)

    @property
    def _slots(self) -> list[Tensor]:
        """What the optimiser keeps here."""
        return [t for state in self.optimizer.state.values() for t in state.values()]

    def _batch(self, data: DeviceImages, places: slice | Tensor) -> Tensor:
        """The images of a step, as the likelihood wants them."""
        return data.batch(places)

    def _own(self, total: int) -> slice:
        """Which of a batch's images this process computes."""
        return slice(total)

    def _drawn(self, data: DeviceImages, stored: Tensor, total: int) -> Tensor:
        """Its images of a step as the likelihood wants them, of `total` in all processes."""
        return data.prepared(stored)

    def _begin(self) -> None:
        """What there is to train, after a first pass."""
        x = self._batch(self.train, slice(0, self.batch_size))
        with plain(self.settings.compile):
            seen = first_pass(self.model, self.guide, x, len(self.train))
        self.sites, self.plain, self.parameters = seen.sites, seen.plain, seen.parameters
        self.full_weight = self.objective.settings.full_weight(
            x[0].numel(), max(1, seen.num_latent)
        )
        self.objective.full_weight = self.full_weight

    def _places(self, epoch: int, first: int, count: int) -> np.ndarray:
        """Images (count, batch size) of an epoch's steps from the step `first` on."""
        size = self.batch_size
        order = np.arange(len(self.train))
        if self.shuffles:
            order = shuffled(len(self.train), self.settings.seed, epoch)
        return order[first * size : (first + count) * size].reshape(count, size)

    def _batches(self, places: np.ndarray) -> Iterator[Tensor]:
        """The images of each step, as the likelihood wants them."""
        size = self.batch_size
        if self.train.streamed:
            for stored in self.train.rows_ahead(places[:, self._own(size)]):
                yield self._drawn(self.train, stored, size)
        else:
            for some in torch.as_tensor(places, device=self.device):
                yield self._batch(self.train, some)

    def run_epoch(
        self,
        epoch: int,
        kl_weight: np.ndarray,
        learning_rate: np.ndarray,
        tick: Callable[[int], Any],
        first: int = 0,
    ) -> loop.EpochLog:
        places = self._places(epoch, first, len(kl_weight))
        if self.static is not None:
            rows = self.static.run(places, kl_weight, learning_rate, tick)
        else:
            found, batches = [], self._batches(places)
            for weight, rate, x in zip(kl_weight, learning_rate, batches, strict=True):
                found.append(self.step(x, float(weight), float(rate)))
                tick(1)
            rows = torch.stack(found)
        table = rows.cpu().double().numpy()  # the epoch's one wait for the device
        loss, log_likelihood, norm, skipped = table[:, :4].T
        return loop.EpochLog(loss, log_likelihood, table[:, 4:], norm, skipped)

    def release(self) -> None:
        """Give back the memory of a recorded step and of gradients, once training has ended."""
        if self.static is not None:
            self.static.forget()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, x: Tensor, kl_weight: float | Tensor, learning_rate: float | Tensor) -> Tensor:
        """One optimiser step; (loss, log likelihood, gradient norm, skipped, kl by site)."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss, means = self.passed(x, kl_weight)
        self._backward(loss)
        parameters = list(self.parameters.values())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if settings.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, settings.clip_norm, norm)
        if settings.clip_value:
            nn.utils.clip_grad_value_(parameters, settings.clip_value)
        skipped = self._apply(parameters, norm)
        kl = [means.kl[site] for site in self.sites]
        row = [loss, means.log_likelihood, norm, skipped, *kl]
        return torch.stack([value.detach().to(loss.dtype) for value in row])

    def passed(self, x: Tensor, kl_weight: float | Tensor) -> tuple[Tensor, Means]:
        """(loss with what is added to it, means) of a batch."""
        autocast = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            loss, means = self.objective.loss_and_means(
                self.model, self.guide, x, kl_weight=kl_weight
            )
        if self.penalty is not None:
            loss = loss + self.penalty(kl_weight)
        return loss, means

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _apply(self, parameters: list[Tensor], norm: Tensor) -> Tensor:
        """Optimiser and average, undone on the device where the gradient is out of bounds."""
        if self.settings.skip_norm is None:
            self.optimizer.step()
            self._average(parameters)
            return norm.new_zeros(())
        skip = ~(norm < self.settings.skip_norm)
        before = {id(t): t.detach().clone() for t in self._moving(parameters)}
        self.optimizer.step()
        self._average(parameters)
        with torch.no_grad():
            for now in self._moving(parameters):
                old = before.get(id(now))  # the optimiser makes its state, zeros, in its first step
                now.copy_(torch.where(skip, torch.zeros_like(now) if old is None else old, now))
        return skip

    def _moving(self, parameters: list[Tensor]) -> list[Tensor]:
        return [*self._slots, *parameters, *(self.averaged or {}).values()]

    def _average(self, parameters: list[Tensor]) -> None:
        if self.averaged is not None:
            with torch.no_grad():
                weight = 1 - self.settings.ema  # type: ignore[operator]
                torch._foreach_lerp_(list(self.averaged.values()), parameters, weight)

    @torch.no_grad()
    def validate(self) -> tuple[float, np.ndarray] | None:
        """(log likelihood, kl by site), means over all validation images, one fixed draw."""
        if self.valid is None:
            return None
        total: Any = 0.0
        with self.aside():
            for start in range(0, len(self.valid), self.batch_size):
                x = self.valid.batch(slice(start, start + self.batch_size))
                means = self.objective.terms(self.model, self.guide, x).means(len(self.train))
                row = [means.log_likelihood, *(means.kl[site] for site in self.sites)]
                total = total + len(x) * torch.stack(row).double()
        mean = (total / len(self.valid)).cpu().numpy()
        return float(mean[0]), mean[1:]

    def probe(self) -> Tensor:
        """Images that the posterior's range is read from, fewer for large models."""
        return self.train.batch(slice(0, images_at_once(self.model, PROBE)))

    def posterior_range(self) -> dict[str, np.ndarray] | None:
        return posterior_range(self)

    def prior_samples(self, num_samples: int) -> np.ndarray | None:
        return prior_samples(self, num_samples)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Evaluation mode and a random stream of its own: training goes on as before."""
        looking = quiet(self.model, self.guide), kept_streams(self.device)
        with looking[0], looking[1], plain(self.settings.compile):
            torch.manual_seed(self.settings.seed + 1)
            yield

    def learned(self) -> dict[str, Tensor]:
        """Constrained values of the parameters that plain functions asked for."""
        store = pyro.get_param_store()
        return {name: store[name].detach().clone() for name in self.plain}

    def weights(self) -> Arrays:
        extra = {f"params.{name}": _numpy(p) for name, p in self.plain.items()}
        return {**state(self.model, self.guide), **extra}

    def averaged_weights(self) -> Arrays | None:
        if self.averaged is None:
            return None
        return {**self.weights(), **{name: _numpy(p) for name, p in self.averaged.items()}}

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        arrays = {"random": torch.get_rng_state().numpy()}
        if self.device.type == "cuda":
            arrays["random.cuda"] = torch.cuda.get_rng_state(self.device).numpy()
        for i, slots in self.optimizer.state_dict()["state"].items():
            arrays |= {f"{i}.{slot}": _numpy(value) for slot, value in slots.items()}
        if self.penalty is not None:
            vectors = self.penalty.vectors
            arrays |= {f"spectral.{name}": _numpy(value) for name, value in vectors.items()}
        return arrays, {"threads": torch.get_num_threads(), "device": self.device.type}

    def restore(self, weights: Arrays, averaged: Arrays | None, state: Arrays, info: Any) -> None:
        plain = {name: weights.pop(f"params.{name}") for name in self.plain}
        load_state(self.model, self.guide, weights)
        with torch.no_grad():
            for name, value in plain.items():
                self.plain[name].copy_(torch.as_tensor(value))
            for name, tensor in (self.averaged or {}).items():
                tensor.copy_(torch.as_tensor((averaged or weights)[name]))
        for name, vector in self.penalty.vectors.items() if self.penalty else ():
            vector.copy_(torch.as_tensor(state[f"spectral.{name}"]))
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            index, _, slot = key.partition(".")
            if index.isdigit():
                slots.setdefault(int(index), {})[slot] = torch.as_tensor(value)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        if self.static is not None:
            self.static.forget()
        if self.device.type == "cpu" and not self.settings.threads:
            torch.set_num_threads(info["threads"])  # other thread counts give other bits
        torch.set_rng_state(torch.as_tensor(state["random"]))
        if self.device.type == "cuda" and "random.cuda" in state:
            torch.cuda.set_rng_state(torch.as_tensor(state["random.cuda"]), self.device)


def _numpy(value: Any) -> np.ndarray:
    return torch.as_tensor(value).detach().cpu().numpy().copy()
