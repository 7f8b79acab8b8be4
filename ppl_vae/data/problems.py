"""Complaints about files: one line with the file, what was expected, what came and the way out."""

from __future__ import annotations

__all__ = ["READ_ERRORS", "bad_file", "one_line"]

import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

from ppl_vae.errors import UsageError

# What a damaged archive or array file makes its reader raise.
READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    NotImplementedError,
    MemoryError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)


def bad_file(path: Path, expected: str, came: object, remedy: str) -> UsageError:
    """The error to raise about the file at `path`; `came` may be an exception."""
    return UsageError(one_line(f"{path}: expected {expected}, came {_say(came)}: {remedy}"))


def one_line(text: str) -> str:
    """`text` with every run of white space as one space."""
    return " ".join(text.split())


def _say(came: object) -> str:
    if isinstance(came, BaseException):
        return f"an unreadable file ({type(came).__name__}: {came})"
    return str(came)
