"""MNIST, in grey and in Larochelle's fixed binarisation.

Grey (LeCun, Cortes & Burges 1998): 60,000 and 10,000 images of 28 x 28. `valid=10000` holds out the
last 10,000 of the first.

Static (Larochelle & Murray 2011, after Salakhutdinov & Murray 2008): 50,000 / 10,000 / 10,000
images of 0 and 1 in an order of their own and without labels. Its validation images stand at the
end of the training images here, so that `valid=10000` gives the published split and `valid=0`
trains with all 60,000. Its test file is sorted by digit, zeros first, which are harder than the
rest; the order here is a permutation of it, the same each time, so that the first n are a sample of
all.

Checksums: torchvision publishes the md5 of the gzipped IDX files; the SHA-256 of the uncompressed
files holds copies that were gzipped anew. TensorFlow Datasets publishes the SHA-256 of
Larochelle's text files; the packed copy, `binarized_mnist.npz`, is written out as that text and
held to the same.
"""

from __future__ import annotations

__all__ = ["SOURCE", "STATIC_SOURCE", "read", "read_static"]

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppl_vae.data.fetching import LocalFile, RemoteFile, fetch, find
from ppl_vae.data.idx import read_split
from ppl_vae.data.images import Images, Source
from ppl_vae.data.problems import READ_ERRORS, bad_file

SOURCE = Source(
    title="MNIST",
    url="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio & Haffner 1998, Gradient-based learning applied to document "
    "recognition",
    split="60,000 / 10,000 (the authors')",
    size=(1, 28, 28),
    num_levels=256,
    checksum="md5 (torchvision); SHA-256 of the uncompressed files",
)
STATIC_SOURCE = Source(
    title="MNIST, fixed binarisation",
    url="http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    licence="CC BY-SA 3.0, as MNIST",
    citation="Larochelle & Murray 2011, The neural autoregressive distribution estimator",
    split="60,000 / 10,000, of the first the last 10,000 to validate with (the authors')",
    size=(1, 28, 28),
    num_levels=2,
    checksum="SHA-256 (TensorFlow Datasets)",
)

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_CONTENTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_FILES = {
    name: RemoteFile(name, tuple(mirror + name for mirror in _MIRRORS), f"md5:{md5}")
    for name, md5 in _MD5.items()
}
_SPLITS = {"train": 50_000, "valid": 10_000, "test": 10_000}
_TEXTS = {
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
_PIXELS = 28 * 28


def read(path: str | Path | None = None) -> tuple[Images, Images]:
    """Grey images to train and to test with, with the digit as label."""
    parts = [
        read_split(
            "mnist",
            _FILES[f"{part}-images-idx3-ubyte.gz"],
            _FILES[f"{part}-labels-idx1-ubyte.gz"],
            count,
            path=path,
            contents=_CONTENTS,
        )
        for part, count in (("train", 60_000), ("t10k", 10_000))
    ]
    return parts[0], parts[1]


def read_static(path: str | Path | None = None) -> tuple[Images, Images]:
    """Images of 0 and 1 to train (validation images last) and to test with, no labels."""
    packed = find("static_mnist", ["binarized_mnist.npz"], path=path)
    splits = _read_texts(path) if packed is None else _read_packed(packed)
    train = np.concatenate([splits["train"], splits["valid"]])
    test = splits["test"][np.random.RandomState(1).permutation(len(splits["test"]))]
    return Images(train, binarization="static"), Images(test, binarization="static")


def _read_packed(file: LocalFile) -> dict[str, npt.NDArray[np.uint8]]:
    """Eight pixels to a byte, `numpy.packbits` along each image."""
    splits = {}
    for split, count in _SPLITS.items():
        try:
            with file.path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                rows = archive[split]
        except READ_ERRORS as error:
            raise bad_file(file.path, f"an array {split!r}", error, file.remedy) from error
        if rows.shape != (count, _PIXELS // 8) or rows.dtype != np.uint8:
            raise bad_file(
                file.path,
                f"{split!r} as uint8 of shape {(count, _PIXELS // 8)}",
                f"{rows.dtype} of shape {rows.shape}",
                file.remedy,
            )
        pixels = np.unpackbits(rows, axis=1)
        _check_text(file, _as_text(pixels), split)
        splits[split] = pixels.reshape(count, 1, 28, 28)
    return splits


def _read_texts(path: str | Path | None) -> dict[str, npt.NDArray[np.uint8]]:
    """One image a line: 784 digits with a space between them."""
    splits = {}
    for split, count in _SPLITS.items():
        name = f"binarized_mnist_{split}.amat"
        remote = RemoteFile(name, (STATIC_SOURCE.url + name,), f"sha256:{_TEXTS[split]}")
        file = fetch("static_mnist", remote, path=path)
        text = file.path.read_bytes()
        _check_text(file, text, split)
        pixels = np.frombuffer(text, np.uint8).reshape(count, 2 * _PIXELS)[:, ::2] - ord("0")
        splits[split] = pixels.reshape(count, 1, 28, 28)
    return splits


def _as_text(pixels: npt.NDArray[np.uint8]) -> bytes:
    text = np.full((len(pixels), 2 * _PIXELS), ord(" "), np.uint8)
    text[:, ::2] = pixels + ord("0")
    text[:, -1] = ord("\n")
    return text.tobytes()


def _check_text(file: LocalFile, text: bytes, split: str) -> None:
    came = hashlib.sha256(text).hexdigest()
    if came != _TEXTS[split]:
        raise bad_file(
            file.path, f"Larochelle's {split} images, SHA-256 {_TEXTS[split]}", came, file.remedy
        )
