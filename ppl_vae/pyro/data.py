"""Images on the device, and batches of them as the likelihood wants them."""

from __future__ import annotations

__all__ = ["DeviceImages", "as_images", "check_support"]

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ppl_vae.data.images import Images
from ppl_vae.data.reading import on_disk, parts_ahead
from ppl_vae.errors import UsageError


class DeviceImages:
    """Images held on a device as they are stored; `batch` makes them what a likelihood scores.

    Args:
        images: `ppl_vae.data.Images`, or an array (n, c, h, w): floating-point values as they
            are, uint8 as grey values over 255.
        device, dtype: of the batches.
        stream: leave images that are on disk (`ppl_vae.data.reading`) where they are, and bring
            batches to the device as they are asked for.

    Attributes:
        streamed: whether they are so left; `values` are NumPy's then.
    """

    def __init__(
        self, images: Any, device: torch.device, dtype: torch.dtype, stream: bool = False
    ) -> None:
        images = as_images(images)
        raw = images.stored if isinstance(images, Images) else images
        self.binarization = images.binarization if isinstance(images, Images) else "none"
        self.device, self.dtype = device, dtype
        self.streamed = stream and on_disk(raw)
        self.values: Any = raw if self.streamed else self._placed(raw)
        masks = images.masks if isinstance(images, Images) else None
        self.masks = None if masks is None else torch.as_tensor(masks, device=device)
        told = images if isinstance(images, Images) and images.vectors is not None else None
        self.condition = 0 if told is None else told.condition
        self.masked = told is not None and told.masked
        self.channels = 0 if told is None else told.images.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all images as `batch` gives them, those of vector and mask among them."""
        shape = tuple(self.values.shape)
        more = self.channels + self.condition - shape[1] if self.condition else 0
        more += self.masks is not None
        return (shape[0], shape[1] + more, *shape[2:]) if more else shape

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, index: Any) -> Tensor:
        """Images at `index` (a slice or a tensor), dynamic binarisation and masks drawn anew."""
        return self.prepared(self.rows(index))

    def rows(self, index: Any) -> Tensor:
        """Stored values at `index` on the device."""
        if not self.streamed:
            found: Tensor = self.values[index]
            return found
        index = index.cpu().numpy() if isinstance(index, Tensor) else index
        return self._placed(np.array(self.values[index]))

    def rows_ahead(self, places: npt.NDArray[np.int64]) -> Iterator[Tensor]:
        """`rows` of images on disk at each step's places (steps, size), read ahead of their use."""
        for part in parts_ahead(self.values, places):
            yield from self._placed(part)

    def _placed(self, values: Any) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), device=self.device)

    def prepared(self, stored: Tensor) -> Tensor:
        """Stored values as the likelihood wants them, and a mask where they take one."""
        values = self._scored(stored[:, : self.channels] if self.condition else stored)
        if self.condition:
            values = self._with_vectors(values, stored[:, self.channels :])
        if self.masks is None:
            return values
        chosen = torch.randint(len(self.masks), (len(values),), device=values.device)
        return torch.cat([values, self.masks[chosen].to(values.dtype)], 1)

    def _with_vectors(self, values: Tensor, packed: Tensor) -> Tensor:
        """Each image's vector as maps behind it, before its mask (see `Images.stored`)."""
        raw = packed.flatten(1)[:, : 4 * self.condition].contiguous()
        vectors = raw.view(torch.float32).to(values.dtype)
        maps = vectors[:, :, None, None].expand(*vectors.shape, *values.shape[2:])
        at = values.shape[1] - self.masked
        return torch.cat([values[:, :at], maps, values[:, at:]], 1)

    def _scored(self, values: Tensor) -> Tensor:
        """Stored values as the likelihood wants them."""
        if values.is_floating_point():
            return values.to(self.dtype)
        if self.binarization == "static":
            return values.to(self.dtype)
        grey = values.to(self.dtype) / 255
        return torch.bernoulli(grey) if self.binarization == "dynamic" else grey


def as_images(images: Any) -> Any:
    """`Images`, and uint8 on disk, as they are; others as numpy (n, c, h, w) of finite values."""
    if isinstance(images, Images) or (on_disk(images) and images.dtype == np.uint8):
        return images
    if isinstance(images, Tensor):
        images = images.detach().cpu().numpy()
    array = np.asarray(images)
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            first = int(np.argwhere(~np.isfinite(array))[0][0])
            raise UsageError(f"images: NaN or infinity in image {first}: leave it out or repair it")
    return array


def check_support(name: str, fn: Any, value: Tensor) -> None:
    """UsageError where data lie outside a likelihood's support."""
    inside = fn.support.check(value)
    if bool(inside.all()):
        return
    base = fn
    while hasattr(base, "base_dist"):
        base = base.base_dist
    low, high = float(value.min()), float(value.max())
    hint = (
        "take binarization 'dynamic' or 'static', or likelihood 'discretized_logistic'"
        if type(base).__name__.startswith("Bernoulli")
        else "bring the images into its range, grey values to [0, 1]"
    )
    raise UsageError(
        f"images: values in [{low:g}, {high:g}] at site {name} are outside the support of "
        f"{type(base).__name__}: {hint}"
    )
