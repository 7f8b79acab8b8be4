r"""Mixture of discretised logistics over the channels of a pixel (Salimans et al. 2017, eq. 3).

.. math::
    P(x) = \sum_m \pi_m \prod_c \left[\sigma\left(\frac{x_c + b - \mu_{cm}}{s_{cm}}\right)
        - \sigma\left(\frac{x_c - b - \mu_{cm}}{s_{cm}}\right)\right], \qquad
    \mu_{cm}(x) = \mu^0_{cm} + \sum_{d<c} k_{cdm}\, x_d

with x on [-1, 1] and b half the width of a level, 1 / (num_levels - 1). One component is drawn for
all channels of a pixel, and each channel's location leans on the channels before it.

| edges | first and last level | levels between |
|---|---|---|
| proper | the levels themselves; probabilities sum to one | exact mass |
| vdvae | below -0.999, above 0.999 | mass, or below 1e-5 the centre's density times the width |
| nvae | below -0.999, above 0.99, so that 254 of 255 has the upper tail as well | as vdvae |

The latter two are those of published weights (Child 2021; Vahdat & Kautz 2020), which sum to about
one only.
"""

from __future__ import annotations

__all__ = ["EDGES", "DiscretizedLogisticMixture"]

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from ppl_vae.errors import UsageError, nearest

EDGES: dict[str, tuple[float, float]] = {"vdvae": (-0.999, 0.999), "nvae": (-0.999, 0.99)}
LEAST_MASS = 1e-5  # below which "vdvae" and "nvae" take the density


