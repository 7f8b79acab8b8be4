"""Pyro's tutorial VAE: programs around two nets, stock `SVI` with `Trace_ELBO`, a `DataLoader`.

Written by hand to the structure of the public tutorial (a model and a guide method, nets registered
by `pyro.module`, Bernoulli means, one epoch a loop over a loader), with the zoo's nets in it.
"""

from __future__ import annotations

__all__ = ["Net", "Ours", "bouts", "filled"]

from itertools import pairwise
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers_problem import (
    BATCH,
    LATENT,
    RATE,
    SHAPE,
    Bout,
    apart,
    binary_images,
    layers,
    widths,
)
from guides.pyro import MeanFieldGuide
from models.pyro import VAE
from ppl_vae.data import Images
from ppl_vae.pyro import Objective, state
from ppl_vae.pyro.trainer import PyroTrainer
from ppl_vae.settings import ObjectiveSettings, TrainingSettings


class Net(nn.Module):
    """Linear layers, tanh between them."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, h: Tensor) -> Tensor:
        *inner, last = self.linears
        for layer in inner:
            h = torch.tanh(layer(h))
        return last(h)


class Ours:
    """The zoo's trainer on the binary images, and what the peers take from it."""

    def __init__(self, hidden: tuple[int, ...], latent: int, steps: int, k: int = 1) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.hidden, self.latent, self.steps = hidden, latent, steps
        self.model = VAE(SHAPE, latent, hidden)
        self.guide = MeanFieldGuide(self.model)
        self.weights = state(self.model, self.guide)
        self.images = binary_images(steps, BATCH)
        settings = TrainingSettings(batch_size=BATCH, learning_rate=RATE, device="cpu", threads=1)
        objective, data = (
            ObjectiveSettings(num_samples=k),
            Images(self.images, binarization="static"),
        )
        self.trainer = PyroTrainer(self.model, self.guide, data, None, objective, settings)
        self.x = torch.as_tensor(self.images, dtype=torch.float32)

    def epoch(self, turn: int) -> None:
        """Shuffled batches, the loss's terms of every step kept: what `fit` does."""
        ones = np.ones(self.steps)
        with pyro.validation_enabled(False):  # as `fit` has it
            self.trainer.run_epoch(turn, ones, RATE * ones, lambda _: None)

    def ready_batches(self, turn: int) -> None:
        """The same steps on batches that are tensors already, in order."""
        with pyro.validation_enabled(False):
            for x in self.x.split(BATCH):
                self.trainer.step(x, 1.0, RATE)

    def terms(self, x: Tensor, **asked: Any) -> Any:
        """Terms of each image before any training."""
        torch.manual_seed(0)
        with torch.no_grad():
            return Objective().terms(self.model, self.guide, x, **asked)


def filled(net: nn.Module, arrays: list[np.ndarray]) -> nn.Module:
    """The net with weights and biases given, in order."""
    with torch.no_grad():
        for parameter, array in zip(net.parameters(), arrays, strict=True):
            parameter.copy_(torch.as_tensor(array))
    return net


class Tutorial(nn.Module):
    """Two nets, and the programs around them."""

    def __init__(self, ours: Ours) -> None:
        super().__init__()
        up, down = widths(ours.hidden, ours.latent)
        self.latent = ours.latent
        self.encoder = filled(Net(up), layers(ours.weights, "guide"))
        self.decoder = filled(Net(down), layers(ours.weights, "model"))

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(len(x), self.latent), x.new_ones(len(x), self.latent))
            z = pyro.sample("latent", prior.to_event(1))
            means = torch.sigmoid(self.decoder(z))
            # Means are rounded to 0 and 1 in float32, where the data need not be.
            likelihood = dist.Bernoulli(means, validate_args=False).to_event(1)
            pyro.sample("obs", likelihood, obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(x.flatten(1)).chunk(2, -1)
            scale = (F.softplus(raw) + 1e-6).sqrt()
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


def bouts(steps: int, quick: bool) -> list[Bout]:
    """The tutorial's VAE of one hidden layer against the zoo's."""
    ours = Ours((20,) if quick else (400,), 5 if quick else LATENT, steps)
    pyro.clear_param_store()
    tutorial, x = Tutorial(ours), ours.x[:BATCH]
    svi = SVI(tutorial.model, tutorial.guide, Adam({"lr": RATE}), loss=Trace_ELBO())
    torch.manual_seed(0)
    loss = svi.evaluate_loss(x) / len(x)
    expected = -ours.terms(x, analytic=False).log_weight().mean()
    losses = [apart("ELBO, log q - log p of the draw", loss, expected)]
    loader = DataLoader(TensorDataset(ours.x), batch_size=BATCH, shuffle=True)

    def epoch(turn: int) -> float:
        with pyro.validation_enabled(True):  # Pyro's default
            return sum(svi.step(batch) for (batch,) in loader) / len(ours.x)

    def ready_batches(turn: int) -> float:
        with pyro.validation_enabled(False):
            return sum(svi.step(batch) for batch in ours.x.split(BATCH)) / len(ours.x)

    turns = {
        "an epoch as it comes": (epoch, ours.epoch),
        "ready batches, no validation": (ready_batches, ours.ready_batches),
    }
    return [Bout("Pyro's tutorial VAE", BATCH, turns, losses)]
