"""Which weights share a power iteration, and where its vectors begin; the same in both PPLs."""

from __future__ import annotations

__all__ = ["FIRST", "STEPS", "Groups", "groups", "initial"]

from collections.abc import Mapping

import numpy as np

FIRST = 40  # iterations before the first step's value is taken
STEPS = 4  # iterations a step
EPS = 1e-3  # least length that a vector is divided by

Groups = dict[tuple[int, int], list[str]]


def groups(shapes: Mapping[str, tuple[int, int]]) -> Groups:
    """{(rows, columns): names} of weights as matrices, in a fixed order."""
    found: Groups = {}
    for name in sorted(shapes):
        found.setdefault(shapes[name], []).append(name)
    return dict(sorted(found.items()))


def initial(of: Groups, seed: int) -> dict[str, np.ndarray]:
    """Standard normal {"u.RxC": (k, R), "v.RxC": (k, C)} for the k weights of each shape."""
    rng = np.random.default_rng(seed)
    found = {}
    for (rows, columns), names in of.items():
        found[f"u.{rows}x{columns}"] = rng.standard_normal((len(names), rows))
        found[f"v.{rows}x{columns}"] = rng.standard_normal((len(names), columns))
    return found
