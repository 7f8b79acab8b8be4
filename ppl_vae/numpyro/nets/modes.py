"""Modules of one's own that do something else in training than in evaluation."""

from __future__ import annotations

__all__ = ["Moded"]

from flax import nnx


class Moded(nnx.Module):
    """A module that `set_mode` and `quiet` switch, as they do batch norm and dropout.

    Attributes:
        use_running_average: True in evaluation.
    """

    use_running_average: bool = False
