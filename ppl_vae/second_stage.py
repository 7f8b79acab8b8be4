"""`ppl-vae prior`: an autoregressive prior over a trained run's codes, and the run that has both.

The codes of the training images are read off once, and a `CodePrior` is trained on them as a
program of its own; of two maps a `CodePrior2`, of the upper codes and of the lower ones given them.
Its weights then take the place of the uniform prior in a copy of the pair: the same sites, the same
guide, and a divergence of -log p(codes) instead of log K a position.
"""

from __future__ import annotations

__all__ = ["PriorSettings", "attach", "command", "train_prior"]

import math
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ppl_vae import code_stage, recipes
from ppl_vae.errors import UsageError
from ppl_vae.overrides import override
from ppl_vae.recipes import ClassSettings, DataSettings, Recipe
from ppl_vae.settings import TrainingSettings
from ppl_vae.typed import checked_arguments, room

if TYPE_CHECKING:
    from ppl_vae.runs import Run


@dataclass(frozen=True)
class PriorSettings:
    """The codes' causal net, or nets: those of two maps have the same size.

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

    run = Run.open(args.run)
    told = train_prior(run, out, settings, training, args.weights, resume=args.resume)
    print(f"{out}: codes of test images, bits per dimension of the image: {_spelled(told)}")


def _spelled(told: Mapping[str, float]) -> str:
    """
    >>> _spelled({"uniform_bits": 0.375, "prior_bits": 0.25})
    '0.3750 under the uniform prior, 0.2500 under the learned one'
    """
    text = (
        f"{told['uniform_bits']:.4f} under the uniform prior, {told['prior_bits']:.4f} under the "
        "learned one"
    )
    sites = [name.removeprefix("prior_bits_") for name in told if name.startswith("prior_bits_")]
    for site in sites:
        before, after = (told[f"{which}_bits_{site}"] for which in ("uniform", "prior"))
        text += f"; of {site} {before:.4f} and {after:.4f}"
    if "labelled_bits" in told:
        text += f", {told['labelled_bits']:.4f} given the label"
    return text


def train_prior(
    run: Run,
    out: Path,
    settings: PriorSettings,
    training: TrainingSettings,
    weights: str = "best",
    *,
    resume: bool = False,
) -> dict[str, float]:
    """Train a prior on the codes of `run`, write the run `out` that has it.

    The prior's own run, of codes alone, is kept in out/codes; its best epoch is taken.

    Args:
        resume: go on with out/codes, where a training of the same prior was stopped.

    Returns:
        `uniform_bits`, `prior_bits`: of the test images' codes, bits per dimension of the image;
        of several sites `uniform_bits_SITE`, `prior_bits_SITE` too; with labels `labelled_bits`,
        under the prior of each image's own label.

    Raises:
        UsageError: a pair without codes, or of more than two maps; `resume` with other settings or
            codes than those that were begun with.
    """
    from ppl_vae import experiment
    from ppl_vae.runs import Checkpoint, Run, load

    recipe, programs = Recipe.from_dict(run.recipe), room(run.ppl)
    pair = load(run, run.ppl, weights)
    codebooks = code_stage.codebooks_of(programs, pair, run)
    data = experiment.data_of(run, recipe)
    num_labels = code_stage.count_labels(data.train) if settings.labels else 0
    maps, valid, test = code_stage.read(programs, pair, data, settings, num_labels)
    stage = _recipe(settings, training, codebooks, num_labels)
    prior, nothing = recipes.build(stage, run.ppl, test.shape[1:])
    line = shlex.join(["ppl-vae", *sys.argv[1:]])
    about = {"x_shape": [*test.shape[1:]], "codebooks": code_stage.digest(codebooks)}
    own = _begun(out / "codes", stage, run.ppl, line, about, resume)
    fitted = _fit(programs, prior, nothing, maps, valid, own, resume, training)
    programs.load_state(prior, nothing, own.weights("best")[0])
    recipe, both = attach(recipe, run.ppl, pair, prior, codebooks, settings)
    about = {"x_shape": [*data.x_shape], "codes_of": str(run.path)}
    made = Run.create(out, recipe.to_dict(), run.ppl, line, **about)
    info = {"epoch": fitted.best_epoch, "step": int(fitted.history["step"][-1])}
    made.save(Checkpoint({"weights": programs.state(*both)}, info, fitted.history))
    told = code_stage.bits(programs, both, data, codebooks)
    if num_labels:  # their program scores the label too, log C
        both_parts = -np.asarray(programs.log_weights(prior, nothing, test, 1)).mean()
        nats = float(both_parts) - math.log(num_labels)
        told["labelled_bits"] = nats / (math.log(2) * math.prod(data.x_shape))
    return told


def attach(
    recipe: Recipe,
    ppl: str,
    pair: tuple[Any, Any],
    prior: Any,
    codebooks: Mapping[str, np.ndarray],
    settings: PriorSettings,
) -> tuple[Recipe, tuple[Any, Any]]:
    """(recipe, pair) with the learned prior in the uniform one's place, all weights kept.

    Args:
        recipe: of the pair.
        prior: a `CodePrior`, or for two maps a `CodePrior2`, trained.
        codebooks: {site: (K, d)}, whose codes it was trained on.
        settings: its size.

    Raises:
        UsageError: the pair has another codebook, or maps of other sides.
    """
    programs = room(ppl)
    _check_codes(programs, pair, prior, codebooks)
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
        name.replace("model.net.", "model.prior."): value
        for name, value in programs.state(prior, None).items()
    }
    priors = ("model.prior.", "model.priors.")
    kept = {n: v for n, v in programs.state(*pair).items() if not n.startswith(priors)}
    programs.load_state(*both, {**kept, **learned})
    return recipe, both


def _check_codes(
    programs: Any, pair: tuple[Any, Any], prior: Any, codebooks: Mapping[str, np.ndarray]
) -> None:
    """UsageError where a prior is not one of the pair's codes."""
    own = {site: programs.codebook_of(pair[0], site) for site in pair[1].sites}
    if own.keys() != codebooks.keys() or not all(
        np.array_equal(own[site], codebooks[site]) for site in own
    ):
        raise UsageError(
            "prior: trained on the codes of another codebook: train one on this model's codes "
            "(ppl-vae prior RUN)"
        )
    sides, came = (tuple(shape[1:]) for shape in (pair[1].sites["z1"], prior.x_shape))
    if came != sides:
        raise UsageError(
            f"prior: expected maps of {sides}, came one of {came}: train one on this model's codes "
            "(ppl-vae prior RUN)"
        )


