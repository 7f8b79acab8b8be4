"""Changes to a recipe from the command line: `--set a.b=c` and `--sweep a.b=c,d`."""

from __future__ import annotations

__all__ = ["Change", "override", "parse_override", "parse_sweep", "reason"]

import copy
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import yaml

from ppl_vae.errors import UsageError, nearest

Change: TypeAlias = tuple[str, Any]
"""A dotted key and its new value."""


def override(
    tree: Any, changes: Iterable[str | Change], known: Mapping[str, Collection[str]]
) -> Any:
    """A copy of a recipe's tree with changes in place.

    Args:
        tree: what YAML holds.
        changes: `a.b=c` as texts or as (dotted key, value), the later ones winning.
        known: {top key: the keys below it}.

    Raises:
        UsageError: a key that is not known, with the nearest match.
    """
    tree = copy.deepcopy(tree)
    for change in changes:
        key, value = parse_override(change) if isinstance(change, str) else change
        _check_key(key, known)
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


def parse_override(text: str) -> Change:
    """`a.b=c` as (dotted key, value in YAML's types).

    >>> parse_override("training.epochs=50")
    ('training.epochs', 50)
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: expected key=value, such as training.epochs=50")
    return key.strip(), _yaml_value(f"--set {text}", value)


def parse_sweep(texts: Sequence[str]) -> list[list[Change]]:
    """Every combination of `a.b=c,d` texts, as lists of (dotted key, value).

    >>> parse_sweep(["training.seed=0,1", "objective.beta=4"])
    [[('training.seed', 0), ('objective.beta', 4)], [('training.seed', 1), ('objective.beta', 4)]]
    """
    axes: list[list[Change]] = []
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise UsageError(f"--sweep {text}: expected key=v1,v2, such as training.seed=0,1,2")
        choices = _yaml_value(f"--sweep {text}", f"[{values}]")
        again = [choice for i, choice in enumerate(choices) if choice in choices[:i]]
        if again:
            raise UsageError(
                f"--sweep {text}: expected each value once, came {again[0]!r} twice: leave one out"
            )
        if any(axis[0][0] == key.strip() for axis in axes):
            raise UsageError(
                f"--sweep {text}: expected each key once, came {key.strip()} twice: put all its "
                "values into one --sweep"
            )
        axes.append([(key.strip(), choice) for choice in choices])
    return [list(chosen) for chosen in itertools.product(*axes)]


def _check_key(key: str, known: Mapping[str, Collection[str]]) -> None:
    """Refuse a dotted key that no recipe has; the nearest may stand in another section."""
    top, *below = key.split(".")
    if known.get(top) and below:
        if below[0] not in known[top]:
            raise UsageError(f"{key}: unknown key: {nearest(below[0], known[top])}")
    elif top not in known or below:
        last = key.rpartition(".")[2]
        elsewhere = [f"{name}.{last}" for name, keys in known.items() if last in keys]
        hint = f"did you mean {elsewhere[0]!r}?" if elsewhere else nearest(top, known)
        raise UsageError(f"{key}: unknown key: {hint}")


def _yaml_value(what: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{what}: the value is not YAML: {reason(error)}") from error


def reason(error: Exception) -> str:
    """The error of a YAML parser in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    return " ".join(str(error).split())
