"""How good a trained pair is: checks, each from the programs to numbers, words and pictures.

A check is a module with three names: `NAME`, under which the command line, evaluation.nc and the
JSON know it; `Settings`, a frozen dataclass of numbers with defaults; and

    judge(subject: Subject, settings: Settings) -> Finding

and, where it may refuse a subject, `ready(subject, settings)`, which does so before anything long
is begun. It asks the pair through the PPL's room (`subject.programs`), hands arrays to
`evaluation`, and imports neither PPL.
"""

from __future__ import annotations

__all__ = ["CHECKS", "Finding", "Subject", "check"]

import importlib
from types import ModuleType

from ppl_vae.errors import UsageError, nearest
from ppl_vae.judging.subject import Finding, Subject

CHECKS: dict[str, str] = {
    "ladder": "L_K at K = 1, 10, 100, 1000, 5000 …, and where it leads",
    "ais": "log p(x) bounded by annealed importance sampling (also --bound ais)",
    "bdmc": "log p(x) of simulated images between two bounds (also --bound bdmc)",
    "gap": "what the ELBO falls short by: approximation against amortisation",
    "calibration": "ranks of simulated latents under the guide, a verdict for each site",
    "nuts": "the guide's posterior beside that of Markov chains, for a few images",
    "psis": "Pareto k by image, the worst images shown; pixels left out",
    "predictive": "statistics of replicated images against the data's",
    "collapse": "silent units, mutual information I(x; z), what latents cost and save",
    "codes": "discrete latents: perplexity, used codes, and what blank patches leave",
    "disentanglement": "which unit holds which true factor: six metrics (sprites, dsprites)",
    "latents": "active units, views by label, probes, sites redrawn, traversals",
    "frechet": "Fréchet inception distance of samples in colour (weights are yours to supply)",
    "inpainting": "how well missing parts are filled in, beside simple fillings (inpaint-*)",
}
"""{name: what it tells} of the checks that `ppl-vae evaluate --check` takes."""


def check(name: str) -> ModuleType:
    """The module of a check; UsageError with the nearest match where there is none."""
    if name not in CHECKS:
        raise UsageError(f"--check: unknown {name!r}: {nearest(name, CHECKS)}")
    return importlib.import_module(f"ppl_vae.judging.{name}")
