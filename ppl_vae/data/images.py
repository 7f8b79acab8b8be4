"""Images on the host, their data sets, and where they come from.

Grey values stay uint8 until they reach the device. What a value means is said by
`Images.binarization`, so that nobody downstream has to guess:

- ``"none"``: value / 255 is the grey value in [0, 1];
- ``"dynamic"``: every use draws a fresh 0 or 1 with probability value / 255
  (Salakhutdinov & Murray 2008; Burda et al. 2016);
- ``"static"``: the values are 0 and 1 already.

Images of which a part is missing carry their mask as a last channel, 1 where a pixel is known
(`ppl_vae.data.masks`): stored (`with_masks`), or drawn anew at every use (`with_fresh_masks`).

Images that come with a vector each, such as a label's or a caption's (`with_vectors`), are given to
programs with its numbers as maps, one a number and constant, between image and mask.
"""

from __future__ import annotations

__all__ = ["BINARIZATIONS", "Array", "Dataset", "Factors", "Images", "Labels", "Source"]

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ppl_vae.data.binarization import draw_once
from ppl_vae.errors import UsageError, nearest

Array: TypeAlias = npt.NDArray[np.uint8]
Labels: TypeAlias = npt.NDArray[np.int64]
Vectors: TypeAlias = npt.NDArray[np.float32]
Index: TypeAlias = slice | npt.NDArray[np.integer[Any]]

BINARIZATIONS = ("none", "dynamic", "static")


@dataclass(frozen=True)
class Source:
    """Where a set comes from, and what it is.

    Args:
        title: the set's name in print.
        url: page or folder it is published at.
        licence: what its authors allow, or that they say nothing.
        citation: authors, year, title.
        split: how many images to train and test with, and who split them so.
        size: (channels, height, width), or None where the user's files decide.
        num_levels: grey levels that occur in the original, 2 for binary images; None as above.
        checksum: which checksum holds the download, or what stands in for one.
    """

    title: str
    url: str
    licence: str
    citation: str
    split: str
    size: tuple[int, int, int] | None
    num_levels: int | None
    checksum: str


@dataclass(frozen=True, eq=False)
class Factors:
    """True generative factors of each image, where a set has them.

    Args:
        names: one name per factor.
        classes: (n, factors) int64, index of the value on its grid.
        values: (n, factors) float64, the value itself.
        categorical: names of those whose values have no order, such as shapes.
    """

    names: tuple[str, ...]
    classes: Labels
    values: npt.NDArray[np.float64]
    categorical: tuple[str, ...] = ()

    def __getitem__(self, index: Index) -> Factors:
        return Factors(self.names, self.classes[index], self.values[index], self.categorical)


