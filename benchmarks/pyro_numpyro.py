"""The same recipes in Pyro and in NumPyro: first step, further steps, evaluation, where they cross.

    python -m benchmarks.pyro_numpyro                     # every recipe: half an hour of one core
    python -m benchmarks.pyro_numpyro --recipe lvae-mnist # a part; others in --out stay
    python -m benchmarks.pyro_numpyro --quick             # one small recipe, two turns

Both sides train through the trainer that `fit` uses, in turns, from one recipe on its own data, and
are asked for importance weights by `stream_log_weights` in blocks that free memory decides. Seconds
are the processor's, of one core. `first` is what a fresh process pays before it is at speed:
tracing and compiling in NumPyro (its cache on disk is off), the first turn's extra in Pyro.
"""

from __future__ import annotations

__all__ = ["crossover", "main", "measure"]

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import ended, number, place
from benchmarks.machine import describe
from benchmarks.timing import interleaved, ratio
from ppl_vae import experiment, recipes
from ppl_vae.data import Images
from ppl_vae.errors import UsageError
from ppl_vae.recipes import Recipe

OUT = Path(__file__).parent / "results" / "pyro_numpyro.json"
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "pyro-numpyro.png"
SAMPLES = {  # an image; a block has a hundred images
    "lvae-mnist": 50, "nvae-mnist-small": 5, "vdvae-mnist": 5, "vqvae-digits": 1,
    "pixelvae-digits": 20,
}  # fmt: skip
SIDES = ("pyro", "numpyro")
IMAGES = 100  # of a block of `stream_log_weights`
Turn = Callable[[int], object]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.here:
        print(json.dumps(measure(options.recipe[0], options.repeats, options.steps)))
        return 0
    told: dict[str, Any] = {"recipes": {}}
    if options.out is not None and options.out.exists():
        told = json.loads(options.out.read_text())
    for name in options.recipe:
        told["recipes"][name] = {"machine": describe(), **_apart(name, options)}
        print(_line(name, told["recipes"][name]), flush=True)
        if options.out is not None:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(told, indent=2) + "\n")
    if options.figure is not None:
        from benchmarks.pictures import crossings

        print(crossings(told["recipes"], options.figure))
    return 0


def measure(name: str, repeats: int, steps: int) -> dict[str, Any]:
    """One recipe: {"first", "step", "ratio", …} of training and of evaluation, seconds."""
    recipe = recipes.read(name)
    data = experiment.load_data(recipe)
    few = data.train[: steps * recipe.training.batch_size]
    if len(few) < steps * recipe.training.batch_size:
        raise UsageError(
            f"--steps: {name} has {len(few) // recipe.training.batch_size} an epoch, came {steps}"
        )
    samples = SAMPLES.get(name, 5)
    blocks = np.arange((repeats + 2) * IMAGES) % len(data.train)
    some = data.train[blocks]
    first: dict[str, dict[str, float]] = {"training": {}, "evaluation": {}}
    turns: dict[str, dict[str, Turn]] = {"training": {}, "evaluation": {}}
    for ppl in SIDES:
        for what, made in (
            ("training", lambda ppl=ppl: _epochs(ppl, recipe, few, steps)),
            ("evaluation", lambda ppl=ppl: _blocks(ppl, recipe, some, samples)),
        ):
            begun = time.process_time()
            turns[what][ppl] = made()
            turns[what][ppl](0)
            first[what][ppl] = time.process_time() - begun
    per_epoch = len(data.train) // recipe.training.batch_size
    found: dict[str, Any] = {
        "batch": recipe.training.batch_size, "steps_an_epoch": per_epoch, "repeats": repeats,
        "steps_a_repeat": steps, "samples": samples,
    }  # fmt: skip
    for what, each in (("training", steps), ("evaluation", 1)):
        seconds = interleaved(turns[what], repeats, clock=time.process_time)
        found[what] = _told(first[what], seconds, each)
    found["crossover_epochs"] = crossover(found["training"], per_epoch)
    rows = IMAGES * samples
    median = {ppl: found["evaluation"]["seconds"][ppl] for ppl in SIDES}
    found["evaluation"]["image_samples_a_second"] = {ppl: rows / median[ppl] for ppl in SIDES}
    return found


def _told(first: dict[str, float], seconds: dict[str, np.ndarray], each: int) -> dict[str, Any]:
    """Medians of a step or a block, what came before them, and NumPyro's time over Pyro's."""
    found = ratio(seconds["numpyro"], seconds["pyro"])
    medians = {ppl: float(np.median(seconds[ppl])) for ppl in SIDES}
    return {
        "seconds": {ppl: medians[ppl] / each for ppl in SIDES},
        "first": {ppl: max(0.0, first[ppl] - medians[ppl]) for ppl in SIDES},
        "ratio": found.value,
        "interval": [found.low, found.high],
    }


