"""What YAML names and holds, checked against the classes that will take it."""

from __future__ import annotations

__all__ = ["checked_arguments", "find_class", "room", "zoo"]

import ast
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from ppl_vae.errors import UsageError, nearest

FIRST = {"model": "x_shape", "guide": "model"}
"""Argument that every class of a kind takes first."""

NEEDS = {"pyro": ("torch", "pyro"), "numpyro": ("jax", "flax", "optax", "numpyro")}


def room(ppl: str) -> ModuleType:
    """`ppl_vae.pyro` or `ppl_vae.numpyro`, imported now; UsageError where it cannot run."""
    if ppl not in NEEDS:
        raise UsageError(f"ppl: unknown {ppl!r}: {nearest(ppl, NEEDS)}")
    try:
        return importlib.import_module(f"ppl_vae.{ppl}")
    except ModuleNotFoundError as error:
        if error.name not in NEEDS[ppl]:
            raise
        raise UsageError(
            f"ppl: {ppl} needs {error.name}, which is not installed: install the project with its "
            "dependencies (pip install -c constraints.txt -e .), or take the other PPL"
        ) from error


def find_class(class_path: str, kind: Literal["model", "guide"], ppl: str) -> type:
    """The class that a recipe's `class_path` names.

    Args:
        class_path: a bare name is looked up in models.<ppl> or guides.<ppl>; a dotted one is
            imported, the current folder being the last place that is looked at.
        kind: "model" or "guide": which of the two packages, and what an error calls it.
        ppl: "pyro" or "numpyro".

    Raises:
        UsageError: no such module or class, with the nearest match.
    """
    module_name, _, name = class_path.rpartition(".")
    if module_name:
        module = _user_module(module_name, f"{kind}.class_path")
    else:
        room(ppl)
        module = importlib.import_module(f"{kind}s.{ppl}")
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        known = _classes(module)
        hint = nearest(name, known)
        raise UsageError(f"{kind}.class_path: no class {name!r} in {module.__name__}: {hint}")
    first = FIRST[kind]
    parameters = inspect.signature(found).parameters.values()
    if not any(p.name == first or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise UsageError(
            f"{kind}.class_path: {name} takes no {first!r}: a {kind} is built as "
            f"{name}({first}, **init_args)"
        )
    return found


def zoo(kind: Literal["model", "guide"]) -> list[str]:
    """Names of the classes that come with the project, the same in both PPLs, without an import."""
    package = importlib.util.find_spec(f"{kind}s")
    if package is None or package.submodule_search_locations is None:
        raise UsageError(
            f"{kind}s: not found: install the project from its clone (pip install -e .)"
        )
    init = Path(package.submodule_search_locations[0]) / "pyro" / "__init__.py"
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value))
    return []


def checked_arguments(
    taker: type, given: Any, key: str, *, skip: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments in `given`, each in the type that the constructor of `taker` states.

    Args:
        taker: a class; arguments of base classes that it passes on through `**kwargs` count.
        given: what YAML has: a mapping of names to values, or None for no arguments.
        key: where it stands in the recipe, for errors.
        skip: arguments that are not a recipe's to set.

    Raises:
        UsageError: an unknown name (with the nearest match), a missing or an ill-typed value.
    """
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise UsageError(f"{key}: expected a mapping of names to values, came {given!r}")
    parser, known, hints = _class_parser(taker, frozenset(skip))
    checked = {}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"{key}.{name}: unknown key: {nearest(str(name), known)}")
        checked[name] = _checked(value, hints.get(name, Any), f"{key}.{name}")
    try:
        parser.parse_object(checked)
    except ArgumentError as error:  # each value is right by itself: what is left is a missing one
        raise UsageError(f"{key}: {' '.join(str(error).split())}") from error
    return checked


def _user_module(name: str, key: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the user's module was found, and something that it imports is missing
        raise UsageError(
            f"{key}: no module {name!r}: run from the folder that holds it, "
            "or put that folder on PYTHONPATH"
        ) from error


def _classes(module: ModuleType) -> list[str]:
    """Names of the classes that a module offers, or of its own where it does not say."""
    classes = dict(inspect.getmembers(module, inspect.isclass))
    told = getattr(module, "__all__", None)
    if told:
        return [name for name in told if name in classes]
    return [name for name, found in classes.items() if found.__module__ == module.__name__]


@cache
def _class_parser(
    taker: type, skip: frozenset[str]
) -> tuple[ArgumentParser, list[str], dict[str, Any]]:
    """(parser, names, types) of a constructor's arguments, read from its source once."""
    parser = ArgumentParser(exit_on_error=False)
    known = parser.add_class_arguments(taker, skip=set(skip), fail_untyped=False)
    return parser, list(known), _hints(taker)


def _hints(taker: type) -> dict[str, Any]:
    """Types of the arguments by name; what cannot be resolved is left out and takes any value."""
    hints: dict[str, Any] = {}
    for base in reversed(taker.__mro__[:-1]):
        if "__init__" in vars(base):
            try:
                hints |= get_type_hints(vars(base)["__init__"])
            except (NameError, TypeError):
                continue
    return hints


def _checked(value: Any, hint: Any, key: str) -> Any:
    if get_origin(hint) is Literal and value not in get_args(hint):
        known = [str(choice) for choice in get_args(hint)]
        raise UsageError(f"{key}: unknown {value!r}: {nearest(str(value), known)}")
    if value is None:  # jsonargparse takes None for "not given"
        if hint is Any or NoneType in get_args(hint):
            return None
        raise UsageError(f"{key}: expected {_spelled(hint)}, came null")
    try:
        return _value_parser(hint, repr(hint)).parse_object({"value": value}).value
    except ArgumentError as error:
        raise UsageError(f"{key}: expected {_spelled(hint)}, came {value!r}") from error


@cache
def _value_parser(hint: Any, spelled: str) -> ArgumentParser:
    """By its spelling too: int | float equals float | int, and takes 1 for another number."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _spelled(hint: Any) -> str:
    """A type as a user of YAML would put it.

    >>> _spelled(float | None), _spelled(tuple[int, ...])
    ('float or null', 'a list of int, such as [a, b]')
    """
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_spelled(part) for part in get_args(hint))
    if hint is NoneType:
        return "null"
    if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
        return f"a list of {_spelled(get_args(hint)[0])}, such as [a, b]"
    if inspect.isclass(hint) and not get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")
