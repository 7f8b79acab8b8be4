"""The IDX format of the MNIST family: a big-endian header, then bytes in row order.

Header: two zero bytes, 0x08 for unsigned bytes, the number of dimensions, then each dimension as
four bytes. Described on the MNIST page (LeCun, Cortes & Burges). Files may be gzipped.
"""

from __future__ import annotations

__all__ = ["read_idx", "read_split"]

import gzip
import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppl_vae.data.fetching import LocalFile, RemoteFile, fetch
from ppl_vae.data.images import Images
from ppl_vae.data.problems import READ_ERRORS, bad_file

_HEADER = 4


def read_split(
    folder: str,
    images: RemoteFile,
    labels: RemoteFile,
    count: int,
    *,
    path: str | Path | None,
    contents: Mapping[str, str] | None = None,
) -> Images:
    """Read 28 x 28 images and their labels, ten classes, found or downloaded.

    Args:
        folder: the set's folder.
        images: the gzipped file of images.
        labels: the gzipped file of labels.
        count: how many there must be.
        path: the user's folder, or None.
        contents: SHA-256 of the uncompressed files by name without ".gz", where published.
    """
    pixels, _ = _find_and_read(folder, images, (count, 28, 28), path, contents or {})
    classes, file = _find_and_read(folder, labels, (count,), path, contents or {})
    if classes.max() > 9:
        raise bad_file(file.path, "labels 0 to 9", int(classes.max()), file.remedy)
    return Images(pixels[:, None], classes.astype(np.int64))


def read_idx(
    file: LocalFile, shape: tuple[int, ...], sha256: str | None = None
) -> npt.NDArray[np.uint8]:
    """Read unsigned bytes of the given shape, gzipped or not.

    Args:
        file: where it is.
        shape: what the header must say.
        sha256: of the uncompressed file; checked where given.

    Raises:
        UsageError: damaged, cut off, another shape, or another content.
    """
    content = _uncompressed(file)
    if content[:2] != b"\0\0" or content[2:3] != b"\x08":
        raise bad_file(
            file.path,
            "an IDX file of unsigned bytes",
            f"{content[:4].hex() or 'nothing'} at its beginning",
            file.remedy,
        )
    start = _HEADER + 4 * content[3]
    if len(content) < start:
        raise bad_file(file.path, f"a header of {start} bytes", len(content), file.remedy)
    came = struct.unpack(f">{content[3]}I", content[_HEADER:start])
    if came != shape:
        raise bad_file(file.path, f"an array of shape {shape}", came, file.remedy)
    expected = start + int(np.prod(shape))
    if len(content) != expected:
        raise bad_file(file.path, f"{expected:,} bytes", f"{len(content):,}", file.remedy)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise bad_file(
            file.path,
            f"content of SHA-256 {sha256}",
            hashlib.sha256(content).hexdigest(),
            file.remedy,
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _find_and_read(
    folder: str,
    file: RemoteFile,
    shape: tuple[int, ...],
    path: str | Path | None,
    contents: Mapping[str, str],
) -> tuple[npt.NDArray[np.uint8], LocalFile]:
    plain = file.name.removesuffix(".gz")
    found = fetch(folder, file, path=path, alternatives=(plain,))
    return read_idx(found, shape, contents.get(plain)), found


def _uncompressed(file: LocalFile) -> bytes:
    try:
        content = file.path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except READ_ERRORS as error:
        raise bad_file(file.path, "a whole file", error, file.remedy) from error
