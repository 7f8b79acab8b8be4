"""Training by hand in plain torch, as one would write it without a PPL; and the Ladder VAE so.

The mathematics of `HierarchicalVAE` with `LadderGuide` and the analytic ELBO, in one pass.
"""

from __future__ import annotations

__all__ = ["ByHand", "Ladder", "Recorded"]

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.nvae_torch import NVAEByHand
from benchmarks.problem import LEARNING_RATE, Problem
from benchmarks.very_deep_torch import VeryDeepByHand
from ppl_vae.data.reading import shuffled


class Block(nn.Module):
    """Two layers of linear, batch norm, leaky ReLU."""

    def __init__(self, num_inputs: int, width: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(
            [nn.Linear(num_inputs, width, bias=False), nn.Linear(width, width, bias=False)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm1d(width), nn.BatchNorm1d(width)])

    def forward(self, h: Tensor) -> Tensor:
        for linear, norm in zip(self.linears, self.norms, strict=True):
            h = F.leaky_relu(norm(linear(h)))
        return h


class Ladder(nn.Module):
    """Inference and generative nets; lists run from z1, nearest the data, up."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        hidden, latents = problem.model_args["hidden"], problem.model_args["latents"]
        size = int(np.prod(problem.x_shape))
        inputs = (size, *hidden[:-1])
        self.up = nn.ModuleList(Block(a, b) for a, b in zip(inputs, hidden, strict=True))
        self.messages = nn.ModuleList(
            nn.Linear(a, 2 * b) for a, b in zip(hidden, latents, strict=True)
        )
        self.down = nn.ModuleList(Block(a, b) for a, b in zip(latents[1:], hidden[1:], strict=True))
        self.priors = nn.ModuleList(
            nn.Linear(a, 2 * b) for a, b in zip(hidden[1:], latents[:-1], strict=True)
        )
        self.decoder = Block(latents[0], hidden[0])
        self.out = nn.Linear(hidden[0], size)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Batch means of log p(x | z) and of each site's divergence, z1 first; nats."""
        h = x = x.flatten(1)
        messages = []
        for block, head in zip(self.up, self.messages, strict=True):
            h = block(h)
            messages.append(gaussian(head(h)))
        loc, variance = messages[-1]
        z = loc + variance.sqrt() * torch.randn_like(loc)
        kl = [0.5 * (variance + loc.square() - 1 - variance.log()).sum(-1).mean()]
        for level in reversed(range(len(self.down))):
            prior_loc, prior_variance = gaussian(self.priors[level](self.down[level](z)))
            data_loc, data_variance = messages[level]
            precision, prior_precision = 1 / data_variance, 1 / prior_variance
            variance = 1 / (precision + prior_precision)
            loc = variance * (data_loc * precision + prior_loc * prior_precision)
            z = loc + variance.sqrt() * torch.randn_like(loc)
            ratio = variance * prior_precision
            shift = (loc - prior_loc).square() * prior_precision
            kl.append(0.5 * (ratio + shift - 1 - ratio.log()).sum(-1).mean())
        logits = self.out(self.decoder(z))
        nll = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        return -nll, kl[::-1]

    def renamed(self, name: str) -> str:
        """A weight's name here, from that in `ppl_vae.pyro.state`."""
        parts = {"model.decoder.mlp": "decoder", "model.decoder.out": "out"}
        for level in range(len(self.up)):
            parts[f"guide.tower.nets.{level}"] = f"up.{level}"
            parts[f"guide.heads.{level}.linear"] = f"messages.{level}"
            parts[f"model.groups.{level}.mlp"] = f"down.{level}"
            parts[f"model.groups.{level}.head.linear"] = f"priors.{level}"
        zoo = next(part for part in parts if name.startswith(f"{part}."))
        return name.replace(zoo, parts[zoo])


def gaussian(h: Tensor) -> tuple[Tensor, Tensor]:
    loc, raw = h.chunk(2, -1)
    return loc, F.softplus(raw) + 1e-6


NETS: dict[str, Callable[[Problem], nn.Module]] = {
    "ladder": Ladder,
    "nvae": NVAEByHand,
    "very-deep": VeryDeepByHand,
}


def load(net: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Weights as `ppl_vae.pyro.state` names them, every one of the net's own."""
    renamed: Any = getattr(net, "renamed", lambda name: name.partition(".")[2])
    given = {renamed(name): torch.as_tensor(array) for name, array in arrays.items()}
    net.load_state_dict(given, strict=False)
    counters = {name for name in net.state_dict() if name.endswith("num_batches_tracked")}
    if set(net.state_dict()) - counters != set(given) - counters:
        raise KeyError(sorted((set(net.state_dict()) ^ set(given)) - counters))


class ByHand:
    """Its training: Adam, fused, on batches gathered and binarised from grey images."""

    def __init__(
        self,
        problem: Problem,
        images: np.ndarray,
        arrays: dict[str, np.ndarray],
        device: str = "cpu",
        capturable: bool = False,
    ) -> None:
        self.images, self.batch = torch.as_tensor(images, device=device), problem.batch
        self.net = NETS[problem.family](problem)
        load(self.net, arrays)
        self.parameters = list(self.net.to(device).parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=LEARNING_RATE, fused=True, capturable=capturable
        )

    def run_epoch(self, epoch: int, kl_weight: np.ndarray, learning_rate: np.ndarray) -> np.ndarray:
        """Rows of every step: loss, log likelihood, gradient norm, divergences z1 … zL."""
        order = torch.as_tensor(shuffled(len(self.images), 0, epoch), device=self.images.device)
        rows = []
        for i, (weight, rate) in enumerate(zip(kl_weight, learning_rate, strict=True)):
            grey = self.images[order[i * self.batch : (i + 1) * self.batch]].float() / 255
            rows.append(self.step(torch.bernoulli(grey), float(weight), float(rate)))
        return torch.stack(rows).cpu().double().numpy()

    def step(self, x: Tensor, kl_weight: Any, learning_rate: Any) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        log_likelihood, kl = self.net(x)
        loss = kl_weight * sum(kl) - log_likelihood
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self.optimizer.step()
        return torch.stack([loss, log_likelihood, norm, *kl]).detach()


class Recorded(ByHand):
    """The same on CUDA: a step recorded after three, and replayed with its inputs filled in."""

    def __init__(self, problem: Problem, images: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(problem, images, arrays, "cuda", capturable=True)
        self.index = torch.zeros(self.batch, dtype=torch.long, device="cuda")
        self.weight, self.rate, self.row = torch.zeros(3, device="cuda")
        self.graph, self.taken = torch.cuda.CUDAGraph(), 0

    def run_epoch(self, epoch: int, kl_weight: np.ndarray, learning_rate: np.ndarray) -> np.ndarray:
        order = torch.as_tensor(shuffled(len(self.images), 0, epoch), device="cuda")
        rows = []
        for i, (weight, rate) in enumerate(zip(kl_weight, learning_rate, strict=True)):
            self.index.copy_(order[i * self.batch : (i + 1) * self.batch])
            self.weight.fill_(weight)
            self.rate.fill_(rate)
            self._next()
            rows.append(self.row.clone())
        return torch.stack(rows).cpu().double().numpy()

    def _next(self) -> None:
        self.taken += 1
        if self.taken <= 3:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                self._filled()
            torch.cuda.current_stream().wait_stream(aside)
            return
        if self.taken == 4:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(self.graph):
                self._filled()
        self.graph.replay()

    def _filled(self) -> None:
        grey = self.images[self.index].float() / 255
        self.row = self.step(torch.bernoulli(grey), self.weight, self.rate)
