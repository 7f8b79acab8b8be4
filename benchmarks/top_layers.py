"""What keeps the top layers of a ladder alive: one choice changed at a time, at equal steps.

    python -m benchmarks.top_layers --epochs 20

Each variant is `lvae-mnist-short` in NumPyro with that one change, warm-up over half the epochs.
Written after each variant, so a run that was cut short goes on with those that are missing.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx

from benchmarks.command import ended, number
from benchmarks.machine import describe
from guides.numpyro import LadderGuide, MeanFieldGuide
from ppl_vae import data, recipes
from ppl_vae.errors import UsageError
from ppl_vae.numpyro import build, fit
from ppl_vae.numpyro.nets import mlp

RECIPE = "lvae-mnist-short"
OUT = Path(__file__).parent / "results" / "top_layers.json"


class MergedTop(LadderGuide):
    """The top site's message, too, is merged with its prior N(0, I)."""

    def posterior(self, site: Any, features: dict[str, Any]) -> Any:
        loc, variance = features[site.name]
        prior = 1 / jnp.square(site.prior.scale)
        merged = 1 / (1 / variance + prior)
        mean = merged * (loc / variance + site.prior.loc * prior)
        return dist.Normal(mean, jnp.sqrt(merged))


@contextmanager
def lecun() -> Iterator[None]:
    """Flax's own initial weights in place of Glorot's: half the variance where a net narrows."""
    with mock.patch.object(mlp, "glorot_uniform", nnx.initializers.lecun_normal):
        yield


Variant = tuple[list[str], type | None, Callable[[], Any]]
VARIANTS: dict[str, Variant] = {
    "as the recipe": ([], None, nullcontext),
    "top site merged with its prior": ([], MergedTop, nullcontext),
    "lecun_normal initial weights": ([], None, lecun),
    "no warm-up": (["objective.warmup_epochs=0"], None, nullcontext),
    "no batch norm": (["model.init_args.batch_norm=false"], None, nullcontext),
    "mean-field guide": ([], MeanFieldGuide, nullcontext),
}


def measure(variant: Variant, epochs: int, seed: int) -> dict[str, Any]:
    """Training ELBO and divergences by site of the last epoch, nats per image."""
    changes, guide_class, initial = variant
    settings = [f"training.epochs={epochs}", f"training.decay_epochs={epochs}"]
    settings += [f"training.seed={seed}", f"objective.warmup_epochs={epochs / 2}", *changes]
    recipe = recipes.read(RECIPE, settings)
    images = data.load(recipe.data.name, binarization=recipe.data.binarization)
    with initial():
        model, guide = build(recipe, images.x_shape)
        if guide_class is not None:
            guide = guide_class(model, rngs=nnx.Rngs(seed))
    training = recipe.training
    history = fit(
        model, guide, images.train, objective=recipe.objective, epochs=epochs, seed=seed,
        batch_size=training.batch_size, learning_rate=training.learning_rate,
        schedule=training.schedule, decay_epochs=training.decay_epochs, progress=False,
    ).history  # fmt: skip
    kl = history["kl"].isel(step=-1)
    return {
        "elbo": float(history["elbo"][-1]),
        "kl": {str(site): float(kl.sel(site=site)) for site in sorted(kl["site"].values)},
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=number, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    told = json.loads(args.out.read_text()) if args.out.exists() else {}
    if told and (told["epochs"], told["seed"]) != (args.epochs, args.seed):
        raise UsageError(
            f"--out: {args.out} is of {told['epochs']} epochs and seed {told['seed']}: name "
            "another file"
        )
    if not told:
        told = {"machine": describe(), "epochs": args.epochs, "seed": args.seed, "variants": {}}
    for name, variant in VARIANTS.items():
        if name not in told["variants"]:
            told["variants"][name] = measure(variant, args.epochs, args.seed)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(told, indent=2) + "\n")
        found = told["variants"][name]
        kl = ", ".join(f"{site} {nats:.2f}" for site, nats in found["kl"].items())
        print(f"{name:32} ELBO {found['elbo']:.2f}  KL {kl}", flush=True)


if __name__ == "__main__":
    sys.exit(ended(main))
