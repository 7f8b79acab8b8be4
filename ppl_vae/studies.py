"""Studies: recipes changed in one respect or another and put side by side, one YAML file a study.

name, description, source   as a recipe's
recipe                      that the members start from, a recipe's name or file
set                         {dotted key: value}, changes of every member
members                     {name: {recipe: …, set: {…}}}; both may be left out
seeds                       training.seed of each member's runs (default: the recipe's own)
checks                      of the evaluation, beside the likelihood
check_settings              {check.key: value}
columns                     {title: dotted place in evaluation.json} of the table; of a list
                            of places the cell is a range, "a … b"; numbers by site are summed
published                   {title: {member: number}} of another's work, which `source` names, a
                            column each; empty for members that have none there
along                       {what the members differ in: {member: its number}}, the horizontal axis
                            of a figure of the columns (along.png); left out: no such figure
"""

from __future__ import annotations

__all__ = ["STUDIES", "Member", "Study", "description", "names", "read"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ppl_vae import recipes
from ppl_vae.errors import UsageError, nearest
from ppl_vae.overrides import Change, parse_override, reason
from ppl_vae.recipes import RECIPES, Recipe
from ppl_vae.typed import checked_arguments

STUDIES = RECIPES / "groups"

COLUMNS: dict[str, str | list[str]] = {
    "L_K": "nll",
    "ELBO": "elbo",
    "bits per dimension": "bits_per_dim",
}


@dataclass(frozen=True)
class Member:
    """One run of a study: a member under one seed.

    Attributes:
        name: of the member.
        seed: training.seed.
        recipe: checked, all changes in place.
        folder: of the run, below the study's.
        full_epochs: of the study's own protocol, of which the recipe may have a share.
        cut: how its data or settings are others, or its evaluation less, than the study's own; ""
            where not.
    """

    name: str
    seed: int
    recipe: Recipe
    folder: str
    full_epochs: int
    cut: str = ""


@dataclass(frozen=True)
class Study:
    """A study as its file has it; see the module's docstring."""

    name: str
    members: dict[str, Any]
    recipe: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] | None = None
    checks: list[str] = field(default_factory=list)
    check_settings: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, str | list[str]] = field(default_factory=lambda: dict(COLUMNS))
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    along: dict[str, dict[str, float]] = field(default_factory=dict)
    description: str = ""
    source: str = "own"

    def __post_init__(self) -> None:
        for title, places in (*self.along.items(), *self.published.items()):
            strangers = [name for name in places if name not in self.members]
            kind = "along" if title in self.along else "published"
            if strangers or len(self.along) > 1:
                raise UsageError(
                    f"{kind}.{title}: expected {'one axis, of ' * (kind == 'along')}numbers for "
                    f"members ({', '.join(self.members)}), came "
                    f"{', '.join(strangers) or 'several axes'}"
                )

    def runs(
        self,
        changes: Iterable[str | Change] = (),
        seeds: Iterable[int] = (),
        share: float = 1.0,
    ) -> list[Member]:
        """Every member under every seed, its recipe checked.

        Args:
            changes: of every member, over the study's own.
            seeds: in the place of the study's.
            share: of each member's epochs, and of all that its recipe counts in epochs.

        Raises:
            UsageError: whatever is wrong, with the member's name.
        """
        last = [parse_override(c) if isinstance(c, str) else c for c in changes]
        chosen: list[int | None] = [*seeds] or [*(self.seeds or ())] or [None]
        again = [seed for i, seed in enumerate(chosen) if seed in chosen[:i]]
        if again:
            raise UsageError(
                f"seeds: expected each one once, came {', '.join(map(str, chosen))}: leave the "
                f"second {again[0]} out"
            )
        return [
            run
            for name, about in self.members.items()
            for run in self._member(str(name), about, last, chosen, share)
        ]

    def _member(
        self, name: str, about: Any, last: list[Change], seeds: list[Any], share: float
    ) -> list[Member]:
        where = f"study {self.name}, member {name}"
        about = {} if about is None else about
        if not isinstance(about, Mapping) or set(about) - {"recipe", "set"}:
            raise UsageError(f"{where}: expected recipe and set, came {about!r}")
        base = about.get("recipe", self.recipe)
        if base is None:
            raise UsageError(f"{where}: recipe: missing: name one here, or for the whole study")
        protocol = [*self.set.items(), *(about.get("set") or {}).items()]
        changes = [*protocol, *last]
        found = []
        for seed in seeds:
            own = [] if seed is None else [("training.seed", seed)]
            try:
                whole = recipes.read(base, [*changes, *own])
                less = shortened(whole, share)
                recipe = recipes.read(base, [*changes, *own, *less]) if less else whole
                full = recipes.read(base, protocol) if last else whole
            except UsageError as error:
                raise UsageError(f"{where}: {error}") from error
            number = recipe.training.seed
            folder = name if len(seeds) == 1 else f"{name}/seed-{number}"
            cuts = (
                _moved(full.data, recipe.data),
                _altered(full, whole),
                _cut(full.evaluation, recipe.evaluation),
            )
            lengths = (full.training.epochs, ", ".join(filter(None, cuts)))
            found.append(Member(name, number, recipe, folder, *lengths))
        return found


