"""Trains a tiny ladder, for tests that have processes of their own do so."""

from __future__ import annotations

import importlib
import os
import signal
from pathlib import Path
from typing import Any

from ppl_vae import data
from ppl_vae.recipes import Recipe
from ppl_vae.runs import Run
from ppl_vae.settings import ObjectiveSettings

RECIPE = {
    "name": "tiny",
    "data": {"name": "digits", "binarization": "dynamic"},
    "model": {
        "class_path": "HierarchicalVAE",
        "init_args": {"latents": [4, 2], "hidden": [16, 8], "layers": 1},
    },
    "guide": {"class_path": "LadderGuide"},
    "training": {"batch_size": 100, "seed": 3},
}


class Mortal(Run):
    """A run whose process is killed at its first checkpoint within the third epoch."""

    def save(self, checkpoint: Any) -> None:
        super().save(checkpoint)
        if (checkpoint.info["epoch"], checkpoint.info["step"]) == (2, 2):
            os.kill(os.getpid(), signal.SIGKILL)


def main(ppl: str, path: Path, epochs: int, kind: type[Run] = Run) -> None:
    """Go on with what stands in the folder `path`; checkpoints at half an epoch and at its end."""
    room = importlib.import_module(f"ppl_vae.{ppl}")
    digits = data.load("digits", binarization="dynamic")
    train, valid = digits.train[:400], digits.train.fixed(1)[400:500]
    model, guide = room.build(Recipe.from_dict(RECIPE), train.x_shape)
    resume = (path / "run.json").exists()
    run = kind(path) if resume else kind.create(path, RECIPE, ppl, x_shape=list(train.x_shape))
    room.fit(
        model,
        guide,
        train,
        valid=valid,
        objective=ObjectiveSettings(warmup_epochs=4),
        run=run,
        resume=resume,
        progress=False,
        epochs=epochs,
        batch_size=100,
        seed=3,
        schedule="cosine",
        decay_epochs=10,
        clip_norm=5.0,
        ema=0.9,
        checkpoint_seconds=0.0,
        checkpoint_steps=2,
    )
