r"""Gated PixelCNN (van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders).

Pixels in raster order. Each layer has a vertical stack, which sees the rows above, and a horizontal
one, which sees the pixels to the left and, through a 1 × 1 link, the vertical stack; so nothing
above or to the left within reach is hidden. Both are gated:

.. math:: y = \tanh(W_f * x + V_f * s) \odot \sigma(W_g * x + V_g * s)

with s a map of features that the whole image may depend on. Kernels are cut to the half that comes
before a pixel, which is what masking the other half would do, at half the cost. The two layers that
read the parameters off are ELU's in place of ReLU's, so that no unit is shut for good.
"""

from __future__ import annotations

__all__ = ["PixelCNNNet"]

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax, random

from ppl_vae.errors import UsageError
from ppl_vae.numpyro.nets.convolution import conv_general_dilated
from ppl_vae.numpyro.nets.initial import glorot_uniform, zeros


def conv(
    num_inputs: int, num_outputs: int, kernel: tuple[int, int] = (1, 1), *, rngs: nnx.Rngs
) -> nnx.Conv:
    """Convolution without padding, with uniform Glorot weights and zero bias."""
    return nnx.Conv(
        num_inputs,
        num_outputs,
        kernel,
        padding="VALID",
        kernel_init=glorot_uniform(),
        bias_init=zeros,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def gated(h: Array) -> Array:
    value, gate = jnp.split(h, 2, axis=-1)
    return jnp.tanh(value) * jax.nn.sigmoid(gate)


class GatedLayer(nnx.Module):
    """One layer of both stacks; only the first (`num_inputs` given) does not see the pixel itself.

    Args:
        channels: of either stack.
        radius: how many pixels to each side a kernel reaches.
        num_features: channels of the map of features, 0 for none.
        num_inputs: channels of the image, in the first layer.
    """

    def __init__(
        self,
        channels: int,
        radius: int,
        num_features: int = 0,
        num_inputs: int | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.is_first = num_inputs is not None
        inputs = channels if num_inputs is None else num_inputs
        width = radius if self.is_first else radius + 1
        self.vertical = conv(inputs, 2 * channels, (radius + 1, 2 * radius + 1), rngs=rngs)
        self.horizontal = conv(inputs, 2 * channels, (1, width), rngs=rngs)
        self.link = conv(2 * channels, 2 * channels, rngs=rngs)
        self.mix = conv(channels, channels, rngs=rngs)
        self.features = (
            conv(num_features, 4 * channels, rngs=rngs) if num_features else nnx.data(None)
        )

    def conditions(self, features: Array | None) -> tuple[Any, Any]:
        """What the features add to either stack's gates, (n, h, w, 2 · channels) each, or 0."""
        if self.features is None or features is None:
            return 0.0, 0.0
        vertical, horizontal = jnp.split(self.features(features), 2, axis=-1)
        return vertical, horizontal

    def across(self, window: Array, link: Array, condition: Any) -> Array:
        """The horizontal stack over a padded window; `link` comes from the vertical stack above."""
        y = self.mix(gated(self.horizontal(window) + self.link(link) + condition))
        return y if self.is_first else y + window[:, :, -y.shape[2] :]


class PixelCNNNet(nnx.Module):
    """Images (n, c, h, w) to the parameters of every pixel given those before it.

    Args:
        x_shape: (channels, height, width).
        num_outputs: parameters of a pixel.
        channels: of either stack.
        layers: how many; the reach upwards and to the left is `layers` times the radius.
        kernel_size: odd, 2 · radius + 1.
        num_features: channels of the map of features, 0 for none.
        rngs: for the initial weights.

    `net(x, features)` gives (n, num_outputs, h, w): column (i, j) depends on pixels before (i, j)
    alone. `net.generate(pick, n, features, rng_key)` draws pixel by pixel and keeps what it has
    computed: about the operations of one pass for a whole image. Channels are last inside.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        num_outputs: int,
        channels: int = 32,
        layers: int = 5,
        kernel_size: int = 5,
        num_features: int = 0,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if kernel_size % 2 == 0 or kernel_size < 3:
            raise UsageError(f"kernel_size: expected odd, at least 3, came {kernel_size}")
        for argument, value in (("layers", layers), ("channels", channels)):
            if value < 1:
                raise UsageError(f"{argument}: expected at least 1, came {value}")
        self.x_shape = tuple(x_shape)
        self.radius = kernel_size // 2
        firsts = [self.x_shape[0], *[None] * (layers - 1)]
        self.layers = nnx.List(
            [GatedLayer(channels, self.radius, num_features, first, rngs=rngs) for first in firsts]
        )
        self.head = conv(channels, channels, rngs=rngs)
        self.out = conv(channels, num_outputs, rngs=rngs)

    def __call__(self, x: Array, features: Array | None = None) -> Array:
        r = self.radius
        v = h = _last(x)
        features = None if features is None else _last(features)
        for layer in self.layers:
            above, left = layer.conditions(features)
            v = layer.vertical(_padded(v, top=r, left=r, right=r)) + above
            link = _padded(v[:, :-1], top=1)  # the row above, and all before it
            window = _padded(h[:, :, :-1] if layer.is_first else h, left=r)
            v, h = gated(v), layer.across(window, link, left)
        return _first(self.outputs(h))

    def outputs(self, h: Array) -> Array:
        """Parameters from the last horizontal features."""
        return self.out(jax.nn.elu(self.head(jax.nn.elu(h))))

    def generate(
        self,
        pick: Callable[[Any, Array], Array],
        n: int,
        features: Array | None,
        rng_key: Any,
        held: tuple[Array, ...] = (),
    ) -> Array:
        """Images (n, c, h, w), pixel by pixel.

        Args:
            pick: key and parameters (n, num_outputs, 1, 1) to a draw (n, c, 1, 1).
            held: images (n, c, h, w), and where (n, 1, h, w) their pixels stand and are not drawn.
        """
        _, height, width = self.x_shape
        features = None if features is None else _last(features)
        by_row = [  # the axis that is walked comes first
            tuple(_rows(part, height) for part in layer.conditions(features))
            for layer in self.layers
        ]
        zeros = [self._zeros(n, i, self.radius, width) for i in range(len(self.layers))]
        dtype = jnp.result_type(self.out.kernel.dtype, *([] if features is None else [features]))
        zeros = [part.astype(dtype) for part in zeros]
        links = [self._like(n, 1, width, 2 * self._channels).astype(dtype) for _ in self.layers]

        def one_row(carry: Any, at_row: Any) -> tuple[Any, Array]:
            rows, links = carry
            conditions, key, kept = at_row
            row = self._row(pick, n, links, [left for _, left in conditions], key, kept)
            below = self._below(rows, _last(row), [above for above, _ in conditions])
            return below, row

        keys = random.split(rng_key, height)
        kept = tuple(jnp.moveaxis(part, 2, 0) for part in held)
        _, drawn = lax.scan(one_row, (zeros, links), (by_row, keys, kept))
        return jnp.moveaxis(drawn[:, :, :, 0], 0, 2)

    def _row(
        self,
        pick: Callable[[Any, Array], Array],
        n: int,
        links: list[Array],
        left: list[Any],
        rng_key: Any,
        kept: tuple[Array, ...],
    ) -> Array:
        """One row of pixels (n, c, 1, w), left to right; `links` are what the rows above say."""
        r, width = self.radius, self.x_shape[2]
        windows = [self._zeros(n, i, 1, r).astype(links[0].dtype) for i in range(len(self.layers))]
        by_column = [
            (_columns(link, width), _columns(part, width))
            for link, part in zip(links, left, strict=True)
        ]

        def one_pixel(windows: list[Array], at: Any) -> tuple[list[Array], Array]:
            told, key, known_here = at
            h = windows[0]
            inputs = list(windows)
            for i, layer in enumerate(self.layers):
                window = h if layer.is_first else jnp.concatenate([windows[i], h], 2)
                h = layer.across(window, *told[i])
                inputs[i] = window if layer.is_first else window[:, :, 1:]
            pixel = pick(key, _first(self.outputs(h)))
            if known_here:
                image, known = known_here
                pixel = jnp.where(known > 0, image, pixel.astype(image.dtype))
            seen = _last(pixel).astype(inputs[0].dtype)
            inputs[0] = jnp.concatenate([inputs[0], seen], 2)[:, :, 1:]
            return inputs, pixel

        columns = tuple(jnp.moveaxis(part, -1, 0)[..., None, None] for part in kept)
        walked = (by_column, random.split(rng_key, width), columns)
        _, pixels = lax.scan(one_pixel, windows, walked)
        return jnp.moveaxis(pixels[..., 0], 0, -1)

    def _below(
        self, rows: list[Array], row: Array, above: list[Any]
    ) -> tuple[list[Array], list[Array]]:
        """(last rows of each layer's input, what the vertical stack tells the row below)."""
        r = self.radius
        links: list[Array] = []
        kept: list[Array] = []
        for i, layer in enumerate(self.layers):
            window = jnp.concatenate([rows[i], row.astype(rows[i].dtype)], 1)
            kept.append(window[:, 1:])
            links.append(layer.vertical(_padded(window, left=r, right=r)) + above[i])
            row = gated(links[-1])
        return kept, links

    def _zeros(self, n: int, layer: int, height: int, width: int) -> Array:
        return self._like(n, height, width, self.x_shape[0] if layer == 0 else self._channels)

    def _like(self, *shape: int) -> Array:
        return jnp.zeros(shape, self.out.kernel.dtype)

    @property
    def _channels(self) -> int:
        return self.head.in_features


def _padded(h: Array, top: int = 0, left: int = 0, right: int = 0) -> Array:
    return jnp.pad(h, ((0, 0), (top, 0), (left, right), (0, 0)))


def _rows(condition: Any, height: int) -> Array:
    """(height, n, 1, w, c) of (n, height, w, c); of none, zeros too short to promote a sum."""
    if isinstance(condition, float):
        return jnp.zeros(height, jnp.bfloat16)
    return jnp.moveaxis(condition, 1, 0)[:, :, None]


def _columns(condition: Array, width: int) -> Array:
    """(width, n, 1, 1, c) of (n, 1, width, c); of none, zeros too short to promote a sum."""
    if condition.ndim == 0:
        return jnp.zeros(width, jnp.bfloat16)
    return jnp.moveaxis(condition, 2, 0)[:, :, :, None]


def _last(x: Array) -> Array:
    """Channels last."""
    return x.transpose(0, 2, 3, 1)


def _first(h: Array) -> Array:
    """Channels first."""
    return h.transpose(0, 3, 1, 2)