def _recipe(
    settings: PriorSettings,
    training: TrainingSettings,
    codebooks: Mapping[str, np.ndarray],
    num_labels: int,
) -> Recipe:
    names = ("net", "layers", "channels", "kernel_size")
    sizes = {**{name: getattr(settings, name) for name in names}, "labels": num_labels}
    program, num_codes = code_stage.STAGES[tuple(sorted(codebooks))], len(codebooks["z1"])
    return Recipe(
        name="codes",
        description="Autoregressive prior over the codes of a run (ppl-vae prior)",
        data=DataSettings("codes"),
        model=ClassSettings(program, {"codes": num_codes, **sizes}),
        guide=ClassSettings("NoLatentsGuide"),
        training=training,
    )


def _begun(
    folder: Path, stage: Recipe, ppl: str, line: str, about: dict[str, Any], resume: bool
) -> Run:
    """The prior's own run: new, or the one that was stopped."""
    from ppl_vae import experiment
    from ppl_vae.runs import Run

    if not (resume and (folder / "run.json").exists()):
        return Run.create(folder, stage.to_dict(), ppl, line, **about)
    run = Run.open(folder)
    for key in recipes.differences(Recipe.from_dict(run.recipe), stage):
        if key != "training.epochs":
            raise UsageError(
                f"{key}: cannot change with --resume, training.epochs alone may: leave it as it "
                "was, or train into another folder"
            )
    if run.ppl != ppl or run.about["codebooks"] != about["codebooks"]:
        raise UsageError(
            f"{folder}: begun on the codes of another codebook: leave --resume out, and train into "
            "another folder"
        )
    experiment.check_goes_on(run, stage)
    with run.at_work():
        run.write_recipe(stage.to_dict())
    return run


def _fit(
    programs: Any,
    prior: Any,
    nothing: Any,
    maps: np.ndarray,
    valid: np.ndarray,
    own: Run,
    resume: bool,
    training: TrainingSettings,
) -> Any:
    try:
        return programs.fit(
            prior, nothing, maps, valid=valid, run=own, resume=resume, **asdict(training)
        )
    except KeyboardInterrupt as stop:
        again = "the same command with --resume goes on from the last checkpoint"
        raise KeyboardInterrupt(f"stopped; {again}") from stop


def _names(settings: type) -> list[str]:
    return [field.name for field in fields(settings)]
