"""A folder of images of one's own, in any format that Pillow reads.

- `train/` and `test/` in it are taken as they are; a `valid/` beside them goes to the end of the
  training images, so that `valid=<its number>` gives it back.
- Otherwise every image below the folder counts, and a tenth, drawn once and for all, is kept to
  test with.
- Subfolders name the classes, in alphabetical order; images without a subfolder have no labels.
- Images are grey if all of them are, and colour (red, green, blue) otherwise.
- All must have one size, unless `image_size` asks to crop the middle square and rescale it.
"""

from __future__ import annotations

__all__ = ["SOURCE", "read", "read_image", "read_square", "split_files", "square"]

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ppl_vae.data.images import Images, Labels, Source
from ppl_vae.data.problems import READ_ERRORS, bad_file
from ppl_vae.data.splits import split_positions
from ppl_vae.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCE = Source(
    title="A folder of images of one's own",
    url="",
    licence="the user's",
    citation="",
    split="train/ and test/ in it, or nine tenths / one tenth (drawn once)",
    size=None,
    num_levels=None,
    checksum="none: every file is decoded in full",
)

_CAMERA = {"JPEG", "MPO", "TIFF", "WEBP"}
_SIDEWAYS = (5, 6, 7, 8)
_CLUTTER = {"thumbs.db", "desktop.ini"}
_REMEDY = "mend it or take it out of the folder"


def read(path: str | Path | None = None, *, image_size: int | None = None) -> tuple[Images, Images]:
    """Images to train and to test with, with the subfolder as label.

    Args:
        path: the folder.
        image_size: side of the square that images are cropped and rescaled to, pixels; None
            takes them as they are.

    Raises:
        UsageError: no folder, no images, a file that is no image or damaged, different sizes.
    """
    root = _root(path)
    if image_size is not None and (isinstance(image_size, bool) or image_size < 1):
        raise UsageError(f"image_size: expected a number of pixels, 1 or more, came {image_size}")
    train, test = split_files(root)
    inside = [root / part for part in ("train", "valid", "test")] if _has_parts(root) else [root]
    every = _images([*train, *test], _classes(inside, [*train, *test]), image_size)
    return every[: len(train)], every[len(train) :]


def read_image(file: Path, channels: int) -> npt.NDArray[np.uint8]:
    """One picture, decoded in full: (channels, height, width); 1 channel is grey, 3 are colour."""
    return _pixels(file, channels, None)


def read_square(file: Path, side: int, crop: int | None = None) -> npt.NDArray[np.uint8]:
    """One picture in colour as `square` makes it."""
    return square(_decoded(file, 3), side, crop)


def square(image: Image, side: int, crop: int | None = None) -> npt.NDArray[np.uint8]:
    """(3, side, side) of a picture: as it is if it has that size, else its middle, rescaled.

    Args:
        image: decoded.
        side: pixels.
        crop: side of the middle square that is kept, at most; None keeps all that makes a square.
    """
    image = image.convert("RGB")
    if image.size != (side, side):
        image = _middle(image, side, crop)
    return np.asarray(image).transpose(2, 0, 1)


def split_files(root: Path) -> tuple[list[Path], list[Path]]:
    """Files to train and to test with, as `read` takes them, in its order.

    Raises:
        UsageError: no images, or one of `train/` and `test/` alone.
    """
    if not _has_parts(root):
        files = _files(root)
        _require(root, files, 2)
        train, test = split_positions(len(files), max(1, round(len(files) / 10)))
        return [files[i] for i in train], [files[i] for i in test]
    parts = [root / "train", root / "valid", root / "test"]
    found = [_files(part) if part.is_dir() else [] for part in parts]
    _require(parts[0], found[0], 1)
    _require(parts[2], found[2], 1)
    order = split_positions(len(found[0]), 0)[0]  # shuffled, so that its end is a fair sample
    return [found[0][i] for i in order] + found[1], found[2]


def _has_parts(root: Path) -> bool:
    """Whether the user has split the images."""
    has = [(root / part).is_dir() for part in ("train", "test")]
    if any(has) and not all(has):
        raise UsageError(
            f"{root}: expected both train/ and test/ in it or neither, came "
            f"{'train/' if has[0] else 'test/'} alone: add the other, or name the folder inside"
        )
    return all(has)


def _root(path: str | Path | None) -> Path:
    if path is None:
        raise UsageError("path: expected the folder of images, came none: set path (data.path)")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UsageError(
            f"path: expected a folder of images, came {root}, which is no folder: correct it, or "
            "take 'npy' or 'npz' for a file of arrays"
        )
    return root


