"""Arrays of images of one's own: a .npy or .npz file, or a folder with train.npy and test.npy.

Layouts: (n, height, width), (n, channels, height, width) or (n, height, width, channels), with 1
channel or 3. Values: uint8; bool; or floating point in [0, 1], which are rounded to 1/255. uint8
arrays with no value but 0 and 1, and bool arrays, are binary images.

- .npz: arrays `train` and `test`, with `train_labels` and `test_labels` if there are any; a `valid`
  (and `valid_labels`) goes to the end of the training images. Or one array of images, alone or
  called `images`, with `labels`.
- .npy: one array of images.
- a folder: `train.npy` and `test.npy`; uint8 files are mapped into memory, not read, so they may be
  larger than it. Either may be several files of uint8, `train-00000.npy` and so on, one behind the
  other in the order of their names.

A single array is split into nine tenths to train and one tenth to test with, drawn once and for
all. Nothing is unpickled.
"""

from __future__ import annotations

__all__ = ["SOURCE", "read"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ppl_vae.data.images import Images, Source
from ppl_vae.data.problems import READ_ERRORS, bad_file
from ppl_vae.data.reading import Joined
from ppl_vae.data.splits import split_positions
from ppl_vae.errors import UsageError

SOURCE = Source(
    title="Arrays of images of one's own",
    url="",
    licence="the user's",
    citation="",
    split="train and test in it, or nine tenths / one tenth (drawn once)",
    size=None,
    num_levels=None,
    checksum="none: shape, type and range are checked",
)

_ROWS = 1024
_NAMES = ("images", "imgs", "data", "x")


def read(path: str | Path | None = None) -> tuple[Images, Images]:
    """Images to train and to test with.

    Raises:
        UsageError: no such file, damaged, another shape, type or range, NaN.
    """
    place = _place(path)
    arrays = _load_folder(place) if place.is_dir() else _load_file(place)
    if "train" in arrays:
        train = _joined(place, arrays)
        test = _checked(place, "test", arrays["test"], arrays.get("test_labels"))
        if train.x_shape != test.x_shape:
            raise bad_file(
                place,
                f"test images of shape {train.x_shape}, as the training ones",
                test.x_shape,
                "make them alike",
            )
        return _alike(train, test)
    name = _single(place, arrays)
    every = _checked(place, name, arrays[name], arrays.get("labels"))
    if len(every) < 2:
        raise bad_file(place, "at least 2 images", len(every), "give more")
    positions = split_positions(len(every), max(1, round(len(every) / 10)))
    return every[positions[0]], every[positions[1]]


def _place(path: str | Path | None) -> Path:
    if path is None:
        raise UsageError("path: expected a .npy or .npz file, came none: set path (data.path)")
    place = Path(path).expanduser()
    if not place.exists():
        raise UsageError(f"{place}: expected a .npy or .npz file, came none there: correct path")
    return place


def _load_folder(folder: Path) -> dict[str, Any]:
    arrays = {}
    for split in ("train", "test"):
        file = folder / f"{split}.npy"
        several = sorted(folder.glob(f"{split}-*.npy"))
        if several and not file.exists():
            arrays[split] = _load_shards(several)
            continue
        if not file.is_file():
            raise UsageError(
                f"{folder}: expected train.npy and test.npy in this folder, came no {file.name}: "
                "name a .npy or .npz file, or take 'folder' for files of images"
            )
        arrays[split] = _load_file(file)["images"]
    return arrays


def _load_file(file: Path) -> dict[str, Any]:
    """Arrays by name; that of a .npy is "images", and stays on disk."""
    remedy = "write it again with numpy.save or numpy.savez_compressed"
    try:
        with file.open("rb") as stream:
            start = stream.read(6)
            stream.seek(0)
            if start.startswith(b"PK\x03\x04"):
                with np.load(stream, allow_pickle=False) as archive:
                    return {name: archive[name] for name in archive.files}
        if start == b"\x93NUMPY":
            return {"images": np.load(file, mmap_mode="r", allow_pickle=False)}
    except READ_ERRORS as error:
        raise bad_file(file, "a whole .npy or .npz file of numbers", error, remedy) from error
    raise bad_file(file, "a .npy or .npz file", "another format", remedy)


def _load_shards(files: Sequence[Path]) -> Any:
    """Arrays of several files as one that stays on disk, channels first."""
    parts: list[npt.NDArray[np.uint8]] = []
    for file in files:
        part = _channels_first(file, "images", _load_file(file)["images"])
        if part.dtype != np.uint8 or (parts and part.shape[1:] != parts[0].shape[1:]):
            wanted = parts[0].shape[1:] if parts else "any shape"
            raise bad_file(
                file, f"uint8 images of {wanted}, as in {files[0].name}",
                f"{part.dtype} of {part.shape[1:]}", "write all alike, as uint8",
            )  # fmt: skip
        parts.append(part)
    return Joined(parts)


def _single(place: Path, arrays: Mapping[str, Any]) -> str:
    candidates = [name for name in arrays if not name.endswith("labels")]
    for name in (*_NAMES, *(candidates if len(candidates) == 1 else ())):
        if name in arrays and "test" not in arrays:
            return name
    raise bad_file(
        place,
        "arrays 'train' and 'test', or one called 'images'",
        ", ".join(arrays) or "no array",
        "rename them",
    )


def _joined(place: Path, arrays: Mapping[str, Any]) -> Images:
    """Training images, with validation images behind them where there are some."""
    if "test" not in arrays:
        raise bad_file(place, "an array 'test' beside 'train'", ", ".join(arrays), "add one")
    train = _checked(place, "train", arrays["train"], arrays.get("train_labels"))
    if "valid" not in arrays:
        return train
    valid = _checked(place, "valid", arrays["valid"], arrays.get("valid_labels"))
    if train.x_shape != valid.x_shape:
        raise bad_file(
            place,
            f"valid images of shape {train.x_shape}, as the training ones",
            valid.x_shape,
            "make them alike",
        )
    train, valid = _alike(train, valid)
    labels = (
        None
        if train.labels is None or valid.labels is None
        else np.concatenate([train.labels, valid.labels])
    )
    return Images(np.concatenate([train.images, valid.images]), labels, train.binarization)


def _alike(first: Images, second: Images) -> tuple[Images, Images]:
    """Both as grey values if one of them is not binary."""
    if first.binarization == second.binarization:
        return first, second
    return Images(first.images, first.labels), Images(second.images, second.labels)


def _checked(place: Path, name: str, array: Any, labels: Any) -> Images:
    """Images from an array of any layout and type that is allowed."""
    laid_out = _channels_first(place, name, array)
    if labels is not None and (labels.shape != (len(array),) or labels.dtype.kind not in "iu"):
        raise bad_file(
            place,
            f"labels of {name!r} as {len(array)} whole numbers",
            f"{labels.dtype} of shape {labels.shape}",
            "leave them out or give one for each image",
        )
    values = _bytes(place, name, laid_out)
    binary = array.dtype.kind != "f" and bool(values.max() <= 1)
    return Images(
        values,
        None if labels is None else labels.astype(np.int64),
        "static" if binary else "none",
    )


def _channels_first(place: Path, name: str, array: Any) -> Any:
    if 0 in array.shape:
        raise bad_file(place, f"images in {name!r}", f"shape {array.shape}", "give at least one")
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    raise bad_file(
        place,
        f"{name!r} of shape (n, height, width), (n, channels, height, width) or (n, height, width, "
        "channels) with 1 or 3 channels",
        f"shape {array.shape}",
        "reshape it",
    )


def _bytes(place: Path, name: str, array: Any) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype.kind != "f":
        raise bad_file(
            place,
            f"{name!r} as uint8, bool or floating point",
            array.dtype,
            "convert it, grey values 0 to 255 with .astype(numpy.uint8)",
        )
    rounded = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), _ROWS):
        rows = np.asarray(array[start : start + _ROWS], np.float64)
        _check_range(place, name, rows, start)
        rounded[start : start + _ROWS] = np.round(rows * 255.0)
    return rounded


def _check_range(place: Path, name: str, rows: npt.NDArray[np.float64], start: int) -> None:
    wrong = ~((rows >= 0) & (rows <= 1))  # true for NaN too
    if not wrong.any():
        return
    image = int(np.argmax(wrong.reshape(len(rows), -1).any(axis=1)))
    raise bad_file(
        place,
        f"floating-point values of {name!r} in [0, 1]",
        f"{rows[image][wrong[image]][0]} in image {start + image}",
        "clean or rescale them, or give grey values 0 to 255 as uint8",
    )
