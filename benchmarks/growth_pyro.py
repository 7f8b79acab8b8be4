"""A step of training or a block of evaluation in Pyro, with its operations and bytes."""

from __future__ import annotations

__all__ = ["evaluation", "training"]

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import torch

from benchmarks.counting import counting
from benchmarks.growth import OBJECTIVE, TRAINING, Size
from guides.pyro import VeryDeepGuide
from models.pyro import VeryDeepVAE
from ppl_vae.data import Images
from ppl_vae.pyro.asking import asked
from ppl_vae.pyro.memory import Watermark
from ppl_vae.pyro.trainer import PyroTrainer
from ppl_vae.pyro.weighing import _weights

Made = tuple[Callable[[int], object], dict[str, float]]


def training(size: Size, data: Images, decoder: str) -> Made:
    """(a turn of an epoch of one step, its operations and bytes)."""
    settings = replace(TRAINING, batch_size=size.batch)
    trainer = PyroTrainer(*_pair(size, decoder), data, None, OBJECTIVE, settings)
    one = np.ones(1)

    def turn(number: int) -> None:
        with pyro.validation_enabled(False):
            trainer.run_epoch(number, one, 1e-3 * one, lambda _: None)

    turn(0)  # the optimiser's state comes into being
    return turn, _counted(lambda: turn(0))


def evaluation(size: Size, data: Images, decoder: str) -> Made:
    """(a turn of log weights of the images, its operations and bytes)."""
    model, guide = (part.requires_grad_(False) for part in _pair(size, decoder))  # to be counted
    with asked(model, guide, data, None, 0, "running") as images:

        def turn(number: int) -> None:
            with pyro.validation_enabled(False):  # as within `asked`
                _weights(model, guide, images.batch(slice(None)), size.samples)

        return turn, _counted(lambda: turn(0))


def _pair(size: Size, decoder: str) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = (1, size.side, size.side)
    model = VeryDeepVAE(shape, decoder, width=16, latent_channels=4, bottleneck=0.5)
    return model, VeryDeepGuide(model)


def _counted(run: Callable[[], object]) -> dict[str, float]:
    with counting() as counter:
        run()
    with Watermark() as mark:
        run()
    return {"operations": float(counter.get_total_flops()), "bytes": float(mark.peak)}
