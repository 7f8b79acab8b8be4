"""Errors that a user can act on: one line each, with the way out."""

from __future__ import annotations

__all__ = ["TrainingError", "UsageError", "nearest"]

import difflib
from collections.abc import Iterable

WHOLE, SHOWN = 60, 12  # known names: a list up to so many is told, of a longer one so many


class UsageError(ValueError):
    """A mistake in what was asked for; the message is one line that says what to do.

    The command line prints it and exits with status 2.
    """


class TrainingError(RuntimeError):
    """Training that cannot go on (NaN, memory, too many skipped steps), with advice in one line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Ending of an error about an unknown `name`: the nearest match, then what is known.

    >>> nearest("lvae-digit", ["lvae-digits", "vae-mnist"])
    "did you mean 'lvae-digits'? Known: lvae-digits, vae-mnist"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    shown = names if len(names) <= WHOLE else names[:SHOWN]
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return f"{hint}Known: {', '.join(shown) or 'none'}{more}"
