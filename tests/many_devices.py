"""Trains and evaluates on however many devices it is given: `python many_devices.py PPL TASK OUT`.

One device alone, one of torchrun's processes, or one process of JAX with several devices. What the
leading process finds is in the folder OUT.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from zoo import X_SHAPE, Case

from ppl_vae import loop
from ppl_vae.data import Images
from ppl_vae.errors import UsageError
from ppl_vae.recipes import Recipe
from ppl_vae.runs import Run
from ppl_vae.settings import ObjectiveSettings

BATCH = 10  # images, which eight devices do not divide, and three processes neither
GREY = np.random.default_rng(0).integers(0, 256, (23, *X_SHAPE)).astype(np.uint8)
EPOCHS = 3
TINY = {
    "name": "tiny",
    "data": {"name": "npy"},
    "model": {"class_path": "VAE"},
    "guide": {"class_path": "LadderGuide"},
}


# Of the smallest model, and yet what devices have to agree upon, with sides that eight divide.
SMALL = {"batch_norm": True, "hidden": (8, 4)}


@dataclass(frozen=True)
class Trial:
    """A pair and what it is trained with."""

    model: str
    guide: str
    objective: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    precision: str = "float64"
    ppls: tuple[str, ...] = ("pyro",)
    training: dict[str, Any] = field(default_factory=dict)


# Under JAX's compiler two stand for all: what is the same on many devices is its affair, but for
# convolutions, whose slopes the zoo writes itself and for many devices differently.
TRIALS = {
    "batch-norm": Trial("hierarchy", "ladder", {"free_bits": 0.2}),
    "single": Trial("vae", "ladder", {"free_bits": 0.2}, SMALL, "float32", ("pyro", "numpyro")),
    "importance-weighted": Trial("hierarchy", "residual-normal", {"num_samples": 3}),
    "balanced": Trial(
        "nvae", "nvae", {"balance": True, "warmup_epochs": 4, "spectral_weight": 0.1}
    ),
    "very-deep": Trial("very-deep", "very-deep", {"free_bits": 0.2}, ppls=("pyro", "numpyro")),
    "codebook": Trial(
        "vq-vae", "vector-quantizer", {}, {"update": "ema", "start": "kmeans", "restart": 0.5}
    ),
    "relaxed": Trial("vq-vae", "gumbel-softmax"),
    "sharded-optimizer": Trial(
        "hierarchy", "ladder", {"free_bits": 0.2},
        training={"sharded_optimizer": True, "ema": 0.9, "skip_norm": 1e6, "optimizer": "adamw"},
    ),
}  # fmt: skip


def first_step(ppl: str, out: Path) -> None:
    """One step of each trial; the optimiser's first moment is the gradient times a constant."""
    for name, trial in TRIALS.items():
        if ppl in trial.ppls:
            pair = Case(ppl, trial.model, trial.guide).build(**trial.arguments)
            objective = ObjectiveSettings(**trial.objective)
            # A step too short to see: what is validated are the same weights.
            fit(
                ppl, pair, out / name, objective, 1, images=BATCH,
                precision=trial.precision if ppl == "pyro" else "float32", learning_rate=1e-9,
                mapped=name == "single", **trial.training,
            )  # fmt: skip


def weights(ppl: str, out: Path) -> None:
    """Log weights of seven images at once, and then one by one."""
    pair = Case(ppl, "vae", "ladder").build(seed=1, **SMALL)
    x = Images(GREY[:7], binarization="dynamic")
    found = {}
    for block in (8, 1):
        w = room(ppl).log_weights(*pair, x, 6, seed=3, block=block, spread=True)
        found[f"block of {block}"] = np.asarray(w)
    if room(ppl).ranks.leads():
        np.savez(out / "weights.npz", **found)


def refused(ppl: str, out: Path) -> None:
    """What a batch with fewer images than devices is answered."""
    try:
        fit(ppl, Case(ppl, "vae", "ladder").build(), out / "refused", batch_size=1)
    except UsageError as error:
        if room(ppl).ranks.leads():
            (out / "refused.json").write_text(json.dumps(str(error)))


def whole(ppl: str, out: Path, name: str = "whole", dies: bool = False) -> None:
    """A run from where it stands to its end, or to its leader's death in the second epoch.

    Its images stay on disk, and its optimiser's state is shared out.
    """
    pair = Case(ppl, "vae", "ladder").build(**SMALL)
    callbacks = [_die] if dies else []
    settings = {"ema": 0.9, "sharded_optimizer": True}
    with _trainers(ppl) as made:
        fit(ppl, pair, out / name, epochs=EPOCHS, callbacks=callbacks, mapped=True, **settings)
    if room(ppl).ranks.leads():
        (out / "held.json").write_text(json.dumps(HELD[ppl](made[0])))


def begun(ppl: str, out: Path, epochs: int = 1) -> None:
    """Epochs with the optimiser's state shared out, float64; NumPyro has them in `whole`."""
    if ppl == "pyro":
        pair = Case(ppl, "hierarchy", "ladder").build()
        shared = {"sharded_optimizer": True, "optimizer": "adamax", "precision": "float64"}
        fit(ppl, pair, out / "begun", epochs=epochs, **shared)