def _require(root: Path, files: Sequence[Path], least: int) -> None:
    if len(files) < least:
        raise UsageError(
            f"{root}: expected a folder with at least {least} images in it, came {len(files)}: "
            "put images there or correct the path"
        )


def _files(root: Path) -> list[Path]:
    """Every file below `root`, in alphabetical order, without hidden ones."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [
            Path(folder, name)
            for name in names
            if not name.startswith(".") and name.lower() not in _CLUTTER
        ]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _classes(roots: Sequence[Path], files: Sequence[Path]) -> Labels | None:
    """Labels: number of each file's first subfolder, counted over all parts; None without."""
    paths = [_below(roots, file).parts for file in files]
    if any(len(path) == 1 for path in paths):
        return None
    known = {name: i for i, name in enumerate(sorted({path[0] for path in paths}))}
    return np.array([known[path[0]] for path in paths], np.int64)


def _below(roots: Sequence[Path], file: Path) -> Path:
    """A file's path within the one of the roots that holds it."""
    return next(file.relative_to(root) for root in roots if file.is_relative_to(root))


def _images(files: Sequence[Path], labels: Labels | None, image_size: int | None) -> Images:
    """Look at every file's header first, so that a wrong size is found before the work is done."""
    from tqdm.auto import tqdm

    heads = [_head(file) for file in files]
    channels = 3 if any(colour for colour, _ in heads) else 1
    for file, (_, size) in zip(files, heads, strict=True):
        if image_size is None and size != heads[0][1]:
            raise bad_file(
                file,
                f"{heads[0][1][0]} x {heads[0][1][1]} pixels, as in {files[0].name}",
                f"{size[0]} x {size[1]}",
                "rescale it, or set image_size to have all images cropped and rescaled",
            )
    width, height = heads[0][1] if image_size is None else (image_size, image_size)
    images = np.empty((len(files), channels, height, width), np.uint8)
    for i, file in enumerate(tqdm(files, desc="images", delay=2.0)):
        images[i] = _pixels(file, channels, image_size)
    return Images(images, labels)


def _head(file: Path) -> tuple[bool, tuple[int, int]]:
    """Whether an image has colour, and its (width, height)."""
    with _open(file) as image:
        if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
            raise bad_file(file, "8 bits a channel", f"Pillow's mode {image.mode}", _REMEDY)
        colour = image.mode not in ("1", "L", "LA")
        return colour, (image.size[::-1] if _orientation(file, image) in _SIDEWAYS else image.size)


def _orientation(file: Path, image: Image) -> int:
    """How a camera was held, 1 to 8 (5 to 8 on its side); only formats that cameras write."""
    if image.format not in _CAMERA:
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except (*READ_ERRORS, SyntaxError) as error:
        raise bad_file(file, "a whole image", error, _REMEDY) from error


def _pixels(file: Path, channels: int, image_size: int | None) -> npt.NDArray[np.uint8]:
    """Decode one file: (channels, height, width)."""
    image = _decoded(file, channels)
    if image_size is not None:
        image = _middle(image, image_size, None)
    return np.asarray(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)


def _decoded(file: Path, channels: int) -> Image:
    """A whole picture, grey for 1 channel, in colour for 3, as the camera was held."""
    from PIL import ImageOps

    try:
        with _open(file) as opened:
            image = opened if _orientation(file, opened) == 1 else ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                if image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
                    raise bad_file(file, "an opaque image", "transparency", "flatten it first")
                image = image.convert("RGBA").convert("RGB")
            return image.convert("L" if channels == 1 else "RGB")
    except UsageError:
        raise
    except (*READ_ERRORS, SyntaxError) as error:  # SyntaxError is Pillow's word for a broken PNG
        raise bad_file(file, "a whole image", error, _REMEDY) from error


def _middle(image: Image, side: int, crop: int | None) -> Image:
    """The middle square, rescaled; cropped first: what is cut away must not bleed in."""
    from PIL.Image import Resampling

    kept = min(*image.size, crop or min(image.size))
    left, top = (image.width - kept) // 2, (image.height - kept) // 2
    middle = image.crop((left, top, left + kept, top + kept))
    return middle.resize((side, side), Resampling.LANCZOS)


def _open(file: Path) -> Image:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(file)
    except (*READ_ERRORS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise bad_file(file, "an image", error, _REMEDY) from error
