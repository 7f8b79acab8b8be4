"""How a benchmark's command ends: what its user can mend is one line, as in the project's own."""

from __future__ import annotations

__all__ = ["ended"]

import subprocess
import sys
from collections.abc import Callable

from ppl_vae.errors import TrainingError, UsageError


def ended(main: Callable[[], int | None]) -> int:
    """Its exit status; 2 for a UsageError or TrainingError, told on standard error.

    A part that ran in a process of its own has told its own error, and hands on its status.

    >>> def main():
    ...     raise UsageError("--repeats: expected a number above 0, came 0")
    >>> ended(main), ended(lambda: None), ended(lambda: 1)
    (2, 0, 1)
    """
    try:
        return main() or 0
    except (UsageError, TrainingError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        return error.returncode
