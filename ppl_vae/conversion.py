"""`ppl-vae convert`: an authors' checkpoint becomes a run, which `evaluate` and the rest take."""

from __future__ import annotations

__all__ = ["convert"]

import importlib
import shlex
import sys
from argparse import Namespace
from typing import Any

from ppl_vae import published
from ppl_vae.errors import UsageError, nearest
from ppl_vae.typed import room


def convert(args: Namespace) -> None:
    """Write the run `args.out` from `args.checkpoint` of the kind `args.kind`."""
    from ppl_vae.runs import Checkpoint, Run

    if args.kind not in KINDS:
        raise UsageError(f"convert: unknown {args.kind!r}: {nearest(args.kind, KINDS)}")
    if (args.out / "run.json").exists():
        raise UsageError(f"{args.out}: holds a run already: name another folder")
    recipe, pair = KINDS[args.kind](args.checkpoint, args.ppl)
    run = Run.create(
        args.out,
        recipe.to_dict(),
        args.ppl,
        shlex.join(["ppl-vae", *sys.argv[1:]]),
        x_shape=[*pair[0].x_shape],
        converted_from=str(args.checkpoint),
    )
    run.save(Checkpoint({"weights": room(args.ppl).state(*pair)}, {"epoch": 0, "step": 0}))
    print(f"{run.path}: {recipe.description}, images {tuple(pair[0].x_shape)}")


def _nvae(checkpoint: Any, ppl: str) -> tuple[Any, tuple[Any, Any]]:
    room("pyro")  # the checkpoint is a torch file, whichever PPL it is for
    read = importlib.import_module("ppl_vae.pyro.checkpoints").read_nvae
    state_dict, settings = read(checkpoint)
    pair = published.nvae(state_dict, settings, ppl)
    return published.nvae_recipe(state_dict, settings)[0], pair


KINDS = {"nvae": _nvae}
"""Readers by the model that a checkpoint is of: (recipe, (model, guide))."""
