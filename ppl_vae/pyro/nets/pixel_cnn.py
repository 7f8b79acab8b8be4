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

import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.errors import UsageError


def conv(num_inputs: int, num_outputs: int, kernel: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    """Convolution without padding, with uniform Glorot weights and zero bias."""
    layer = nn.Conv2d(num_inputs, num_outputs, kernel)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def gated(h: Tensor) -> Tensor:
    value, gate = h.chunk(2, 1)
    return torch.tanh(value) * torch.sigmoid(gate)


class GatedLayer(nn.Module):
    """One layer of both stacks; only the first (`num_inputs` given) does not see the pixel itself.

    Args:
        channels: of either stack.
        radius: how many pixels to each side a kernel reaches.
        num_features: channels of the map of features, 0 for none.
        num_inputs: channels of the image, in the first layer.
    """

    def __init__(
        self, channels: int, radius: int, num_features: int = 0, num_inputs: int | None = None
    ) -> None:
        super().__init__()
        self.is_first = num_inputs is not None
        inputs = channels if num_inputs is None else num_inputs
        width = radius if self.is_first else radius + 1
        self.vertical = conv(inputs, 2 * channels, (radius + 1, 2 * radius + 1))
        self.horizontal = conv(inputs, 2 * channels, (1, width))
        self.link = conv(2 * channels, 2 * channels)
        self.mix = conv(channels, channels)
        self.features = conv(num_features, 4 * channels) if num_features else None

    def conditions(self, features: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the features add to either stack's gates, (n, 2 · channels, h, w) each."""
        if self.features is None or features is None:
            return None, None
        vertical, horizontal = self.features(features).chunk(2, 1)
        return vertical, horizontal

    def across(self, window: Tensor, link: Tensor, condition: Tensor | None) -> Tensor:
        """The horizontal stack over a padded window; `link` comes from the vertical stack above."""
        h = self.horizontal(window) + self.link(link)
        y = self.mix(gated(h if condition is None else h + condition))
        return y if self.is_first else y + window[..., -y.shape[-1] :]


class PixelCNNNet(nn.Module):
    """Images (n, c, h, w) to the parameters of every pixel given those before it.

    Args:
        x_shape: (channels, height, width).
        num_outputs: parameters of a pixel.
        channels: of either stack.
        layers: how many; the reach upwards and to the left is `layers` times the radius.
        kernel_size: odd, 2 · radius + 1.
        num_features: channels of the map of features, 0 for none.

    `net(x, features)` gives (n, num_outputs, h, w): column (i, j) depends on pixels before (i, j)
    alone. `net.generate(pick, n, features)` draws pixel by pixel and keeps what it has computed:
    about the operations of one pass for a whole image.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        num_outputs: int,
        channels: int = 32,
        layers: int = 5,
        kernel_size: int = 5,
        num_features: int = 0,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0 or kernel_size < 3:
            raise UsageError(f"kernel_size: expected odd, at least 3, came {kernel_size}")
        for argument, value in (("layers", layers), ("channels", channels)):
            if value < 1:
                raise UsageError(f"{argument}: expected at least 1, came {value}")
        self.x_shape = tuple(x_shape)
        self.radius = kernel_size // 2
        firsts = [self.x_shape[0], *[None] * (layers - 1)]
        self.layers = nn.ModuleList(
            GatedLayer(channels, self.radius, num_features, first) for first in firsts
        )
        self.head = conv(channels, channels)
        self.out = conv(channels, num_outputs)

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        r = self.radius
        v = h = x
        for layer in self._layers:
            above, left = layer.conditions(features)
            v = layer.vertical(functional.pad(v, (r, r, r, 0)))
            v = v if above is None else v + above
            link = functional.pad(v[:, :, :-1], (0, 0, 1, 0))  # the row above, and all before it
            window = functional.pad(h, (r, -1) if layer.is_first else (r, 0))
            v, h = gated(v), layer.across(window, link, left)
        return self.outputs(h)

    def outputs(self, h: Tensor) -> Tensor:
        """Parameters from the last horizontal features."""
        return self.out(functional.elu(self.head(functional.elu(h))))

    @torch.no_grad()
    def generate(
        self,
        pick: Callable[[Tensor], Tensor],
        n: int,
        features: Tensor | None = None,
        held: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Images (n, c, h, w), pixel by pixel.

        Args:
            pick: parameters (n, num_outputs, 1, 1) to a draw (n, c, 1, 1).
            held: images (n, c, h, w), and where (n, 1, h, w) their pixels stand and are not drawn.
        """
        c, height, width = self.x_shape
        x = self.out.weight.new_zeros(n, c, height, width)
        conditions = [layer.conditions(features) for layer in self._layers]
        rows: list[Tensor] = [self._zeros(n, i, self.radius) for i in range(len(self.layers))]
        links = [self.out.weight.new_zeros(n, 2 * self._channels, 1, width) for _ in self.layers]
        for i in range(height):
            at_row = [_part(left, i) for _, left in conditions]
            kept = None if held is None else (_part(held[0], i), _part(held[1], i))
            x[:, :, i : i + 1] = self._row(pick, n, links, at_row, kept)
            if i + 1 < height:
                above = [_part(up, i) for up, _ in conditions]
                rows, links = self._below(rows, x[:, :, i : i + 1], above)
        return x

    def _row(
        self,
        pick: Callable[[Tensor], Tensor],
        n: int,
        links: list[Tensor],
        at_row: list[Any],
        kept: Any,
    ) -> Tensor:
        """One row of pixels, left to right; `links` are what the rows above say."""
        r, width = self.radius, self.x_shape[2]
        windows = [link.new_zeros(n, self._inputs(i), 1, r) for i, link in enumerate(links)]
        pixels: list[Tensor] = []
        for j in range(width):
            h = windows[0]
            for i, layer in enumerate(self._layers):
                window = h if layer.is_first else torch.cat([windows[i], h], -1)
                condition = None if at_row[i] is None else at_row[i][..., j : j + 1]
                h = layer.across(window, links[i][..., j : j + 1], condition)
                windows[i] = windows[i] if layer.is_first else window[..., 1:]
            pixel = pick(self.outputs(h))
            if kept is not None:
                image, known = (part[..., j : j + 1] for part in kept)
                pixel = torch.where(known > 0, image, pixel.to(image.dtype))
            pixels.append(pixel)
            windows[0] = torch.cat([windows[0], pixels[-1]], -1)[..., 1:]
        return torch.cat(pixels, -1)

    def _below(
        self, rows: list[Tensor], row: Tensor, above: list[Any]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(last rows of each layer's input, what the vertical stack tells the row below)."""
        r = self.radius
        links: list[Tensor] = []
        kept: list[Tensor] = []
        for i, layer in enumerate(self._layers):
            window = torch.cat([rows[i], row], 2)
            kept.append(window[:, :, 1:])
            v = layer.vertical(functional.pad(window, (r, r)))
            links.append(v if above[i] is None else v + above[i])
            row = gated(links[-1])
        return kept, links

    def _zeros(self, n: int, layer: int, height: int) -> Tensor:
        return self.out.weight.new_zeros(n, self._inputs(layer), height, self.x_shape[2])

    def _inputs(self, layer: int) -> int:
        return self.x_shape[0] if layer == 0 else self._channels

    @property
    def _channels(self) -> int:
        return self.head.in_channels

    @property
    def _layers(self) -> list[Any]:
        return list(self.layers)


def _part(condition: Tensor | None, i: int) -> Tensor | None:
    return None if condition is None else condition[:, :, i : i + 1]
