"""`ppl-vae prior`: an autoregressive prior over a trained run's codes, and the run that has both.

The codes of the training images are read off once, and a `CodePrior` is trained on them as a
program of its own. Its weights then take the place of the uniform prior in a copy of the pair:
the same sites, the same guide, and a divergence of -log p(codes) instead of log K a position.
"""

from __future__ import annotations

__all__ = ["PriorSettings", "attach", "command", "train_prior"]

import math
import shlex
import sys
from argparse import Namespace
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ppl_vae import recipes
from ppl_vae.errors import UsageError
from ppl_vae.overrides import override
from ppl_vae.recipes import ClassSettings, DataSettings, Recipe
from ppl_vae.settings import TrainingSettings
from ppl_vae.typed import checked_arguments, room

if TYPE_CHECKING:
    from ppl_vae.runs import Run


@dataclass(frozen=True)
class PriorSettings:
    """The codes' causal net.

    Args:
        net: "pixel_cnn" or "transformer".
        layers, channels, kernel_size: its size; a transformer has no kernels.
        labels: a prior for each label of the images, see `ppl_vae.pyro.labelled`.
        draws: binarisations of the training images whose codes it is trained on, where they are
            drawn anew at every use; 1 for images that stay as they are.
        valid: share of the training images whose codes choose the best epoch, where the data set
            has no validation images.
    """

    net: Literal["pixel_cnn", "transformer"] = "pixel_cnn"
    layers: int = 5
    channels: int = 32
    kernel_size: int = 3
    draws: int = 1
    valid: float = 0.1
    labels: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "draws"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected at least 1, came {getattr(self, name)}")
        if not 0 < self.valid < 1:
            raise UsageError(f"valid: expected a share between 0 and 1, came {self.valid}")


def command(args: Namespace) -> None:
    """Train, keep, and print the codes' bits before and after."""
    out: Path = args.out
    if (out / "run.json").exists():
        raise UsageError(f"{out}: holds a run already: name another folder")
    own = [field.name for field in fields(PriorSettings)]
    known = {**{name: [] for name in own}, "training": _names(TrainingSettings)}
    tree = override({"training": {"epochs": 60}}, args.overrides, known)
    given = tree.pop("training")
    settings = PriorSettings(**checked_arguments(PriorSettings, tree, "prior"))
    training = TrainingSettings(**checked_arguments(TrainingSettings, given, "training"))
    from ppl_vae.runs import Run

    told = train_prior(Run.open(args.run), out, settings, training, args.weights)
    print(
        f"{out}: codes of test images, bits per dimension of the image: "
        f"{told['uniform_bits']:.4f} under the uniform prior, {told['prior_bits']:.4f} under the "
        "learned one"
        + (f", {told['labelled_bits']:.4f} given the label" if settings.labels else "")
    )


def train_prior(
    run: Run, out: Path, settings: PriorSettings, training: TrainingSettings, weights: str = "best"
) -> dict[str, float]:
    """Train a prior on the codes of `run`, write the run `out` that has it.

    The prior's own run, of codes alone, is kept in out/codes; its best epoch is taken.

    Returns:
        `uniform_bits`, `prior_bits`: of the test images' codes, bits per dimension of the image;
        with labels `labelled_bits` too, under the prior of each image's own label.
    """
    from ppl_vae import experiment
    from ppl_vae.runs import Checkpoint, Run, load

    recipe, programs = Recipe.from_dict(run.recipe), room(run.ppl)
    pair = load(run, run.ppl, weights)
    if len(pair[1].sites) != 1:
        raise UsageError(
            f"{run.path}: expected one latent map of codes, came {', '.join(pair[1].sites)}: train "
            "its priors with the pair (model.init_args.prior_layers)"
        )
    codebook = programs.codebook_of(pair[0])
    data = experiment.data_of(run, recipe)
    num_labels = _num_labels(data.train) if settings.labels else 0
    maps = [_maps(programs, pair, data.train, seed, num_labels) for seed in range(settings.draws)]
    if data.valid is None:  # the same images of every draw
        held = max(1, int(settings.valid * len(data.train)))
        maps, valid = [part[:-held] for part in maps], maps[0][-held:]
    else:
        valid = _maps(programs, pair, data.valid, 0, num_labels)
    test = _maps(programs, pair, data.test, 0, num_labels)
    stage = _recipe(settings, training, len(codebook), num_labels)
    prior, nothing = recipes.build(stage, run.ppl, test.shape[1:])
    line = shlex.join(["ppl-vae", *sys.argv[1:]])
    own = Run.create(out / "codes", stage.to_dict(), run.ppl, line, x_shape=[*test.shape[1:]])
    fitted = programs.fit(
        prior, nothing, np.concatenate(maps), valid=valid, run=own, **asdict(training)
    )
    programs.load_state(prior, nothing, own.weights("best")[0])
    recipe, both = attach(recipe, run.ppl, pair, prior, codebook, settings)
    about = {"x_shape": [*data.x_shape], "codes_of": str(run.path)}
    made = Run.create(out, recipe.to_dict(), run.ppl, line, **about)
    info = {"epoch": fitted.best_epoch, "step": int(fitted.history["step"][-1])}
    made.save(Checkpoint({"weights": programs.state(*both)}, info, fitted.history))
    scale = math.log(2) * math.prod(data.x_shape)
    (under_prior,) = programs.site_terms(*both, data.test)["kl"].values()
    told = {
        "uniform_bits": math.prod(test.shape[2:]) * math.log(len(codebook)) / scale,
        "prior_bits": float(under_prior.mean()) / scale,
    }
    if num_labels:  # their program scores the label too, log C
        both_parts = -np.asarray(programs.log_weights(prior, nothing, test, 1)).mean()
        told["labelled_bits"] = (float(both_parts) - math.log(num_labels)) / scale
    return told


