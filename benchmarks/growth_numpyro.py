"""A step of training or a block of evaluation in NumPyro, with its operations and bytes."""

from __future__ import annotations

__all__ = ["evaluation", "training"]

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import random

from benchmarks.counting_jax import operations
from benchmarks.growth import OBJECTIVE, TRAINING, Size
from guides.numpyro import VeryDeepGuide
from models.numpyro import VeryDeepVAE
from ppl_vae.data import Images
from ppl_vae.numpyro.asking import asked
from ppl_vae.numpyro.memory import needed
from ppl_vae.numpyro.trainer import NumPyroTrainer
from ppl_vae.numpyro.weighing import _Passes, _weigh_apart

Made = tuple[Callable[[int], object], dict[str, float]]


def training(size: Size, data: Images, decoder: str) -> Made:
    """(a turn of an epoch of one step, the step's operations and bytes)."""
    settings = replace(TRAINING, batch_size=size.batch)
    cpu, one = jax.devices("cpu")[0], np.ones(1)
    trainer = NumPyroTrainer(*_pair(size, decoder), data, None, OBJECTIVE, settings, cpu)
    x = trainer.train.batch(slice(0, size.batch), random.key(0))
    rates = (jnp.float32(1.0), jnp.float32(1e-3))
    traced = jax.jit(trainer.step).trace(trainer.now, x, random.key(0), *rates)

    def turn(number: int) -> None:
        trainer.run_epoch(number, one, 1e-3 * one, lambda _: None)

    turn(0)  # compiles
    return turn, _counted(traced.lower().compile(), traced.jaxpr)


def evaluation(size: Size, data: Images, decoder: str) -> Made:
    """(a turn of log weights of the images, its operations and bytes)."""
    model, guide = _pair(size, decoder)
    with asked(model, guide, data, None, 0, "running") as (images, values, key):
        pair = (model, guide, images, values, key)
        passes = _Passes(_weigh_apart, pair, size.samples, None)
        passes.fit(size.batch * size.samples, chosen=True)
        stored = images.values

        def turn(number: int) -> None:
            np.asarray(passes(stored, 0, size.samples * number))

        turn(0)
        return turn, _counted(passes.program(stored, 0, 0))


def _pair(size: Size, decoder: str) -> tuple[Any, Any]:
    shape, rngs = (1, size.side, size.side), nnx.Rngs(0)
    model = VeryDeepVAE(shape, decoder, width=16, latent_channels=4, bottleneck=0.5, rngs=rngs)
    return model, VeryDeepGuide(model, rngs=rngs)


def _counted(program: Any, jaxpr: Any = None) -> dict[str, float]:
    return {"operations": operations(program, jaxpr), "bytes": float(needed(program))}
