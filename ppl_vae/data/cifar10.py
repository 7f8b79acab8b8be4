"""CIFAR-10: 50,000 and 10,000 colour images of 32 x 32 in ten classes (Krizhevsky 2009).

The binary version, which needs no pickle: each image is one byte of label and 3,072 of pixels, red,
green, blue, in row order. The page publishes the archive's md5. A folder of one's own may hold the
archive or what unpacks from it, `cifar-10-batches-bin`.
"""

from __future__ import annotations

__all__ = ["SOURCE", "read"]

import hashlib
import tarfile
from pathlib import Path

import numpy as np

from ppl_vae.data.fetching import LocalFile, RemoteFile, fetch, find
from ppl_vae.data.images import Images, Source
from ppl_vae.data.problems import READ_ERRORS, bad_file

SOURCE = Source(
    title="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; the page asks for the citation",
    citation="Krizhevsky 2009, Learning multiple layers of features from tiny images",
    split="50,000 / 10,000 (the author's)",
    size=(3, 32, 32),
    num_levels=256,
    checksum="md5 (the author)",
)

_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_FILE = RemoteFile(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    f"md5:{_MD5}",
)
_FOLDER = "cifar-10-batches-bin"
_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = "test_batch.bin"
_BATCH = 10_000
_RECORD = 1 + 3 * 32 * 32


def read(path: str | Path | None = None) -> tuple[Images, Images]:
    """Colour images to train and to test with, with the class as label."""
    batches = {name: _read_unpacked(name, path) for name in (*_TRAIN, _TEST)}
    if any(batch is None for batch in batches.values()):
        file = fetch("cifar10", _FILE, path=path)
        contents = _unpack(file)
        whole = {name: _decode(file, name, content) for name, content in contents.items()}
    else:
        whole = {name: batch for name, batch in batches.items() if batch is not None}
    records = np.concatenate([whole[name] for name in _TRAIN])
    return _images(records), _images(whole[_TEST])


def _read_unpacked(name: str, path: str | Path | None) -> np.ndarray | None:
    file = find("cifar10", [f"{_FOLDER}/{name}", name], path=path)
    return None if file is None else _decode(file, name, file.path.read_bytes())


def _unpack(file: LocalFile) -> dict[str, bytes]:
    """The batches in the archive, by name; nothing is written."""
    came = hashlib.md5(file.path.read_bytes(), usedforsecurity=False).hexdigest()
    if came != _MD5:
        raise bad_file(file.path, f"the archive of md5 {_MD5}", came, file.remedy)
    contents = {}
    try:
        with tarfile.open(file.path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if name in (*_TRAIN, _TEST) and (stream := archive.extractfile(member)):
                    contents[name] = stream.read()
    except READ_ERRORS as error:
        raise bad_file(file.path, "a gzipped tar archive", error, file.remedy) from error
    for name in (*_TRAIN, _TEST):
        if name not in contents:
            raise bad_file(file.path, f"{_FOLDER}/{name} in it", "none", file.remedy)
    return contents


def _decode(file: LocalFile, name: str, content: bytes) -> np.ndarray:
    """(10,000, 3,073) bytes: label and pixels."""
    if len(content) != _BATCH * _RECORD:
        raise bad_file(
            file.path, f"{_BATCH * _RECORD:,} bytes of {name}", f"{len(content):,}", file.remedy
        )
    records = np.frombuffer(content, np.uint8).reshape(_BATCH, _RECORD)
    if records[:, 0].max() > 9:
        raise bad_file(file.path, f"labels 0 to 9 in {name}", int(records[:, 0].max()), file.remedy)
    return records


def _images(records: np.ndarray) -> Images:
    pixels = np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32)
    return Images(pixels, records[:, 0].astype(np.int64))
