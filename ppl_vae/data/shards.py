"""Images too many for memory: written to the cache once, in shards, and mapped into memory since.

    {cache}/{set}/{key}/train-00000.npy, …    uint8, (n, channels, height, width), `SHARD` bytes
    {cache}/{set}/{key}/train.place.json      while it is written: what stands, and what comes next
    {cache}/{set}/{key}/train.json            at last: how many images, in how many shards

A shard gets its name once it is whole, and then only is the place moved on. So what was cut off, by
a lost connection, a full disk or a kill, is never taken for a set, and is gone on with at the shard
it had reached. Several processes that write the same write the same bytes.
"""

from __future__ import annotations

__all__ = ["Files", "Source", "join", "parts", "write"]

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ppl_vae.data.problems import READ_ERRORS, bad_file, one_line
from ppl_vae.data.reading import Joined
from ppl_vae.errors import UsageError

Array: TypeAlias = npt.NDArray[np.uint8]
Shape: TypeAlias = tuple[int, int, int]

SHARD = 2**30  # bytes, at most; each that is mapped holds a file open, of which systems allow 1,024
_UNFINISHED = ".part"
_AGAIN = "delete it, and it is written again"


class Source(Protocol):
    """Images in an order of their own, which can be taken up again."""

    def images(self, place: Any = None) -> Iterator[Array]:
        """Those from a place on, or all."""

    def place(self) -> Any:
        """The place after the last image that was given, as JSON has it."""


class Files:
    """The images of some files, each read when it is asked for.

    Args:
        read: a file's image.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[Path], Array]) -> None:
        self.files, self.read, self._next = files, read, 0

    def images(self, place: Any = None) -> Iterator[Array]:
        for number in range(place or 0, len(self.files)):
            self._next = number + 1
            yield self.read(self.files[number])

    def place(self) -> Any:
        return self._next


def parts(folder: Path, names: Iterable[str]) -> dict[str, Array] | None:
    """{part: its images, which stay on disk}, or None unless all of them are there."""
    files = {name: _files(folder, name) for name in names}
    if not all(files.values()):
        return None
    return {name: join(some) for name, some in files.items()}


def join(files: Sequence[Path]) -> Array:
    """Arrays of .npy files, one behind the other, as one that stays on disk.

    Raises:
        UsageError: a file that is no array, or not like the others.
    """
    found = []
    for file in files:
        try:
            found.append(np.load(file, mmap_mode="r", allow_pickle=False))
        except READ_ERRORS as error:
            raise bad_file(file, "a whole .npy file", error, _AGAIN) from error
    joined: Any = found[0] if len(found) == 1 else Joined(found)
    return joined


def write(folder: Path, sources: Mapping[str, Source], x_shape: Shape) -> dict[str, Array]:
    """Write what is not there yet of each part, image by image, then map all of it.

    Args:
        folder: of the set, in the cache; made if need be.
        sources: {part: where its images come from}; one image in memory at a time.
        x_shape: of each image.

    Raises:
        UsageError: an image of another shape, a part without any, or no room on the disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in sources.items():
            if not _files(folder, name):
                _write_part(folder, name, source, x_shape)
    except OSError as error:
        raise UsageError(
            one_line(
                f"{folder}: expected a place to keep the images in, came {error.strerror or error}"
                ": make room there, or name another folder in PPL_VAE_CACHE"
            )
        ) from error
    found = parts(folder, sources)
    if found is None:
        raise UsageError(f"{folder}: what was just written has gone: leave the cache alone")
    return found


def _files(folder: Path, name: str) -> list[Path]:
    """Of a part that is whole; none otherwise. Earlier versions wrote one file."""
    whole, one = folder / f"{name}.json", folder / f"{name}.npy"
    if whole.is_file():
        files = [_shard(folder, name, i) for i in range(_read(whole)["shards"])]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise bad_file(missing[0], "a shard of this set", "none", f"delete {whole} as well")
        return files
    return [one] if one.is_file() else []


def _write_part(folder: Path, name: str, source: Source, x_shape: Shape) -> None:
    from tqdm.auto import tqdm

    told = folder / f"{name}.place.json"
    now: dict[str, Any] = {"shards": 0, "images": 0, "place": None}
    if told.is_file():
        now = _read(told)
    most = max(1, SHARD // int(np.prod(x_shape)))
    images = iter(tqdm(source.images(now["place"]), name, initial=now["images"], delay=2.0))
    while True:
        file = _shard(folder, name, now["shards"])
        unfinished = file.with_name(f"{file.name}.{os.getpid()}{_UNFINISHED}")
        try:
            count = _write_shard(unfinished, name, islice(images, most), x_shape, now["images"])
            if not count:
                break
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
        now = {
            "shards": now["shards"] + 1, "images": now["images"] + count, "place": source.place(),
        }  # fmt: skip
        _tell(told, now)
    if not now["images"]:
        raise UsageError(f"{name}: expected images, came none: name another source")
    _tell(folder / f"{name}.json", {"shards": now["shards"], "images": now["images"]})
    told.unlink(missing_ok=True)


def _write_shard(
    file: Path, name: str, images: Iterable[Array], x_shape: Shape, before: int
) -> int:
    """Images as a .npy file; how many. `before` stand in the shards before it."""
    count = 0
    with file.open("wb") as stream:
        stream.write(_header(0, x_shape))
        for image in images:
            if image.shape != x_shape or image.dtype != np.uint8:
                raise UsageError(
                    f"{name}: expected images of shape {x_shape}, came {image.shape} as image "
                    f"{before + count}: name another repository, or bring them to that size"
                )
            stream.write(np.ascontiguousarray(image).tobytes())
            count += 1
        stream.seek(0)
        stream.write(_header(count, x_shape))
        stream.flush()
        os.fsync(stream.fileno())
    return count


def _shard(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}-{number:05}.npy"


def _tell(file: Path, what: dict[str, Any]) -> None:
    """Write a small file whole or not at all."""
    unfinished = file.with_name(f"{file.name}.{os.getpid()}{_UNFINISHED}")
    unfinished.write_text(json.dumps(what))
    unfinished.replace(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
        return {**found, "shards": int(found["shards"]), "images": int(found["images"])}
    except READ_ERRORS as error:
        raise bad_file(file, "what stands of a set", error, _AGAIN) from error


def _header(count: int, x_shape: Shape) -> bytes:
    """Of a .npy file; NumPy leaves room for any count, so that it can be put right at the end."""
    buffer = io.BytesIO()
    about: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": (count, *x_shape)}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()
