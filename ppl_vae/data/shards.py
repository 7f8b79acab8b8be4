"""Images too many for memory: written once to the cache as .npy, and mapped into memory since.

    {cache}/{set}/{key}/train.npy, test.npy     uint8, (n, channels, height, width)

A part gets its name once it is whole, so that what was cut off is never taken for a set.
"""

from __future__ import annotations

__all__ = ["parts", "write"]

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ppl_vae.data.problems import READ_ERRORS, bad_file, one_line
from ppl_vae.errors import UsageError

_UNFINISHED = ".part"


def parts(folder: Path, names: Iterable[str]) -> dict[str, npt.NDArray[np.uint8]] | None:
    """{part: its images, mapped into memory}, or None unless all of them are there."""
    files = {name: folder / f"{name}.npy" for name in names}
    if not all(file.is_file() for file in files.values()):
        return None
    found = {}
    for name, file in files.items():
        try:
            found[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        except READ_ERRORS as error:
            remedy = "delete it, and it is written again"
            raise bad_file(file, "a whole .npy file", error, remedy) from error
    return found


def write(
    folder: Path,
    streams: Mapping[str, Iterable[npt.NDArray[np.uint8]]],
    x_shape: tuple[int, int, int],
) -> dict[str, npt.NDArray[np.uint8]]:
    """Write each part's images one by one, then map them.

    Args:
        folder: of the set, in the cache; made if need be.
        streams: {part: images of `x_shape`}; read once, one image in memory at a time.

    Raises:
        UsageError: an image of another shape, a part without any, or no room on the disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, images in streams.items():
            file = folder / f"{name}.npy"
            unfinished = file.with_name(f"{file.name}.{os.getpid()}{_UNFINISHED}")
            try:
                _write_one(unfinished, name, images, x_shape)
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            one_line(
                f"{folder}: expected a place to keep the images in, came {error.strerror or error}"
                ": make room there, or name another folder in PPL_VAE_CACHE"
            )
        ) from error
    found = parts(folder, streams)
    if found is None:
        raise UsageError(f"{folder}: what was just written has gone: leave the cache alone")
    return found


def _write_one(
    file: Path, name: str, images: Iterable[npt.NDArray[np.uint8]], x_shape: tuple[int, int, int]
) -> None:
    from tqdm.auto import tqdm

    count = 0
    with file.open("wb") as stream:
        stream.write(_header(0, x_shape))
        for image in tqdm(images, desc=name, delay=2.0):
            if image.shape != x_shape or image.dtype != np.uint8:
                raise UsageError(
                    f"{name}: expected images of shape {x_shape}, came {image.shape} as image "
                    f"{count}: name another repository, or bring them to that size"
                )
            stream.write(np.ascontiguousarray(image).tobytes())
            count += 1
        if not count:
            raise UsageError(f"{name}: expected images, came none: name another source")
        stream.seek(0)
        stream.write(_header(count, x_shape))


def _header(count: int, x_shape: tuple[int, int, int]) -> bytes:
    """Of a .npy file; NumPy leaves room for any count, so that it can be put right at the end."""
    buffer = io.BytesIO()
    about: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": (count, *x_shape)}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()
