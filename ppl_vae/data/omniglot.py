"""OMNIGLOT in Burda's split: 24,345 and 8,070 grey images of 28 x 28, 50 alphabets.

The images of Lake, Salakhutdinov & Tenenbaum (2015), brought to 28 x 28 by Burda, Grosse &
Salakhutdinov (2016), in whose repository `chardata.mat` lies. Values are stored as fractions and
columns first; they are rounded to 1/255 and turned upright here. As in Burda's code the training
images are permuted with seed 123 and validation images come from the end: `valid=1345` is its
split, and every alphabet has its share.

No checksum is published for the file: its arrays' names, shapes and range are checked instead.
"""

from __future__ import annotations

__all__ = ["SOURCE", "read"]

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppl_vae.data.fetching import LocalFile, RemoteFile, fetch
from ppl_vae.data.images import Images, Source
from ppl_vae.data.problems import READ_ERRORS, bad_file

SOURCE = Source(
    title="OMNIGLOT, 28 x 28",
    url="https://github.com/yburda/iwae/tree/master/datasets/OMNIGLOT",
    licence="MIT (OMNIGLOT)",
    citation="Lake, Salakhutdinov & Tenenbaum 2015, Human-level concept learning through "
    "probabilistic program induction; Burda, Grosse & Salakhutdinov 2016, Importance weighted "
    "autoencoders",
    split="24,345 / 8,070 (Burda et al.)",
    size=(1, 28, 28),
    num_levels=256,
    checksum="none published: names, shapes and range are checked",
)

_FILE = RemoteFile(
    "chardata.mat",
    ("https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat",),
    None,
)
_COUNTS = {"": 24_345, "test": 8_070}
_ALPHABETS = 50


def read(path: str | Path | None = None) -> tuple[Images, Images]:
    """Grey images to train and to test with, with the alphabet as label."""
    file = fetch("omniglot", _FILE, path=path)
    arrays = _load(file)
    train, test = (_part(file, arrays, prefix, count) for prefix, count in _COUNTS.items())
    order = np.random.RandomState(123).permutation(len(train))
    return train[order], test


def _load(file: LocalFile) -> dict[str, npt.NDArray[np.float64]]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    names = [prefix + name for prefix in _COUNTS for name in ("data", "target")]
    try:
        arrays = loadmat(file.path, variable_names=names)
    except (*READ_ERRORS, MatReadError) as error:
        raise bad_file(file.path, "a MATLAB file", error, file.remedy) from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise bad_file(
            file.path, f"arrays {', '.join(names)}", f"none called {missing[0]}", file.remedy
        )
    return {name: arrays[name] for name in names}


def _part(
    file: LocalFile, arrays: dict[str, npt.NDArray[np.float64]], prefix: str, count: int
) -> Images:
    values, alphabets = arrays[f"{prefix}data"], arrays[f"{prefix}target"]
    for name, array, rows in (("data", values, 28 * 28), ("target", alphabets, _ALPHABETS)):
        if array.shape != (rows, count) or array.dtype.kind not in "fiub":
            raise bad_file(
                file.path,
                f"{prefix}{name} as numbers of shape {(rows, count)}",
                f"{array.dtype} of shape {array.shape}",
                file.remedy,
            )
    if not (values.min() >= 0 and values.max() <= 1):
        raise bad_file(
            file.path,
            f"{prefix}data in [0, 1]",
            f"values from {values.min()} to {values.max()}",
            file.remedy,
        )
    grey = np.round(values.T * 255.0).astype(np.uint8).reshape(count, 1, 28, 28)
    upright = np.ascontiguousarray(grey.transpose(0, 1, 3, 2))
    return Images(upright, alphabets.argmax(axis=0).astype(np.int64))
