"""Recipes: one published experiment a YAML file, typed, checked and written back with every run.

A recipe says what data, which model and guide, which objective, how to train and how to evaluate;
it is the same for both PPLs. `read` takes a name from the clone's `recipes/` folder or a path, and
overrides as the command line's `--set` gives them. Whatever is wrong is a `UsageError` of one line
that names the key.
"""

from __future__ import annotations

__all__ = [
    "RECIPES",
    "ClassSettings",
    "DataSettings",
    "EvaluationSettings",
    "Recipe",
    "differences",
    "names",
    "override",
    "parse_override",
    "parse_sweep",
    "read",
]

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from ppl_vae.errors import UsageError, nearest
from ppl_vae.settings import ObjectiveSettings, TrainingSettings
from ppl_vae.typed import checked_arguments, find_class

RECIPES = Path(__file__).resolve().parent.parent / "recipes"

GIVEN = {"model": ("x_shape", "rngs"), "guide": ("model", "rngs")}
"""Constructor arguments that come from the data, the model and the seed, not from a recipe."""


@dataclass(frozen=True)
class DataSettings:
    """Arguments of `ppl_vae.data.load`.

    Args:
        name: one of `ppl_vae.data.names()`.
        binarization: "none", "dynamic" (drawn anew at every use) or "static".
        valid: images held out from the end of the training split; 0 for none.
        path: a folder of images or a .npy / .npz file, for the sets of one's own.
        seed: of what is drawn once: the binarisation of validation and test images.
        image_size: side that the images of a folder are brought to.
    """

    name: str
    binarization: Literal["none", "dynamic", "static"] = "none"
    valid: int = 0
    path: str | None = None
    seed: int = 0
    image_size: int | None = None


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
            found, self.init_args, f"{kind}.init_args", skip=GIVEN[kind]
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

    def to_yaml(self) -> str:
        """The whole recipe as YAML text."""
        return yaml.safe_dump(
            self.to_dict(), sort_keys=False, default_flow_style=None, allow_unicode=True
        )


def names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, or in that file, with `a.b=c` overrides in place."""
    path = _find(str(name_or_path))
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML: {_reason(error)}") from error
    try:
        return Recipe.from_dict(override(tree, map(parse_override, overrides)))
    except UsageError as error:
        raise UsageError(f"recipe {name_or_path}: {error}") from error


def override(tree: Any, changes: Iterable[tuple[str, Any]]) -> Any:
    """A copy of a recipe's tree with (dotted key, value) changes in place."""
    tree = copy.deepcopy(tree)
    for key, value in changes:
        _check_key(key)
        *parents, last = key.split(".")
        branch = tree
        for parent in parents:
            if isinstance(branch, dict):
                branch[parent] = {} if branch.get(parent) is None else branch[parent]
                branch = branch[parent]
        if not isinstance(branch, dict):
            raise UsageError(f"{key}: cannot be set: the recipe has {branch!r} above it")
        branch[last] = value
    return tree


def parse_override(text: str) -> tuple[str, Any]:
    """`a.b=c` as (dotted key, value in YAML's types).

    >>> parse_override("training.epochs=50")
    ('training.epochs', 50)
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: expected key=value, such as training.epochs=50")
    return key.strip(), _yaml_value(f"--set {text}", value)


def parse_sweep(texts: Sequence[str]) -> list[list[tuple[str, Any]]]:
    """Every combination of `a.b=c,d` texts, as lists of (dotted key, value).

    >>> parse_sweep(["training.seed=0,1", "objective.beta=4"])
    [[('training.seed', 0), ('objective.beta', 4)], [('training.seed', 1), ('objective.beta', 4)]]
    """
    axes = []
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise UsageError(f"--sweep {text}: expected key=v1,v2, such as training.seed=0,1,2")
        choices = _yaml_value(f"--sweep {text}", f"[{values}]")
        axes.append([(key.strip(), choice) for choice in choices])
    return [list(chosen) for chosen in itertools.product(*axes)]


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Dotted keys in which two recipes differ."""
    left, right = _leaves(old.to_dict()), _leaves(new.to_dict())
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"recipe {name}: no such file: give a recipe's name or a YAML file")
        return path
    path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"recipe {name!r} is unknown: {nearest(name, names())}")
    return path


def _section(key: str, value: Any) -> Any:
    taker = SECTIONS[key]
    if taker is ClassSettings and isinstance(value, str):
        value = {"class_path": value}
    return taker(**checked_arguments(taker, value, key))


def _check_key(key: str) -> None:
    """Refuse a dotted key that no recipe has; the nearest may stand in another section."""
    section, *below = key.split(".")
    known = [entry.name for entry in fields(Recipe)]
    inside = {name: [entry.name for entry in fields(taker)] for name, taker in SECTIONS.items()}
    if section in inside and below:
        if below[0] not in inside[section]:
            raise UsageError(f"{key}: unknown key: {nearest(below[0], inside[section])}")
    elif section not in known or below:
        last = key.rpartition(".")[2]
        elsewhere = [f"{name}.{last}" for name, keys in inside.items() if last in keys]
        hint = f"did you mean {elsewhere[0]!r}?" if elsewhere else nearest(section, known)
        raise UsageError(f"{key}: unknown key: {hint}")


def _yaml_value(what: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{what}: the value is not YAML: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The error of a YAML parser in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    return " ".join(str(error).split())


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