@dataclass(frozen=True, eq=False)
class Images:
    """Images with the meaning of their values.

    Args:
        images: (n, channels, height, width) uint8; may be a memory map.
        labels: (n,) int64 or None.
        binarization: "none", "dynamic" or "static", see the module's docstring.
        factors: the true factors, for sets that have them.
        masks: (m, 1, height, width) uint8 of 0 and 1: at every use each image takes one of these
            at random as its last channel, 1 where a pixel is known.
        masked: whether the last channel of `images` is such a mask.
        vectors: (n, d) float32 or None, a vector for each image.

    Raises:
        UsageError: wrong shape, type or length, or a static set with values other than 0 and 1.

    >>> grey = Images(np.array([[[[0, 255]]], [[[255, 0]]]], dtype=np.uint8))
    >>> len(grey), grey.x_shape
    (2, (1, 1, 2))
    >>> grey.fixed(seed=0).images.tolist()
    [[[[0, 1]]], [[[1, 0]]]]
    """

    images: Array
    labels: Labels | None = None
    binarization: Literal["none", "dynamic", "static"] = "none"
    factors: Factors | None = None
    masks: Array | None = None
    masked: bool = False
    vectors: Vectors | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise UsageError(
                "images: expected uint8 of shape (n, channels, height, width), came "
                f"{self.images.dtype} of shape {self.images.shape}: give 8-bit grey values, with "
                "channels=1 for grey images"
            )
        if self.binarization not in BINARIZATIONS:
            hint = nearest(str(self.binarization), BINARIZATIONS)
            raise UsageError(f"binarization: no such way, {self.binarization!r}: {hint}")
        if self.labels is not None and self.labels.shape != (len(self.images),):
            raise UsageError(
                f"labels: expected shape ({len(self.images)},), one for each image, came "
                f"{self.labels.shape}: leave them out or give one for each"
            )
        if self.binarization == "static" and self.images.size and self.images.max() > 1:
            raise UsageError(
                f"images: expected values 0 and 1 for binarization 'static', came "
                f"{self.images.max()}: use .fixed(seed) to draw them from grey values"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a datum, those of vector and mask among them."""
        _, channels, height, width = self.images.shape
        return channels + self.condition + (self.masks is not None), height, width

    @property
    def condition(self) -> int:
        """Numbers of an image's vector; 0 without."""
        return 0 if self.vectors is None else self.vectors.shape[1]

    @property
    def stored(self) -> Array:
        """(n, c + p, h, w): `images`, and behind them the bytes of each one's vector, if any."""
        if self.vectors is None:
            return self.images
        n, _, height, width = self.images.shape
        raw = np.ascontiguousarray(self.vectors).view(np.uint8)
        planes = -(-raw.shape[1] // (height * width))
        packed = np.zeros((n, planes * height * width), np.uint8)
        packed[:, : raw.shape[1]] = raw
        return np.concatenate([self.images, packed.reshape(n, planes, height, width)], axis=1)

    @property
    def pixels(self) -> Array:
        """The images (n, c, h, w) without a mask."""
        return self.images[:, :-1] if self.masked else self.images

    @property
    def num_dims(self) -> float:
        """Numbers that a likelihood scores in an image; under masks the mean of missing ones."""
        _, channels, height, width = self.pixels.shape
        every = float(channels * height * width)
        if self.masked:
            return every * float((self.images[:, -1] == 0).mean())
        return every if self.masks is None else every * float((self.masks == 0).mean())

    def with_masks(self, masks: Array) -> Images:
        """The images with a mask each, (n, 1, height, width) of 0 and 1, as their last channel."""
        self._check_masks(masks, len(self))
        top = 1 if self.binarization == "static" else 255
        stored = np.concatenate([self.images, masks * np.uint8(top)], axis=1)
        return replace(self, images=stored, masked=True)

    def with_fresh_masks(self, masks: Array) -> Images:
        """The images, each with one of `masks` at random at every use."""
        self._check_masks(masks, None)
        return replace(self, masks=masks)

    def with_vectors(self, vectors: Any) -> Images:
        """The images with a vector each, (n, d) finite numbers."""
        given = np.asarray(vectors)
        numbers = given.ndim == 2 and np.issubdtype(given.dtype, np.number)
        if not numbers or len(given) != len(self) or not given.shape[1]:
            raise UsageError(
                f"vectors: expected numbers of shape ({len(self)}, d), one row an image, came "
                f"{given.dtype} of shape {given.shape}"
            )
        if not np.isfinite(given).all():
            first = int(np.argwhere(~np.isfinite(given))[0][0])
            raise UsageError(f"vectors: NaN or infinity in row {first}: repair it")
        return replace(self, vectors=given.astype(np.float32))

    def without_masks(self) -> Images:
        """The images alone, and their vectors."""
        return replace(self, images=self.pixels, masks=None, masked=False)

    def _check_masks(self, masks: Array, count: int | None) -> None:
        height, width = self.images.shape[2:]
        wanted = (len(masks) if count is None else count, 1, height, width)
        if masks.shape != wanted or masks.dtype != np.uint8 or not len(masks) or masks.max() > 1:
            raise UsageError(
                f"masks: expected uint8 of shape ({'m' if count is None else count}, 1, {height}, "
                f"{width}) of 0 and 1, came {masks.dtype} of shape {masks.shape}: give 1 where a "
                "pixel is known, 0 where it is missing"
            )
        if self.masked or self.masks is not None:
            raise UsageError("masks: these images have masks already: take those without")

    def __getitem__(self, index: Index) -> Images:
        """The images at a slice (a view) or at an array of positions (a copy)."""
        return Images(
            self.images[index],
            None if self.labels is None else self.labels[index],
            self.binarization,
            None if self.factors is None else self.factors[index],
            self.masks,
            self.masked,
            None if self.vectors is None else self.vectors[index],
        )

    def take(self, n: int) -> Images:
        """The first `n` images."""
        if not 0 < n <= len(self):
            raise UsageError(f"images: expected 1 to {len(self)}, came {n}: ask for fewer")
        return self[:n]

    def fixed(self, seed: int = 0) -> Images:
        """The same images with 0 and 1 drawn once with probability value / 255.

        The draw of an image depends on `seed` and its position alone: the first n images get the
        same draw whatever n, and both PPLs the same. A static set is returned as it is.
        """
        if self.binarization == "static":
            return self
        return replace(self, images=draw_once(self.images, seed), binarization="static")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train with, to choose by and to judge by.

    Args:
        name: what `load` knows it by.
        train: training images.
        valid: images held out from the end of the training images, or None.
        test: test images.
        about: where they come from.
    """

    name: str
    train: Images
    valid: Images | None
    test: Images
    about: Source

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.train.x_shape
