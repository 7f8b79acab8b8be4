"""How good a trained pair is: checks, each from the programs to numbers, words and pictures.

A check is a module with three names: `NAME`, under which the command line, evaluation.nc and the
JSON know it; `Settings`, a frozen dataclass of numbers with defaults; and

    judge(subject: Subject, settings: Settings) -> Finding

It asks the pair through the PPL's room (`subject.programs`), hands arrays to `evaluation`, and
imports neither PPL.
"""

from __future__ import annotations

__all__ = ["CHECKS", "Finding", "Subject", "check"]

import importlib
from types import ModuleType

from ppl_vae.errors import UsageError, nearest
from ppl_vae.judging.subject import Finding, Subject

CHECKS: dict[str, str] = {
    "disentanglement": "which unit holds which true factor: six metrics (sprites, dsprites)",
    "inpainting": "how well missing parts are filled in, beside simple fillings (inpaint-*)",
}
"""{name: what it tells} of the checks that `ppl-vae evaluate --check` takes."""


def check(name: str) -> ModuleType:
    """The module of a check; UsageError with the nearest match where there is none."""
    if name not in CHECKS:
        raise UsageError(f"--check: unknown {name!r}: {nearest(name, CHECKS)}")
    return importlib.import_module(f"ppl_vae.judging.{name}")