class DiscretizedLogisticMixture(dist.Distribution):
    """Images (channels, height, width) of levels 0, 1/(num_levels-1), …, 1.

    Locations, scales and coefficients are those of 2x - 1, as in published weights; values,
    draws and the mean are on [0, 1].

    Args:
        logits: of the components, (…, M, height, width).
        loc: μ⁰, (…, channels, M, height, width).
        log_scale: log s, as `loc`.
        coefficients: k, (…, channels·(channels-1)/2, M, height, width), for the pairs (second,
            first), (third, first), (third, second), …; None leaves the channels apart.
        num_levels: 256 for 8 bits, 32 for 5.
        edges: "proper", "vdvae" or "nvae".
    """

    arg_constraints: ClassVar = {
        "logits": constraints.independent(constraints.real, 3),
        "loc": constraints.independent(constraints.real, 4),
        "log_scale": constraints.independent(constraints.real, 4),
    }
    support = constraints.independent(constraints.unit_interval, 3)
    reparametrized_params: ClassVar[list[str]] = []
    pytree_data_fields = ("logits", "loc", "log_scale", "coefficients")
    pytree_aux_fields = ("num_levels", "edges")

    def __init__(
        self,
        logits: Any,
        loc: Any,
        log_scale: Any,
        coefficients: Any = None,
        num_levels: int = 256,
        edges: str = "proper",
        *,
        validate_args: bool | None = None,
    ) -> None:
        if edges != "proper" and edges not in EDGES:
            raise UsageError(f"edges: unknown {edges!r}: {nearest(edges, ('proper', *EDGES))}")
        self.logits, self.loc, self.log_scale = logits, loc, log_scale
        self.coefficients, self.num_levels, self.edges = coefficients, num_levels, edges
        shape = jnp.shape(loc)
        event_shape = (shape[-4], *shape[-2:])
        super().__init__(shape[:-4], event_shape, validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        """Log probability of each image, nats, the batch's shape."""
        x = 2.0 * value - 1.0
        of_channels = self._log_mass(x[..., None, :, :], self._leaning(x))
        of_components = of_channels.sum(-4) + jax.nn.log_softmax(self.logits, -3)
        return jax.nn.logsumexp(of_components, -3).sum((-2, -1))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws of the proper distribution, whatever the edges: levels of [0, 1]."""
        batch = (*sample_shape, *self.batch_shape)
        which, where = jax.random.split(key)
        shape = batch + jnp.shape(self.logits)[-3:]
        index = jax.random.categorical(which, jnp.broadcast_to(self.logits, shape), axis=-3)
        index = index[..., None, None, :, :]

        def chosen(part: Array) -> Array:
            part = jnp.broadcast_to(part, batch + jnp.shape(part)[-4:])
            return jnp.take_along_axis(part, index, -3).squeeze(-3)

        loc, scale = chosen(self.loc), jnp.exp(chosen(self.log_scale))
        uniform = jax.random.uniform(where, loc.shape, loc.dtype, minval=1e-6, maxval=1.0 - 1e-6)
        spread = scale * jax.scipy.special.logit(uniform)
        lean = None if self.coefficients is None else chosen(self.coefficients)
        channels: list[Array] = []
        for c in range(self.event_shape[0]):
            at = _leaning_on(loc[..., c, :, :], channels, lean, -3)
            channels.append(self._level(at + spread[..., c, :, :]) * 2.0 - 1.0)
        return self._level(jnp.stack(channels, -3))

    @property
    def mean(self) -> Array:
        """Mean of the clipped draw before it is rounded: within half a level of that of draws.

        A channel's location is taken at the mean of those before it, which is exact where a
        component's mass lies within the range.
        """
        means: list[Array] = []
        for c in range(self.event_shape[0]):
            at = _leaning_on(self.loc[..., c, :, :, :], means, self.coefficients, -4)
            scale = jnp.exp(self.log_scale[..., c, :, :, :])
            low, high = jax.nn.softplus((at + 1) / scale), jax.nn.softplus((at - 1) / scale)
            means.append(scale * (low - high) - 1.0)
        of_components = jnp.stack(means, -4)
        shares = jax.nn.softmax(self.logits, -3)[..., None, :, :, :]
        return 0.5 + 0.5 * (shares * of_components).sum(-3)

    def _leaning(self, x: Array) -> Array:
        """Locations given the image itself, (…, channels, M, height, width)."""
        if self.coefficients is None:
            return self.loc
        channels = [x[..., c, None, :, :] for c in range(self.event_shape[0])]
        found = [
            _leaning_on(self.loc[..., c, :, :, :], channels[:c], self.coefficients, -4)
            for c in range(len(channels))
        ]
        return jnp.stack(jnp.broadcast_arrays(*found), -4)

    def _log_mass(self, x: Array, loc: Array) -> Array:
        """Log probability of each level under each component, (…, channels, M, height, width)."""
        half = 1.0 / (self.num_levels - 1)
        sharpness = jnp.exp(-self.log_scale)
        off = x - loc
        # σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)): exact, and finite however narrow the scale.
        below = jax.nn.log_sigmoid((off + half) * sharpness)
        above = jax.nn.log_sigmoid((half - off) * sharpness)
        inside = below + above + jnp.log(-jnp.expm1(-2.0 * half * sharpness))
        lowest, highest = EDGES.get(self.edges, (half - 1.0, 1.0 - half))
        if self.edges != "proper":
            middle = off * sharpness
            density = jax.nn.log_sigmoid(middle) + jax.nn.log_sigmoid(-middle)
            density = density - self.log_scale + math.log(2.0 * half)
            inside = jnp.where(inside > math.log(LEAST_MASS), inside, density)
        return jnp.where(x < lowest, below, jnp.where(x > highest, above, inside))

    def _level(self, x: Array) -> Array:
        """The nearest level on [0, 1] of values on [-1, 1]."""
        steps = self.num_levels - 1
        return jnp.round(jnp.clip(0.5 + 0.5 * x, 0.0, 1.0) * steps) / steps


def _leaning_on(loc: Array, before: list[Array], coefficients: Any, axis: int) -> Array:
    """A channel's location moved by the channels before it."""
    if coefficients is None:
        return loc
    first = math.comb(len(before), 2)  # pairs of all channels before this one
    for i, x in enumerate(before):
        loc = loc + jax.lax.index_in_dim(coefficients, first + i, axis, keepdims=False) * x
    return loc
