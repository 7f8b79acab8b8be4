"""A vector for each image of a set: its label one-hot, or one of the user's (of a caption, say).

A file of vectors is .npz with arrays `train` and `test`, (n, d) numbers in the order of the images;
images held out from the end of the training ones have theirs at the end of `train`, or in `valid`.
"""

from __future__ import annotations

__all__ = ["conditioned", "one_hot", "read_vector"]

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae.data.images import Dataset, Images
from ppl_vae.data.problems import READ_ERRORS, bad_file
from ppl_vae.errors import UsageError


def conditioned(data: Dataset, condition: str | Path) -> Dataset:
    """The set with a vector for each image; see `ppl_vae.data.load`.

    Raises:
        UsageError: images without labels; or no such file, another number of rows, no numbers.
    """
    parts = {"train": data.train, "valid": data.valid, "test": data.test}
    given = {name: images for name, images in parts.items() if images is not None}
    if condition == "label":
        vectors = _of_labels(data.name, given)
    else:
        vectors = _of_file(Path(condition).expanduser(), given)
    told: dict[str, Any] = {name: given[name].with_vectors(vectors[name]) for name in given}
    return replace(data, **told)


def one_hot(labels: Any, num_labels: int, argument: str = "label") -> Any:
    """(n, num_labels) float32 of labels (n,).

    Raises:
        UsageError: a label that is none of 0 to num_labels - 1.

    >>> one_hot([2, 0], 3).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    labels = np.asarray(labels, np.int64)
    if labels.min() < 0 or labels.max() >= num_labels:
        wrong = labels[(labels < 0) | (labels >= num_labels)][0]
        raise UsageError(f"{argument}: expected 0 to {num_labels - 1}, came {wrong}")
    return np.eye(num_labels, dtype=np.float32)[labels]


def read_vector(path: str | Path, size: int) -> Any:
    """(1, size) float32 from a .npy file of so many numbers.

    Raises:
        UsageError: no such file, no array of numbers, or another size.
    """
    place = Path(path)
    try:
        found = np.load(place, allow_pickle=False)
    except READ_ERRORS as error:
        raise bad_file(place, "a .npy array", error, "write one with numpy.save") from error
    fits = isinstance(found, np.ndarray) and found.size == size
    if not fits or not np.issubdtype(found.dtype, np.number):
        raise bad_file(
            place,
            f"a vector of {size} numbers, as the run was trained with",
            f"{found.dtype} of shape {found.shape}" if hasattr(found, "dtype") else "an archive",
            "take one of the same kind",
        )
    return found.reshape(1, size).astype(np.float32)


def _of_labels(name: str, given: dict[str, Images]) -> dict[str, Any]:
    labels = {part: images.labels for part, images in given.items()}
    if any(of_part is None for of_part in labels.values()):
        raise UsageError(
            f"condition: expected labelled images, {name!r} has none: give a .npz file of vectors"
        )
    top = int(max(np.max(of_part) for of_part in labels.values() if of_part is not None))
    return {part: one_hot(of_part, top + 1, "labels") for part, of_part in labels.items()}


def _of_file(place: Path, given: dict[str, Images]) -> dict[str, Any]:
    try:
        with np.load(place, allow_pickle=False) as arrays:
            found = {part: arrays[part] for part in ("train", "valid", "test") if part in arrays}
    except (*READ_ERRORS, AttributeError) as error:
        raise bad_file(
            place, "'label', or a .npz file of vectors", error, "write one with numpy.savez"
        ) from error
    missing = [part for part in ("train", "test") if part not in found]
    if missing:
        raise bad_file(place, "arrays train and test", f"no {missing[0]}", "put both into it")
    if "valid" in given and "valid" not in found:
        held = len(given["valid"])
        found["valid"], found["train"] = found["train"][-held:], found["train"][:-held]
    widths = {part: found[part].shape[1:] for part in given}
    if len(set(widths.values())) > 1:
        raise bad_file(place, "vectors of one size", widths, "make them alike")
    return found
