r"""The distribution of an image of which a part is known.

.. math::
    p(x \mid z, k, m)
    = \prod_{i:\, m_i = 0} p(x_i \mid z) \prod_{i:\, m_i = 1} \delta(x_i - k_i)

Known pixels are what they are: draws and means have them to the bit, and they count nothing in the
log probability, which is that of the missing pixels alone.
"""

from __future__ import annotations

__all__ = ["CompletedImage", "CompletedPixels"]

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints

from ppl_vae.errors import UsageError
from ppl_vae.numpyro.distributions import unwrapped


class CompletedImage(dist.Distribution):
    """Images (n, c + s, h, w) that carry their mask as last channel, 1 where a pixel is known.

    Args:
        base_dist: the missing pixels' distribution, batch shape (n, c, h, w), each by itself.
        image: (n, c, h, w), of which the known pixels are taken.
        shown: (n, s, h, w), the channels behind it: maps of a condition, and last the mask.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("base_dist", "image", "shown")

    def __init__(
        self, base_dist: Any, image: Array, shown: Array, *, validate_args: bool | None = None
    ) -> None:
        _check(base_dist, image)
        self.base_dist, self.image, self.shown = base_dist, image, shown
        n, channels, *size = image.shape
        super().__init__((n,), (channels + shown.shape[1], *size), validate_args=validate_args)

    @constraints.dependent_property(event_dim=3)
    def support(self) -> Any:
        return constraints.independent(self.base_dist.support, 3)

    def log_prob(self, value: Array) -> Array:
        """(n,): log probability of the missing pixels, nats."""
        scored = self.base_dist.log_prob(_pixels_of(value, self.image))
        return jnp.where(_mask(self.shown), 0.0, scored).sum((-3, -2, -1))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        return self._completed(self.base_dist.sample(key, sample_shape))

    @property
    def mean(self) -> Array:
        """Known pixels as they are, the mean of the missing ones, and what is shown."""
        return self._completed(self.base_dist.mean)

    def _completed(self, missing: Array) -> Array:
        image = jnp.where(_mask(self.shown), self.image, missing.astype(self.image.dtype))
        shown = jnp.broadcast_to(self.shown, (*image.shape[:-3], *self.shown.shape[-3:]))
        return jnp.concatenate([image, shown], axis=-3)


class CompletedPixels(dist.Distribution):
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
    reparametrized_params: ClassVar[list[str]] = []
    pytree_data_fields = ("net", "features", "image", "shown")
    pytree_aux_fields = ("likelihood",)

    def __init__(
        self,
        net: Any,
        likelihood: Callable[[Array], Any],
        features: Array,
        image: Array,
        shown: Array,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.net, self.likelihood, self.features = net, likelihood, features
        self.image, self.shown = image, shown
        n, channels, *size = image.shape
        super().__init__((n,), (channels + shown.shape[1], *size), validate_args=False)

    @constraints.dependent_property(event_dim=3)
    def support(self) -> Any:
        return constraints.independent(self._pixels(self.image).support, 3)

    def log_prob(self, value: Array) -> Array:
        """(n,): log probability of the missing pixels, nats."""
        pixels = _pixels_of(value, self.image)
        scored = self._pixels(pixels).log_prob(pixels)
        return jnp.where(_mask(self.shown), 0.0, scored).sum((-3, -2, -1))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        if sample_shape:
            raise UsageError(f"sample_shape: expected (), came {sample_shape}: draw again")

        def pick(rng_key: Any, parameters: Array) -> Array:
            drawn: Array = self.likelihood(parameters).sample(rng_key)
            return drawn

        held = (self.image, self.shown[:, -1:])
        drawn = self.net.generate(pick, len(self.image), self.features, key, held)
        return jnp.concatenate([drawn, self.shown], axis=1)

    def _pixels(self, image: Array) -> Any:
        """Of each pixel given those of `image` before it."""
        found = unwrapped(self.likelihood(self.net(image, self.features)))
        _check(found, image)
        return found


def _pixels_of(value: Array, image: Array) -> Array:
    return value[..., : image.shape[1], :, :]


def _mask(shown: Array) -> Array:
    """(n, 1, h, w), true where a pixel is known."""
    return shown[:, -1:] > 0


def _check(pixels: Any, image: Array) -> None:
    if tuple(pixels.batch_shape) != tuple(image.shape):
        raise UsageError(
            f"likelihood: expected one that scores each pixel by itself, {tuple(image.shape)}, "
            f"came {type(pixels).__name__} over {tuple(pixels.batch_shape)}: take bernoulli, "
            "discretized_logistic, categorical or normal"
        )
