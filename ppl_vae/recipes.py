"""Recipes: one published experiment a YAML file, typed, checked and written back with every run.

A recipe says what data, which model and guide, which objective, how to train and how to evaluate;
it is the same for both PPLs. `read` takes a name from the clone's `recipes/` folder or a path, and
changes as the command line's `--set` gives them. Whatever is wrong is a `UsageError` of one line
that names the key.
"""

from __future__ import annotations

__all__ = [
    "RECIPES",
    "ClassSettings",
    "DataSettings",
    "EvaluationSettings",
    "Recipe",
    "build",
    "changes",
    "description",
    "differences",
    "names",
    "read",
    "told",
    "with_changes",
]

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from ppl_vae.errors import UsageError, nearest
from ppl_vae.overrides import Change, override, reason
from ppl_vae.seeds import check_seed
from ppl_vae.settings import ObjectiveSettings, TrainingSettings
from ppl_vae.typed import FIRST, checked_arguments, find_class, room

WHERE = (  # of training: which of several equal runs it was, and what it ran on
    "seed", "device", "devices", "backend", "threads", "compile", "cuda_graph",
    "sharded_optimizer", "checkpoint_seconds", "checkpoint_steps",
)  # fmt: skip
RECIPES = Path(__file__).resolve().parent.parent / "recipes"


@dataclass(frozen=True)
class DataSettings:
    """Arguments of `ppl_vae.data.load`.

    Args:
        name: one of `ppl_vae.data.names()`.
        binarization: "none", "dynamic" (drawn anew at every use) or "static".
        valid: images held out from the end of the training split; 0 for none.
        path: a folder of images or a .npy / .npz file, for the sets of one's own.
        seed: of what is drawn once: the binarisation of validation and test images.
        image_size: side that the images of a folder are brought to, or sprites drawn at.
        masks: kinds of masks that hide a part of each image, for models that fill it in.
        repository: on the Hugging Face hub, in place of a large colour set's own.
        condition: a vector for each image: "label", or a .npz file of them.
    """

    name: str
    binarization: Literal["none", "dynamic", "static"] = "none"
    valid: int = 0
    path: str | None = None
    seed: int = 0
    image_size: int | None = None
    masks: tuple[str, ...] = ()
    repository: str | None = None
    condition: str | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed, "data.seed")


@dataclass(frozen=True)
class ClassSettings:
    """A class and its arguments.

    Args:
        class_path: a name in models.<ppl> (guides.<ppl>), or a dotted import path.
        init_args: its arguments, but for those that come from the data, the model or the seed.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)

    def resolve(self, kind: Literal["model", "guide"], ppl: str) -> tuple[type, dict[str, Any]]:
        """The class in one PPL and its arguments, checked against its signature."""
        found = find_class(self.class_path, kind, ppl)
        return found, checked_arguments(
            found, self.init_args, f"{kind}.init_args", skip=(FIRST[kind], "rngs")
        )


@dataclass(frozen=True)
class EvaluationSettings:
    """How `ppl-vae evaluate` looks at the run unless told otherwise.

    Args:
        samples: K of the importance-weighted bound L_K.
        images: the first so many of the test split; None takes them all.
    """

    samples: int = 1000
    images: int | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"evaluation.{name}: expected at least 1, came {value}")


SECTIONS: dict[str, type] = {
    "data": DataSettings,
    "model": ClassSettings,
    "guide": ClassSettings,
    "objective": ObjectiveSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
}


@dataclass(frozen=True)
class Recipe:
    """One experiment, checked."""

    name: str
    data: DataSettings
    model: ClassSettings
    guide: ClassSettings
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    description: str = ""
    source: str = "own"

    @classmethod
    def from_dict(cls, tree: Any) -> Self:
        """A recipe from what YAML holds; UsageError names the key that is wrong."""
        if not isinstance(tree, Mapping):
            raise UsageError(f"recipe: expected a mapping of keys to values, came {tree!r}")
        known = [entry.name for entry in fields(cls)]
        parts: dict[str, Any] = {}
        for key, value in tree.items():
            if key not in known:
                raise UsageError(f"{key}: unknown key: {nearest(str(key), known)}")
            parts[key] = _section(key, value) if key in SECTIONS else str(value)
        for key in ("name", "data", "model", "guide"):
            if key not in parts:
                raise UsageError(f"{key}: missing: every recipe has name, data, model and guide")
        return cls(**parts)

    def to_dict(self) -> dict[str, Any]:
        """The whole recipe, defaults spelled out, in YAML's types."""
        tree = asdict(self)
        order = ["name", "description", "source", *SECTIONS]
        return {key: _plain(tree[key]) for key in order}