def attach(
    recipe: Recipe,
    ppl: str,
    pair: tuple[Any, Any],
    prior: Any,
    codebook: np.ndarray,
    settings: PriorSettings,
) -> tuple[Recipe, tuple[Any, Any]]:
    """(recipe, pair) with the learned prior in the uniform one's place, all weights kept.

    Args:
        recipe: of the pair.
        prior: a `CodePrior`, trained.
        codebook: (K, d), whose codes it was trained on.
        settings: its size.

    Raises:
        UsageError: the pair has another codebook, or maps of other sides.
    """
    programs = room(ppl)
    own = programs.codebook_of(pair[0])
    if own.shape != codebook.shape or not np.array_equal(own, codebook):
        raise UsageError(
            "prior: trained on the codes of another codebook: train one on this model's codes "
            "(ppl-vae prior RUN)"
        )
    if tuple(prior.x_shape[1:]) != tuple(pair[0].sides):
        raise UsageError(
            f"prior: expected maps of {tuple(pair[0].sides)}, came one of "
            f"{tuple(prior.x_shape[1:])}: train one on this model's codes (ppl-vae prior RUN)"
        )
    arguments = {
        **recipe.model.init_args,
        "prior_layers": settings.layers,
        "prior_channels": settings.channels,
        "prior_kernel": settings.kernel_size,
        "prior_net": settings.net,
        "prior_labels": prior.num_labels,
    }
    recipe = replace(
        recipe,
        name=f"{recipe.name}-prior",
        description=f"{recipe.description.rstrip('.')}, with a learned prior over codes.",
        model=ClassSettings(recipe.model.class_path, arguments),
    )
    both = recipes.build(recipe, ppl, pair[0].x_shape)
    learned = {
        f"model.prior.{name.removeprefix('model.net.')}": value
        for name, value in programs.state(prior, None).items()
    }
    kept = {n: v for n, v in programs.state(*pair).items() if not n.startswith("model.prior.")}
    programs.load_state(*both, {**kept, **learned})
    return recipe, both


def _recipe(
    settings: PriorSettings, training: TrainingSettings, num_codes: int, num_labels: int
) -> Recipe:
    names = ("net", "layers", "channels", "kernel_size")
    sizes = {**{name: getattr(settings, name) for name in names}, "labels": num_labels}
    return Recipe(
        name="codes",
        description="Autoregressive prior over the codes of a run (ppl-vae prior)",
        data=DataSettings("codes"),
        model=ClassSettings("CodePrior", {"codes": num_codes, **sizes}),
        guide=ClassSettings("NoLatentsGuide"),
        training=training,
    )


def _maps(
    programs: Any, pair: tuple[Any, Any], images: Any, seed: int, num_labels: int = 0
) -> np.ndarray:
    """(n, 1, h, w) float32: indices of the codes; with labels (n, 2, h, w), the label below."""
    (indices,) = programs.codes_of(*pair, images, seed=seed).values()
    maps = indices[:, None]
    if num_labels:
        labels = np.broadcast_to(images.labels[:, None, None, None], maps.shape)
        maps = np.concatenate([maps, labels], axis=1)
    return np.asarray(maps, dtype=np.float32)


def _num_labels(images: Any) -> int:
    """How many labels images have, from 0 up."""
    if images.labels is None:
        raise UsageError("labels: expected labelled images, came some without: leave it false")
    return int(images.labels.max()) + 1


def _names(settings: type) -> list[str]:
    return [field.name for field in fields(settings)]