def crossover(training: dict[str, Any], per_epoch: int) -> float | None:
    """Epochs after which NumPyro has used less time than Pyro; None where it never has.

    >>> crossover({"first": {"pyro": 1.0, "numpyro": 61.0},
    ...            "seconds": {"pyro": 0.5, "numpyro": 0.2}}, per_epoch=100)
    2.0
    """
    ahead = training["first"]["numpyro"] - training["first"]["pyro"]
    gained = training["seconds"]["pyro"] - training["seconds"]["numpyro"]
    if gained <= 0:
        return None if ahead > 0 else 0.0
    return float(max(0.0, ahead / gained / per_epoch))


def _epochs(ppl: str, recipe: Recipe, images: Images, steps: int) -> Turn:
    """A turn of so many steps through the trainer that `fit` uses."""
    model, guide = recipes.build(recipe, ppl, images.x_shape)
    room = import_module(f"ppl_vae.{ppl}.trainer")
    given = (model, guide, images, None, recipe.objective, recipe.training)
    if ppl == "numpyro":
        import jax

        trainer = room.NumPyroTrainer(*given, jax.devices("cpu")[0])
    else:
        import torch

        torch.set_num_threads(1)
        trainer = room.PyroTrainer(*given)
    weight = np.full(steps, trainer.full_weight)
    rate = np.full(steps, recipe.training.learning_rate)

    def turn(number: int) -> None:
        if ppl == "numpyro":
            trainer.run_epoch(number, weight, rate, lambda _: None)
            return
        import pyro

        with pyro.validation_enabled(False):  # as `fit` has it
            trainer.run_epoch(number, weight, rate, lambda _: None)

    return turn


def _blocks(ppl: str, recipe: Recipe, images: Images, samples: int) -> Turn:
    """A turn is one block of a hundred images."""
    programs = import_module(f"ppl_vae.{ppl}")
    model, guide = recipes.build(recipe, ppl, images.x_shape)
    blocks: Iterator[Any] = programs.stream_log_weights(model, guide, images, samples)
    return lambda _: next(blocks)


def _apart(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One recipe in a process of its own, so that nothing is compiled already."""
    command = [sys.executable, "-m", "benchmarks.pyro_numpyro", "--here", "--recipe", name]
    command += ["--repeats", str(options.repeats), "--steps", str(options.steps)]
    environment = {**os.environ, "PPL_VAE_COMPILATION_CACHE": "off", "OMP_NUM_THREADS": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pyro_numpyro", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--recipe", action="append", help=f"of {', '.join(SAMPLES)}: all of them")
    parser.add_argument("--repeats", type=number, help="timed turns of either side (12)")
    parser.add_argument("--steps", type=number, help="optimiser steps a turn (5)")
    parser.add_argument("--quick", action="store_true", help="vae-digits alone, 2 turns of 2 steps")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=f"JSON (results/{OUT.name} unless --quick)")
    parser.add_argument("--figure", type=Path, help=f"PNG (figures/{FIGURE.name} unless --quick)")
    options = parser.parse_args(arguments)
    options.recipe = options.recipe or (["vae-digits"] if options.quick else list(SAMPLES))
    options.repeats = options.repeats or (2 if options.quick else 12)
    options.steps = options.steps or (2 if options.quick else 5)
    if not options.quick and not options.here:
        whole = options.repeats >= 7
        options.out = place(options.out, OUT, whole)
        options.figure = options.figure or (FIGURE if whole else None)
    return options


def _line(name: str, found: dict[str, Any]) -> str:
    train, judge = found["training"], found["evaluation"]
    crossed = found["crossover_epochs"]
    speed = judge["image_samples_a_second"]
    lines = [
        f"{name}: first {train['first']['pyro']:.1f} s in Pyro, {train['first']['numpyro']:.1f} in "
        f"NumPyro; a step {1e3 * train['seconds']['pyro']:.1f} ms and "
        f"{1e3 * train['seconds']['numpyro']:.1f}, ratio {train['ratio']:.2f} "
        f"({train['interval'][0]:.2f} … {train['interval'][1]:.2f}); NumPyro is ahead "
        + ("never" if crossed is None else f"after {crossed:.2f} epochs"),
        f"  evaluation: {speed['pyro']:.0f} and {speed['numpyro']:.0f} image-samples a second, "
        f"first {judge['first']['pyro']:.1f} and {judge['first']['numpyro']:.1f} s",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
