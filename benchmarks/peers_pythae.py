"""pythae's VAE and IWAE with the zoo's nets, through pythae's own trainer.

Its models take an encoder that gives loc and log variance and a decoder that gives Bernoulli means;
its epochs are those of `BaseTrainer.train_step`.
"""

from __future__ import annotations

__all__ = ["bouts"]

import logging
import tempfile
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers_problem import BATCH, LATENT, RATE, SHAPE, Bout, apart, layers, widths
from benchmarks.peers_pyro import Net, Ours, filled
from ppl_vae.pyro import Objective

K = 5  # importance samples of IWAE


class Encoder(BaseEncoder):
    def __init__(self, ours: Ours) -> None:
        super().__init__()
        self.net = filled(Net(widths(ours.hidden, ours.latent)[0]), layers(ours.weights, "guide"))

    def forward(self, x: Tensor) -> Any:
        loc, raw = self.net(x.flatten(1)).chunk(2, -1)
        log_variance = torch.log(F.softplus(raw) + 1e-6)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, ours: Ours) -> None:
        super().__init__()
        self.net = filled(Net(widths(ours.hidden, ours.latent)[1]), layers(ours.weights, "model"))

    def forward(self, z: Tensor) -> Any:
        means = torch.sigmoid(self.net(z))
        return ModelOutput(reconstruction=means.reshape(-1, *SHAPE))


def bouts(steps: int, quick: bool) -> list[Bout]:
    """VAE, and IWAE of five samples."""
    logging.disable(logging.INFO)
    hidden, latent = ((20,), 5) if quick else ((200, 200), LATENT)
    return [_bout(Ours(hidden, latent, steps, k), k) for k in (1, K)]


def _bout(ours: Ours, k: int) -> Bout:
    sizes = {"input_dim": SHAPE, "latent_dim": ours.latent, "reconstruction_loss": "bce"}
    model: Any
    if k == 1:
        model = VAE(VAEConfig(**sizes), encoder=Encoder(ours), decoder=Decoder(ours))
    else:
        config = IWAEConfig(number_samples=k, **sizes)
        model = IWAE(config, encoder=Encoder(ours), decoder=Decoder(ours))
    losses = _losses(model, ours, k)
    trainer = _trainer(model, ours)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    batches = [BaseDataset(x, torch.ones(len(x))) for x in ours.x.split(BATCH)]

    def ready_batches(turn: int) -> None:
        for batch in batches:
            optimizer.zero_grad()
            model({"data": batch.data}).loss.backward()
            optimizer.step()

    turns = {
        "an epoch as it comes": (lambda turn: trainer.train_step(turn), ours.epoch),
        "ready batches, same fused Adam": (ready_batches, ours.ready_batches),
    }
    return Bout("pythae's VAE" if k == 1 else f"pythae's IWAE, K = {k}", BATCH, turns, losses)


def _trainer(model: Any, ours: Ours) -> BaseTrainer:
    config = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(), num_epochs=1, learning_rate=RATE, no_cuda=True,
        per_device_train_batch_size=BATCH,
    )  # fmt: skip
    trainer = BaseTrainer(model, BaseDataset(ours.x, torch.ones(len(ours.x))), None, config)
    prepare = getattr(trainer, "prepare_training", None)
    if prepare is not None:
        prepare()
    return trainer


def _losses(model: Any, ours: Ours, k: int) -> list[dict[str, Any]]:
    """pythae's loss beside the zoo's of the same weights and noise."""
    x = ours.x[:BATCH]
    torch.manual_seed(0)
    theirs = model({"data": x})
    if k == 1:
        terms = ours.terms(x)
        return [
            apart("ELBO", theirs.loss.detach(), -terms.log_weight().mean()),
            apart("-log p(x | z)", theirs.recon_loss.detach(), -terms.log_likelihood["x"].mean()),
            apart("divergence", theirs.reg_loss.detach(), terms.kl["z1"].mean()),
        ]
    # It draws (image, sample); so do the zoo's programs with each image K times over, in a row.
    torch.manual_seed(0)
    terms = Objective().terms(ours.model, ours.guide, x.repeat_interleave(k, 0), analytic=False)
    log_w = terms.log_weight().reshape(-1, k)
    share = log_w.detach().softmax(1)
    bound = torch.logsumexp(log_w, 1) - np.log(k)
    return [
        apart("mean of log w, weighted by w", theirs.loss.detach(),
              -(share * log_w).sum(1).mean().detach()),
        apart("gradient norm, ours of -L_K", _norm(theirs.loss, model),
              _norm(-bound.mean(), ours.model, ours.guide)),
    ]  # fmt: skip


def _norm(loss: Tensor, *modules: torch.nn.Module) -> Tensor:
    """Of the loss's gradient with respect to all weights."""
    weights = [p for module in modules for p in module.parameters()]
    return torch.nn.utils.get_total_norm(torch.autograd.grad(loss, weights))
