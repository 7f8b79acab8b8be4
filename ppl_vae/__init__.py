"""Hierarchical variational autoencoders as probabilistic programs, in Pyro and in NumPyro."""

from __future__ import annotations

__all__ = ["load"]

from typing import Any


def __getattr__(name: str) -> Any:
    """`ppl_vae.load`, imported when asked for: the command line answers without it."""
    if name == "load":
        from ppl_vae.runs import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
