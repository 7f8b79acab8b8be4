"""Bytes of the optimiser's state on one device, where devices share it out.

    torchrun --nproc-per-node 2 -m benchmarks.optimizer_memory --ppl pyro
    XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
        python -m benchmarks.optimizer_memory --ppl numpyro

Of the moments (in NumPyro of the averaged weights too) after one step at most; scalars not counted.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.command import ended
from benchmarks.problem import FAMILIES, Problem, grey_images
from ppl_vae.data import Images
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

IMAGES = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; prints a line a family, by the leading process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizer_memory")
    parser.add_argument("--ppl", choices=["pyro", "numpyro"], required=True)
    options = parser.parse_args(arguments)
    ranks = import_module(f"ppl_vae.{options.ppl}.ranks")
    ranks.join(TrainingSettings(device="cpu"))
    for family in ("ladder", "very-deep"):
        own, whole = (_in_torch if options.ppl == "pyro" else _in_jax)(FAMILIES[family])
        if ranks.leads():
            print(f"{options.ppl:8} {family:10} {own:10} of {whole:10} bytes, {own / whole:.1%}")
    ranks.leave()
    return 0


def _trainer(ppl: str, pair: Any, settings: TrainingSettings, *device: Any) -> Any:
    data = Images(grey_images(IMAGES), binarization="dynamic")
    training = import_module(f"ppl_vae.{ppl}.training")
    return training._trainer(*pair, data, None, ObjectiveSettings(), settings, *device)


def _settings() -> TrainingSettings:
    return TrainingSettings(
        batch_size=IMAGES, device="cpu", devices="all", ema=0.999, sharded_optimizer=True
    )


def _in_torch(problem: Problem) -> tuple[int, int]:
    """(this process's, of all)."""
    from benchmarks.against_torch import _pair
    from ppl_vae.pyro.training import _surroundings

    with _surroundings(_settings()):
        trainer = _trainer("pyro", _pair(problem), _settings())
        trainer.run_epoch(0, np.ones(1), np.full(1, 1e-3), lambda _: None)
    own = sum(slot.nbytes for slot in trainer._slots if slot.dim())
    return own, 2 * sum(p.nbytes for p in trainer.parameters.values())


def _in_jax(problem: Problem) -> tuple[int, int]:
    """(the first device's, of all)."""
    import jax
    from flax import nnx

    import guides.numpyro
    import models.numpyro
    from ppl_vae.numpyro.training import _surroundings

    rngs = nnx.Rngs(0)
    model_of = getattr(models.numpyro, problem.model)
    model = model_of(problem.x_shape, **problem.model_args, rngs=rngs)
    guide = getattr(guides.numpyro, problem.guide)(model, **problem.guide_args, rngs=rngs)
    with _surroundings(_settings()) as device:
        trainer = _trainer("numpyro", (model, guide), _settings(), device)
    leaves = jax.tree.leaves((trainer.now.optimizer, trainer.now.averaged))
    own = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves if leaf.ndim)
    return own, sum(leaf.nbytes for leaf in leaves if leaf.ndim)


if __name__ == "__main__":
    sys.exit(ended(main))
