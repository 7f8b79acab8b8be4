r"""Degrees of a masked autoencoder (Germain et al. 2015, MADE, section 3).

Inputs have the degrees 1 … D in their order, context the degree 0; output d has degree d - 1. A
unit sees those below it whose degree is not above its own, so output d depends on inputs before d
and on the context alone.
"""

from __future__ import annotations

__all__ = ["degrees", "mask"]

from collections.abc import Sequence

import numpy as np


def degrees(
    size: int,
    num_context: int,
    hidden: Sequence[int],
    num_outputs: int,
    reverse: bool = False,
) -> tuple[tuple[int, ...], ...]:
    """Degrees of each layer's units: inputs and context, hidden layers, outputs.

    Args:
        size: D, inputs.
        num_context: units that everything may see, after the inputs.
        hidden: widths; their degrees are spread over 0 … D - 1.
        num_outputs: outputs of each input, in blocks of D.
        reverse: the last input comes first.

    >>> degrees(3, 1, (6,), 2)
    ((1, 2, 3, 0), (0, 0, 1, 1, 2, 2), (0, 1, 2, 0, 1, 2))
    """
    order = [int(d) for d in (range(size, 0, -1) if reverse else range(1, size + 1))]
    inside = [tuple(unit * size // width for unit in range(width)) for width in hidden]
    return (*order, *(0,) * num_context), *inside, tuple(d - 1 for d in order) * num_outputs


def mask(below: Sequence[int], above: Sequence[int]) -> np.ndarray:
    """1 where a unit above sees one below, (above, below), torch's layout of weights."""
    return (np.array(below)[None] <= np.array(above)[:, None]).astype(np.float64)
