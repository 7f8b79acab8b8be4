"""The beta sweep as one of the papers' tables: a row for each beta_norm, over seeds.

`work` and `stands` are what those of `ppl_vae.studying` are. OUT/models holds one file a model;
once all are there, OUT/beta_sweep.json and OUT/beta-sweep.png are written besides.
"""

from __future__ import annotations

__all__ = ["STUDY", "stands", "work"]

import time
from typing import Any

from benchmarks.beta_report import Piece, write
from benchmarks.beta_sweep import BETAS, kept, swept
from ppl_vae import standing
from ppl_vae.errors import TrainingError, UsageError
from ppl_vae.runs import UNKNOWN
from ppl_vae.standing import Standing
from ppl_vae.studies import Member, Study
from ppl_vae.studying import Asked

PICTURE = "beta-sweep.png"
STUDY = Study(
    name="beta-sweep",
    description=(
        "Disentanglement of a beta-VAE on the project's own sprites against beta_norm, each metric "
        "1 at best; log p(x given z) and KL in nats per image. Metrics and their chance levels: "
        "docs/disentanglement.md."
    ),
    source="own, after Higgins et al. 2017, section 4.2; no paper has these sprites",
    recipe="beta-vae-sprites",
    members={f"{beta:g}": {"set": {"objective.beta_norm": beta}} for beta in BETAS},
    seeds=[0, 1, 2, 3, 4],
    columns={
        "Higgins": "scores.higgins",
        "FactorVAE": "scores.factor_vae",
        "MIG": "scores.mig",
        "SAP": "scores.sap",
        "DCI D": "scores.dci_disentanglement",
        "DCI C": "scores.dci_completeness",
        "DCI I": "scores.dci_informativeness",
        "log p(x given z)": "log_likelihood",
        "KL": "kl",
        "active units": "active_units",
        "epochs": "epochs",
        "of": "full_epochs",
    },
)


def work(asked: Asked, minutes: float | None = None, jobs: int = 1) -> Standing:
    """Train what is missing, one model after another whatever `jobs` says, and write the table."""
    until = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    grid, out = [member.recipe for member in asked.members], asked.out
    try:
        pieces = swept(grid, asked.ppl, out / "models", until)
    except (UsageError, TrainingError):
        if (found := stands(asked)).told:
            standing.write(found, out, {}, ())
        raise
    whole = len(pieces) == len(grid)
    if whole:
        write(pieces, out / "beta_sweep.json", out / PICTURE)
    found = stands(asked)
    standing.write(found, out, {}, [PICTURE] if whole else ())
    return found


def stands(asked: Asked) -> Standing:
    """What the folder has of the sweep already, with nothing trained."""
    told = {}
    for member in asked.members:
        try:
            piece = kept(member.recipe, asked.ppl, asked.out / "models")
        except UsageError:  # of something else
            continue
        if piece is not None:
            told[member.folder] = _told(piece, member)
    return Standing(asked.study, asked.members, told, {}, asked.command)


def _told(piece: Piece, member: Member) -> dict[str, Any]:
    """A model as a study tells of its runs."""
    data = member.recipe.data
    return {
        "member": member.name, "seed": member.seed, "ppl": piece["ppl"], "weights": "last",
        "data": data.name, "binarisation": data.binarization, "split": "test",
        "num_images": piece.get("num_images"), "device": piece.get("device", UNKNOWN),
        "epochs": member.recipe.training.epochs, "full_epochs": member.full_epochs,
        "hours": piece.get("hours"),
        **{key: piece[key] for key in ("scores", "log_likelihood", "kl", "active_units")},
    }  # fmt: skip