@contextmanager
def _trainers(ppl: str) -> Iterator[list[Any]]:
    """The trainers that `fit` makes within it."""
    training = importlib.import_module(f"ppl_vae.{ppl}.training")
    make, made = training._trainer, []

    def kept(*args: Any) -> Any:
        made.append(make(*args))
        return made[-1]

    training._trainer = kept
    try:
        yield made
    finally:
        training._trainer = make


def _held_by_torch(trainer: Any) -> tuple[int, int]:
    """Bytes of the optimiser's moments that this process has, and that there are."""
    own = sum(slot.nbytes for slot in trainer._slots if slot.dim())
    return own, 2 * sum(p.nbytes for p in trainer.parameters.values())


def _held_by_jax(trainer: Any) -> tuple[int, int]:
    """The same on one device, with the averaged weights."""
    import jax

    leaves = jax.tree.leaves((trainer.now.optimizer, trainer.now.averaged))
    own = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves if leaf.ndim)
    return own, sum(leaf.nbytes for leaf in leaves if leaf.ndim)


HELD = {"pyro": _held_by_torch, "numpyro": _held_by_jax}


def stopped(ppl: str, out: Path) -> None:
    """Every process ends where the leader's callback says so."""

    def stop(_: Any) -> None:
        raise loop.Stop

    pair = Case(ppl, "vae", "ladder").build(**SMALL)
    try:
        fit(ppl, pair, out / "stopped", epochs=EPOCHS, callbacks=[stop])
    except loop.Stop:
        (out / f"stopped-{room(ppl).ranks.rank()}").touch()


def plain(ppl: str, out: Path) -> None:
    """Functions whose weights are drawn after a site, where processes have unlike shares."""
    if ppl == "pyro":
        fit(ppl, functions(), out / "plain", images=5, batch_size=5, precision="float64")


def functions() -> tuple[Any, Any]:
    """Pyro's, with the least to learn."""
    import pyro
    import pyro.distributions as dist
    import torch

    size = int(np.prod(X_SHAPE))

    def model(x: Any) -> None:
        with pyro.plate("images", len(x)):
            z = pyro.sample("z1", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            w = pyro.param("w", lambda: torch.randn(2, size, dtype=x.dtype))
            logits = (z @ w).reshape(x.shape)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(x: Any) -> None:
        v = pyro.param("v", lambda: 0.1 * torch.randn(size, 2, dtype=x.dtype))
        with pyro.plate("images", len(x)):
            pyro.sample("z1", dist.Normal(x.flatten(1) @ v, 1.0).to_event(1))

    return model, guide


def killed(ppl: str, out: Path) -> None:
    whole(ppl, out, "killed", dies=True)


def resumed(ppl: str, out: Path) -> None:
    whole(ppl, out, "killed")


def _die(history: Any) -> None:
    if history.sizes["step"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def fit(
    ppl: str, pair: Any, path: Path, objective: Any = None, epochs: int = 1, images: int = 23,
    mapped: bool = False, **settings: Any,
) -> None:  # fmt: skip
    ranks = room(ppl).ranks
    ranks.wait()
    resume = (path / "run.json").exists()
    ranks.wait()
    if ranks.leads() and not resume:
        Run.create(path, Recipe.from_dict(TINY).to_dict(), ppl, x_shape=list(X_SHAPE))
        np.save(path / "grey.npy", GREY)
    ranks.wait()
    grey = np.load(path / "grey.npy", mmap_mode="r") if mapped else GREY
    room(ppl).fit(
        *pair,
        Images(grey[:images], binarization="dynamic"),
        valid=Images((GREY[16:] > 127).astype(np.uint8), binarization="static"),
        objective=objective,
        run=Run.open(path),
        resume=resume,
        progress=False,
        **{"batch_size": BATCH, "epochs": epochs, "checkpoint_seconds": 0, **settings},
        devices="all",
        device="cpu",
    )


def room(ppl: str) -> Any:
    return importlib.import_module(f"ppl_vae.{ppl}")


TASKS = {
    task.__name__: task
    for task in (first_step, weights, refused, whole, begun, stopped, plain, killed, resumed)
}


def begin(environment: dict[str, str], log: Path, *argv: str) -> None:
    """`main` in a process of its own, with what a launcher tells it; standard error into `log`."""
    os.environ.update(environment)
    with log.open("w") as said:
        os.dup2(said.fileno(), sys.stderr.fileno())
    sys.exit(main(*argv))


def main(ppl: str, tasks: str, out: str) -> int:
    from ppl_vae import cli, launch  # as the command line ends

    if ppl == "numpyro" or not tasks.startswith("weights"):  # `log_weights` joins by itself
        room(ppl).ranks.join()
    try:
        for task in tasks.split(","):
            TASKS[task](ppl, Path(out))
    except (UsageError, RuntimeError) as error:
        return cli._fail(str(error)) if launch.by_torchrun() else 1
    room(ppl).ranks.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
