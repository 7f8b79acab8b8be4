"""What the command line's verbs do; each takes the parsed arguments of `ppl_vae.cli`."""

from __future__ import annotations

__all__ = ["compare", "evaluate", "list", "reconstruct", "sample", "train"]

import argparse
import builtins
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae import recipes
from ppl_vae.errors import UsageError
from ppl_vae.recipes import Recipe
from ppl_vae.typed import zoo

if TYPE_CHECKING:
    from ppl_vae.data import Dataset, Images
    from ppl_vae.runs import Run


def list(args: argparse.Namespace) -> None:
    """Print what there is to train and on what."""
    from ppl_vae import data

    print("Recipes (ppl-vae train NAME):")
    for name in recipes.names():
        print(f"  {name:18} {recipes.read(name).description}")
    print("\nData sets (data.name in a recipe):")
    for name in data.names():
        print(f"  {name:18} {data.source(name).title}; {data.source(name).split}")
    for kind in ("model", "guide"):
        print(f"\n{kind.capitalize()}s ({kind}.class_path in a recipe, in both PPLs):")
        print(f"  {', '.join(zoo(kind))}")


def train(args: argparse.Namespace) -> None:
    """Train one run, or one for each combination of a sweep."""
    if args.resume and args.out is None:
        raise UsageError("--resume: expected the run to go on with, came none: add --out RUN")
    if args.recipe is None and not args.resume:
        raise UsageError("train: expected a recipe, came none: name one (see ppl-vae list)")
    sweep = recipes.parse_sweep(args.sweep)
    out = args.out or Path("runs") / Path(args.recipe).stem
    for chosen in sweep:
        overrides = ...
