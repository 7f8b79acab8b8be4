r"""The distribution of an image of which a part is known.

.. math::
    p(x \mid z, k, m)
    = \prod_{i:\, m_i = 0} p(x_i \mid z) \prod_{i:\, m_i = 1} \delta(x_i - k_i)

Known pixels are what they are: draws and means have them to the bit, and they count nothing in the
log probability, which is that of the missing pixels alone.
"""

from __future__ import annotations

__all__ = ["CompletedImage", "CompletedPixels"]

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from ppl_vae.errors import UsageError
from ppl_vae.pyro.distributions import unwrapped


class CompletedImage(TorchDistribution):
    """Images (n, c + s, h, w) that carry their mask as last channel, 1 where a pixel is known.

    Args:
        base_dist: the missing pixels' distribution, batch shape (n, c, h, w), each by itself.
        image: (n, c, h, w), of which the known pixels are taken.
        shown: (n, s, h, w), the channels behind it: maps of a condition, and last the mask.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self, base_dist: Any, image: Tensor, shown: Tensor, validate_args: bool | None = None
    ) -> None:
        _check(base_dist, image)
        self.base_dist, self.image, self.shown = base_dist, image, shown
        n, channels, *size = image.shape
        super().__init__(
            (n,), torch.Size((channels + shown.shape[1], *size)), validate_args=validate_args
        )

    @property
    def support(self) -> Any:
        return constraints.independent(self.base_dist.support, 3)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> CompletedImage:
        if tuple(batch_shape) != tuple(self.batch_shape):
            raise UsageError(
                f"CompletedImage: expected batch shape {tuple(self.batch_shape)}, one mask for "
                f"each image, came {tuple(batch_shape)}: repeat images and masks instead"
            )
        return self

    def log_prob(self, value: Tensor) -> Tensor:
        """(n,): log probability of the missing pixels, nats."""
        scored = self.base_dist.log_prob(_pixels_of(value, self.image))
        return torch.where(_mask(self.shown), 0.0, scored).sum((-3, -2, -1))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        return self._completed(self.base_dist.sample(torch.Size(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """Known pixels as they are, the mean of the missing ones, and what is shown."""
        return self._completed(self.base_dist.mean)

    def _completed(self, missing: Tensor) -> Tensor:
        image = torch.where(_mask(self.shown), self.image, missing)
        shown = self.shown.expand(*image.shape[:-3], *self.shown.shape[-3:])
        return torch.cat([image, shown], -3)


class CompletedPixels(TorchDistribution):
    r"""The same where a missing pixel depends on all pixels before it, missing or known.

    .. math::
        p(x | s, k, m)
        = \prod_{i:\, m_i = 0} p(x_i | x_{<i}, s) \prod_{i:\, m_i = 1} \delta(x_i - k_i)

    in raster order. There is no mean in closed form.

    Args:
        net: a `PixelCNNNet` over images (c, h, w), with features s.
        likelihood: parameters to the distribution of pixels given those before them.
        features: s, (n, f, h, w).
        image, shown: as of `CompletedImage`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(
        self,
        net: Any,
        likelihood: Callable[[Tensor], Any],
        features: Tensor,
        image: Tensor,
        shown: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.net, self.likelihood, self.features = net, likelihood, features
        self.image, self.shown = image, shown
        n, channels, *size = image.shape
        super().__init__((n,), torch.Size((channels + shown.shape[1], *size)), validate_args=False)

    @property
    def support(self) -> Any:
        return constraints.independent(self._pixels(self.image).support, 3)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> CompletedPixels:
        if tuple(batch_shape) != tuple(self.batch_shape):
            raise UsageError(
                f"CompletedPixels: expected batch shape {tuple(self.batch_shape)}, one mask for "
                f"each image, came {tuple(batch_shape)}: repeat images and masks instead"
            )
        return self

    def log_prob(self, value: Tensor) -> Tensor:
        """(n,): log probability of the missing pixels, nats."""
        pixels = _pixels_of(value, self.image)
        scored = self._pixels(pixels).log_prob(pixels)
        return torch.where(_mask(self.shown), 0.0, scored).sum((-3, -2, -1))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        if tuple(sample_shape):
            raise UsageError(f"sample_shape: expected (), came {tuple(sample_shape)}: draw again")

        def pick(parameters: Tensor) -> Tensor:
            drawn: Tensor = self.likelihood(parameters).sample()
            return drawn

        held = (self.image, self.shown[:, -1:])
        drawn = self.net.generate(pick, len(self.image), self.features, held)
        return torch.cat([drawn, self.shown], 1)

    def _pixels(self, image: Tensor) -> Any:
        """Of each pixel given those of `image` before it."""
        found = unwrapped(self.likelihood(self.net(image, self.features)))
        _check(found, image)
        return found


def _pixels_of(value: Tensor, image: Tensor) -> Tensor:
    return value[..., : image.shape[1], :, :]


def _mask(shown: Tensor) -> Tensor:
    """(n, 1, h, w), true where a pixel is known."""
    return shown[:, -1:] > 0


def _check(pixels: Any, image: Tensor) -> None:
    if tuple(pixels.batch_shape) != tuple(image.shape):
        raise UsageError(
            f"likelihood: expected one that scores each pixel by itself, {tuple(image.shape)}, "
            f"came {type(pixels).__name__} over {tuple(pixels.batch_shape)}: take bernoulli, "
            "discretized_logistic, categorical or normal"
        )
