"""What benchmarks' commands share: their end, their numbers, and where their results go."""

from __future__ import annotations

__all__ = ["ended", "number", "place"]

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ppl_vae.errors import TrainingError, UsageError


def ended(main: Callable[[], int | None], on_cpu: bool = False) -> int:
    """Its exit status; 2 for a UsageError or TrainingError, told on standard error in one line.

    A part that ran in a process of its own has told its own error, and hands on its status.

    Args:
        main: the command.
        on_cpu: it measures the CPU: both libraries see no other device, in its parts neither.

    >>> def main():
    ...     raise UsageError("--out: expected a file, came a folder")
    >>> ended(main), ended(lambda: None), ended(lambda: 1)
    (2, 0, 1)
    """
    if on_cpu:
        os.environ.update(CUDA_VISIBLE_DEVICES="", JAX_PLATFORMS="cpu")
        if "jax" in sys.modules:  # which has read its variables already
            sys.modules["jax"].config.update("jax_platforms", "cpu")
    try:
        return main() or 0
    except (UsageError, TrainingError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 2


def number(text: str) -> int:
    """A whole number of at least 1, for argparse.

    >>> number("12")
    12
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, came {text!r}")
    return int(text)


def place(out: Path | None, results: Path, whole: bool) -> Path | None:
    """Where a command writes: where it is told to, or a whole run into the project's results.

    >>> place(None, Path("results.json"), whole=False)
    """
    if out is None and not whole:
        print(f"a part: kept if --out says where ({results.name} has whole runs)", file=sys.stderr)
        return None
    return out or results
