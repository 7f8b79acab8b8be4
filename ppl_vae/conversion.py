"""`ppl-vae convert`: an authors' checkpoint becomes a run, which `evaluate` and the rest take."""

from __future__ import annotations

__all__ = ["convert"]

import importlib
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ppl_vae import published
from ppl_vae.errors import UsageError, nearest
from ppl_vae.published_vdvae import SOURCES, vdvae, vdvae_arrays, vdvae_config, vdvae_recipe
from ppl_vae.recipes import Recipe
from ppl_vae.typed import room

Converted: TypeAlias = tuple[Recipe, tuple[Any, Any], dict[str, dict[str, np.ndarray]]]


def convert(args: Namespace) -> None:
    """Write the run `args.out` from `args.checkpoint` of the kind `args.kind`."""
    from ppl_vae.runs import Checkpoint, Run

    if args.kind not in KINDS:
        raise UsageError(f"convert: unknown {args.kind!r}: {nearest(args.kind, KINDS)}")
    if (args.out / "run.json").exists():
        raise UsageError(f"{args.out}: holds a run already: name another folder")
    recipe, pair, files = KINDS[args.kind](args)
    if args.data is not None:
        recipe = replace(recipe, data=replace(recipe.data, path=str(args.data)))
    run = Run.create(
        args.out,
        recipe.to_dict(),
        args.ppl,
        shlex.join(["ppl-vae", *sys.argv[1:]]),
        x_shape=[*pair[0].x_shape],
        converted_from=str(args.checkpoint),
    )
    run.save(Checkpoint(files, {"epoch": 0, "step": 0}))
    print(f"{run.path}: {recipe.description}, images {tuple(pair[0].x_shape)}")


def _nvae(args: Namespace) -> Converted:
    for name in ("config", "ema"):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name}: NVAE's checkpoints have all that there is: leave it out")
    state_dict, settings = _reader("read_nvae")(args.checkpoint)
    pair = published.nvae(state_dict, settings, args.ppl)
    files = {"weights": room(args.ppl).state(*pair)}
    return published.nvae_recipe(state_dict, settings)[0], pair, files


def _vdvae(args: Namespace) -> Converted:
    if args.config is None:
        raise UsageError(
            "--config: expected Very Deep VAE's settings, which its checkpoints lack, came none: "
            f"one of {', '.join(SOURCES)}, or a YAML file of the authors' keys"
        )
    config = vdvae_config(args.config)
    recipe, _ = vdvae_recipe(config)
    read = _reader("read_weights")
    pair = vdvae(read(args.checkpoint), config, args.ppl)
    own = room(args.ppl).state(*pair)
    files = {"weights": own}
    if args.ema is not None:
        files["ema"] = vdvae_arrays(read(args.ema), own)
    return recipe, pair, files


def _reader(name: str) -> Callable[[Path], Any]:
    room("pyro")  # checkpoints are torch files, whichever PPL they are for
    found: Callable[[Path], Any] = getattr(
        importlib.import_module("ppl_vae.pyro.checkpoints"), name
    )
    return found


KINDS = {"nvae": _nvae, "vdvae": _vdvae}
"""Readers by the model that a checkpoint is of: (recipe, (model, guide), files of the run)."""
