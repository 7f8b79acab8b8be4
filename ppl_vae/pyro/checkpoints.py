"""Authors' checkpoints, read without running what a pickle may hold."""

from __future__ import annotations

__all__ = ["read_nvae", "read_weights"]

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ppl_vae.errors import UsageError

Global = Callable[..., Any] | tuple[Callable[..., Any], str]

SCALAR: Any = np.float64(0).__reduce__()[0]

ALLOWED: list[Global] = [
    argparse.Namespace,
    (SCALAR, "numpy.core.multiarray.scalar"),  # as NumPy 1 wrote it
    (SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.BoolDType,
    np.dtypes.Int64DType,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
]
"""What a checkpoint may hold beside tensors and Python's own types."""


def read_nvae(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(state_dict as arrays, settings) of one of NVAE's checkpoints.

    Args:
        path: a torch file of a mapping with `state_dict` and, under any key, the
            `argparse.Namespace` of its training.

    Raises:
        UsageError: no such file, not a torch file, something in it that is not allowed, or
            one of the two missing.
    """
    held = _load(path)
    state_dict = held.get("state_dict") if isinstance(held, dict) else None
    if not isinstance(state_dict, dict):
        raise UsageError(f"{path}: expected a mapping with 'state_dict', which is not in it")
    settings = [vars(v) for v in held.values() if isinstance(v, argparse.Namespace)]
    if len(settings) != 1:
        raise UsageError(
            f"{path}: expected one argparse Namespace beside 'state_dict', came {len(settings)}: "
            "take the checkpoint as the authors' training wrote it"
        )
    return {key: value.cpu().numpy() for key, value in state_dict.items()}, settings[0]


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a torch file that holds a `state_dict` and nothing else.

    Raises:
        UsageError: no such file, not a torch file, or something in it that is no weight.
    """
    held = _load(path)
    if not isinstance(held, dict) or not all(isinstance(v, torch.Tensor) for v in held.values()):
        raise UsageError(f"{path}: expected a state_dict, weights by name, came something else")
    return {str(key): value.cpu().numpy() for key, value in held.items()}


def _load(path: str | os.PathLike[str]) -> Any:
    if not os.path.isfile(path):
        raise UsageError(f"{path}: no such file: name a checkpoint that you have downloaded")
    try:
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise UsageError(
            f"{path}: not a torch file of weights and settings alone ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    """What torch says, in few words: the global that is not allowed, where there is one.

    >>> _reason(RuntimeError("Weights only load failed. Unsupported global: GLOBAL os.system was"))
    'it holds os.system'
    """
    _, _, found = " ".join(str(error).split()).partition("GLOBAL ")
    return f"it holds {found.split()[0]}" if found else "damaged, or something else"