KEYS = {
    entry.name: [inner.name for inner in fields(SECTIONS[entry.name])]
    if entry.name in SECTIONS
    else []
    for entry in fields(Recipe)
}
"""A recipe's keys and those below them."""


def names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def description(name: str) -> str:
    """What a recipe of the project's says of itself, without checking the rest."""
    return str(yaml.safe_load(_find(name).read_text(encoding="utf-8"))["description"])


def read(name_or_path: str | Path, changes: Iterable[str | Change] = ()) -> Recipe:
    """The recipe of that name, or in that file, with changes in place.

    Args:
        name_or_path: a name in `names()`, or a YAML file.
        changes: `a.b=c` as texts or as (dotted key, value), the later ones winning.

    Raises:
        UsageError: no such recipe, no YAML, or a key or value that is wrong.
    """
    path = _find(str(name_or_path))
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML: {reason(error)}") from error
    try:
        return with_changes(tree, changes)
    except UsageError as error:
        raise UsageError(f"recipe {name_or_path}: {error}") from error


def with_changes(tree: Any, changes: Iterable[str | Change]) -> Recipe:
    """The recipe that YAML holds, with changes in place (see `read`)."""
    return Recipe.from_dict(override(tree, changes, KEYS))


def build(recipe: Recipe | Mapping[str, Any], ppl: str, x_shape: Sequence[int]) -> tuple[Any, Any]:
    """(model, guide) of a recipe in one PPL, with fresh weights from the recipe's seed.

    Args:
        recipe: checked, or as a run's folder has it.
        ppl: "pyro" or "numpyro".
        x_shape: (channels, height, width) of the images.

    Raises:
        UsageError: classes or arguments that are not there or do not fit.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.from_dict(recipe)
    pair: tuple[Any, Any] = room(ppl).build(recipe, tuple(x_shape))
    return pair


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Dotted keys in which two recipes differ."""
    left, right = _leaves(old.to_dict()), _leaves(new.to_dict())
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def changes(recipe: Recipe) -> str:
    """What makes a recipe another setting than the one of its name that comes with the project.

    Its seed, where and how fast it runs, and how it is evaluated are no part of a setting.

    Returns:
        "objective.beta=4, training.epochs=10"; "" for nothing; a digest for a recipe of one's own.

    >>> changes(read("vae-digits", ["objective.beta=4", "training.seed=3"]))
    'objective.beta=4.0'
    """
    leaves = told(recipe)
    if recipe.name not in names():
        text = json.dumps(leaves, sort_keys=True, default=str)
        return f"own, {hashlib.sha256(text.encode()).hexdigest()[:8]}"
    changed = [key for key in differences(read(recipe.name), recipe) if _tells(key)]
    return ", ".join(f"{key}={leaves.get(key, 'left out')}" for key in changed)


def told(recipe: Recipe) -> dict[str, Any]:
    """{dotted key: value} of what makes a recipe a setting; see `changes`."""
    return {key: value for key, value in _leaves(recipe.to_dict()).items() if _tells(key)}


def _tells(key: str) -> bool:
    """Whether a dotted key is a part of a setting."""
    section, _, name = key.partition(".")
    if section in ("name", "description", "source", "evaluation"):
        return False
    return section != "training" or name not in WHERE


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"recipe {name}: no such file: give a recipe's name or a YAML file")
        return path
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        if Path(name).is_file():
            raise UsageError(
                f"recipe {name}: expected a recipe's name or a YAML file, came a file that does "
                "not end in .yaml or .yml: write the recipe into one"
            )
        raise UsageError(f"recipe {name!r} is unknown: {nearest(name, names())}")
    return path


def _section(key: str, value: Any) -> Any:
    taker = SECTIONS[key]
    if taker is ClassSettings and isinstance(value, str):
        value = {"class_path": value}
    return taker(**checked_arguments(taker, value, key))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(entry) for entry in value]
    return value


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return found