def _moved(full: recipes.DataSettings, asked: recipes.DataSettings) -> str:
    """Other images than the study's own, whose published numbers are not of them.

    >>> _moved(recipes.DataSettings("mnist", "static"), recipes.DataSettings("digits", "static"))
    'digits, static binarisation, in the place of mnist, static binarisation'
    """
    there, here = (f"{one.name}, {one.binarization} binarisation" for one in (full, asked))
    return "" if there == here else f"{here}, in the place of {there}"


def _altered(full: Recipe, asked: Recipe) -> str:
    """Settings other than the study's own; data and epochs have words of their own.

    >>> _altered(recipes.read("vae-digits"), recipes.read("vae-digits", ["objective.beta=4"]))
    'objective.beta=4.0 in the place of 1.0'
    """
    there, here = recipes.told(full), recipes.told(asked)
    own = ("data.name", "data.binarization", "training.epochs")
    return ", ".join(
        f"{key}={here.get(key, 'left out')} in the place of {there.get(key, 'none')}"
        for key in recipes.differences(full, asked)
        if key in {**there, **here} and key not in own
    )


def _cut(full: recipes.EvaluationSettings, asked: recipes.EvaluationSettings) -> str:
    """
    >>> _cut(recipes.EvaluationSettings(samples=50), recipes.EvaluationSettings(2, images=9))
    'K = 2 of 50, 9 of all test images'
    """
    parts = []
    if asked.samples < full.samples:
        parts.append(f"K = {asked.samples} of {full.samples}")
    if asked.images is not None and (full.images is None or asked.images < full.images):
        parts.append(f"{asked.images} of {full.images or 'all'} test images")
    return ", ".join(parts)


def shortened(recipe: Recipe, share: float) -> list[Change]:
    """Changes that leave a share of a recipe's epochs, and of what it counts in epochs.

    Raises:
        UsageError: no share of a whole.
    """
    if not 0 < share <= 1:
        raise UsageError(f"--share: expected a number above 0 and at most 1, came {share:g}")
    if share == 1:
        return []
    changes: list[Change] = []
    for section in ("objective", "training"):
        settings = getattr(recipe, section)
        for entry in fields(settings):
            value = getattr(settings, entry.name)
            if not entry.name.endswith("epochs") or not value:
                continue
            whole = entry.name in ("epochs", "decay_epochs")
            least = max(1, round(share * value)) if whole else share * value
            changes.append((f"{section}.{entry.name}", least))
    return changes


def names() -> list[str]:
    """Names of the studies that come with the project."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def description(name: str) -> str:
    """What a study of the project's says of itself."""
    return str(_tree(_find(name))["description"])


def read(name_or_path: str | Path) -> Study:
    """The study of that name, or in that file.

    Raises:
        UsageError: no such study, no YAML, or a key or value that is wrong.
    """
    tree = _tree(_find(str(name_or_path)))
    known = [entry.name for entry in fields(Study)]
    if not isinstance(tree, Mapping):
        raise UsageError(f"study {name_or_path}: expected a mapping of keys to values")
    for key in tree:
        if key not in known:
            raise UsageError(
                f"study {name_or_path}: {key}: unknown key: {nearest(str(key), known)}"
            )
    try:
        study = Study(**checked_arguments(Study, dict(tree), "study"))
    except UsageError as error:
        raise UsageError(f"study {name_or_path}: {error}") from error
    if not study.members:
        raise UsageError(f"study {name_or_path}: members: expected one or more, came none")
    return study


def _tree(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML: {reason(error)}") from error


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"study {name}: no such file: give a study's name or a YAML file")
        return path
    path = STUDIES / f"{name}.yaml"
    if not path.is_file():
        if Path(name).is_file():
            raise UsageError(
                f"study {name}: expected a study's name or a YAML file, came a file that does not "
                "end in .yaml or .yml: write the study into one"
            )
        raise UsageError(f"study {name!r} is unknown: {nearest(name, names())}")
    return path
