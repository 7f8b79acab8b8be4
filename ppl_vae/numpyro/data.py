"""Images on the device, and batches of them as the likelihood wants them."""

from __future__ import annotations

__all__ = ["DeviceImages", "as_images", "check_support"]

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from ppl_vae.data.images import Images
from ppl_vae.data.reading import on_disk, parts_ahead
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.mesh import Columns, put


class DeviceImages:
    """Images held on a device as they are stored; `batch` makes them what a likelihood scores.

    Args:
        images: `ppl_vae.data.Images`, or an array (n, c, h, w): floating-point values as they
            are, uint8 as grey values over 255.
        device, dtype: of the batches; a sharding may take the device's place.
        stream: leave images that are on disk (`ppl_vae.data.reading`) where they are, and bring
            batches to the device as they are asked for.

    Attributes:
        streamed: whether they are so left; `values` are NumPy's then.
    """

    def __init__(self, images: Any, device: Any, dtype: Any, stream: bool = False) -> None:
        images = as_images(images)
        raw = images.stored if isinstance(images, Images) else images
        self.binarization = images.binarization if isinstance(images, Images) else "none"
        self.device, self.dtype = device, dtype
        self.streamed = stream and on_disk(raw)
        self.values: Any = raw if self.streamed else self._placed(raw)
        masks = images.masks if isinstance(images, Images) else None
        self.masks = None if masks is None else put(masks, device)
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

    def batch(self, index: Any, rng_key: Any = None) -> Array:
        """Images at `index` (a slice or an array), dynamic binarisation and masks drawn anew."""
        return self.prepared(self.rows(index), rng_key)

    def rows(self, index: Any) -> Array:
        """Stored values at `index` on the device."""
        return self._placed(np.array(self.values[index])) if self.streamed else self.values[index]

    def rows_ahead(self, places: npt.NDArray[np.int64]) -> Iterator[tuple[Array, Array]]:
        """Images on disk at each step's places (steps, size), some steps at a time, read ahead.

        Yields:
            values, and order (k, …): those of k steps, each step's being `values[order[i]]`.
        """
        columns = Columns(self.device, places.shape[1])
        yield from map(columns.put, parts_ahead(self.values, columns.own(places)))

    def _placed(self, values: Any) -> Array:
        return put(np.ascontiguousarray(values), self.device)

    def prepared(self, values: Array, rng_key: Any = None) -> Array:
        """Stored values as the likelihood wants them, and a mask where they take one."""
        if self.masks is None:
            return self._unpacked(values, rng_key)
        choose, draw = jax.random.split(rng_key)
        chosen = jax.random.randint(choose, (len(values),), 0, len(self.masks))
        scored = self._unpacked(values, draw)
        return jnp.concatenate([scored, self.masks[chosen].astype(scored.dtype)], axis=1)

    def _unpacked(self, stored: Array, rng_key: Any) -> Array:
        """Scored, with each image's vector as maps behind it (see `Images.stored`)."""
        if not self.condition:
            return self._scored(stored, rng_key)
        values = self._scored(stored[:, : self.channels], rng_key)
        raw = stored[:, self.channels :].reshape(len(stored), -1)[:, : 4 * self.condition]
        vectors = jax.lax.bitcast_convert_type(
            raw.reshape(len(raw), self.condition, 4), jnp.float32
        ).astype(values.dtype)
        maps = jnp.broadcast_to(vectors[:, :, None, None], (*vectors.shape, *values.shape[2:]))
        at = values.shape[1] - self.masked  # before its mask
        return jnp.concatenate([values[:, :at], maps, values[:, at:]], axis=1)

    def _scored(self, values: Array, rng_key: Any) -> Array:
        """Stored values as the likelihood wants them."""
        if jnp.issubdtype(values.dtype, jnp.floating):
            return values.astype(self.dtype)
        if self.binarization == "static":
            return values.astype(self.dtype)
        grey = values.astype(self.dtype) / 255
        if self.binarization == "dynamic":
            return jax.random.bernoulli(rng_key, grey).astype(self.dtype)
        return grey


def as_images(images: Any) -> Any:
    """`Images`, and uint8 on disk, as they are; arrays as numpy (n, c, h, w) of finite values."""
    if isinstance(images, Images) or (on_disk(images) and images.dtype == np.uint8):
        return images
    array = np.asarray(images)
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            first = int(np.argwhere(~np.isfinite(array))[0][0])
            raise UsageError(f"images: NaN or infinity in image {first}: leave it out or repair it")
    return array


def check_support(name: str, distribution: str, inside: Any, value: Array) -> None:
    """UsageError where data lie outside a likelihood's support (`inside` is False)."""
    if bool(inside):
        return
    low, high = float(value.min()), float(value.max())
    hint = (
        "take binarization 'dynamic' or 'static', or likelihood 'discretized_logistic'"
        if distribution.startswith("Bernoulli")
        else "bring the images into its range, grey values to [0, 1]"
    )
    raise UsageError(
        f"images: values in [{low:g}, {high:g}] at site {name} are outside the support of "
        f"{distribution}: {hint}"
    )
