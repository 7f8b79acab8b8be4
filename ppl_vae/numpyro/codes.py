r"""Maps of discrete codes whose values are the codes' vectors (van den Oord et al. 2017, VQ-VAE).

.. math:: P(z) = \prod_{ij} \pi_{ij}(k_{ij}), \qquad z_{ij} = e_{k_{ij}}

A value is a map of vectors, so that gradients pass through it; its indices are those of the
nearest codes.
"""

from __future__ import annotations

__all__ = [
    "CodeView",
    "Codes",
    "NearestCode",
    "RelaxedCodes",
    "autoregressive_codes",
    "embed",
    "nearest",
    "nearest_in_order",
    "one_hot",
]

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax, random
from numpyro.distributions import constraints
from numpyro.distributions.kl import kl_divergence

from ppl_vae.numpyro.autoregressive import Autoregressive

TOLERANCE = 1e-4  # of a value beside its code's vector, per unit of their sizes


def nearest(values: Array, vectors: Array) -> Array:
    """Indices (…, h, w) of the codes nearest to `values` (…, d, h, w); the first of equals."""
    values, vectors = lax.stop_gradient((values, vectors))
    z = jnp.moveaxis(values, -3, -1).astype(vectors.dtype)
    products = jnp.matmul(z, vectors.T, precision=lax.Precision.HIGHEST)
    return ((vectors**2).sum(-1) - 2 * products).argmin(-1)


def embed(indices: Array, vectors: Array) -> Array:
    """Vectors (…, d, h, w) of the codes `indices` (…, h, w)."""
    return jnp.moveaxis(vectors[indices], -1, -3)


def one_hot(values: Array, vectors: Array) -> Array:
    """(…, K, h, w): 1 for the code nearest to `values` (…, d, h, w), 0 for the others."""
    indices = nearest(values, vectors)
    return jax.nn.one_hot(indices, len(vectors), axis=-3, dtype=vectors.dtype)


class Codes(dist.Distribution):
    """One categorical code at each position, independent of the others.

    Args:
        vectors: (K, d), the codebook.
        logits: (*batch, K, h, w), up to a constant at each position.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    reparametrized_params: ClassVar[list[str]] = []
    pytree_data_fields = ("vectors", "logits")

    def __init__(self, vectors: Array, logits: Array, *, validate_args: bool | None = None) -> None:
        self.vectors, self.logits = vectors, logits
        event = (vectors.shape[1], *logits.shape[-2:])
        super().__init__(logits.shape[:-3], event, validate_args=False)

    @classmethod
    def uniform(cls, vectors: Array, n: int, sides: Sequence[int]) -> Self:
        """All codes alike at every position of n maps: log probability -h w log K."""
        return cls(vectors, jnp.zeros((n, len(vectors), *sides), vectors.dtype))

    def expand(self, batch_shape: Sequence[int]) -> Codes:
        shape = (*batch_shape, *self.logits.shape[-3:])
        return Codes(self.vectors, jnp.broadcast_to(self.logits, shape))

    @property
    def log_probs(self) -> Array:
        """(*batch, K, h, w), nats."""
        return jax.nn.log_softmax(self.logits, -3)

    def log_prob(self, value: Array) -> Array:
        """Log probability of whole maps, nats; -inf where a vector is none of the codebook's."""
        indices = nearest(value, self.vectors)
        known = _close(value, embed(indices, self.vectors))
        return jnp.where(known, self.log_prob_of(indices), -jnp.inf)

    def log_prob_of(self, indices: Array) -> Array:
        """Log probability of codes (…, h, w), nats: the batch shape."""
        shape = jnp.broadcast_shapes(indices.shape[:-2], self.batch_shape)
        log_probs = jnp.broadcast_to(self.log_probs, (*shape, *self.logits.shape[-3:]))
        chosen = jnp.broadcast_to(indices, (*shape, *indices.shape[-2:]))[..., None, :, :]
        return jnp.take_along_axis(log_probs, chosen, -3).sum((-3, -2, -1))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        logits = jnp.moveaxis(self.logits, -3, -1)
        drawn = random.categorical(key, logits, shape=(*sample_shape, *logits.shape[:-1]))
        return embed(drawn, self.vectors)


class RelaxedCodes(Codes):
    r"""Codes whose draws are relaxed at a temperature (Jang et al. 2017), or hard at None.

    .. math:: z = \sum_k \mathrm{softmax}_k((\log \pi + g) / \tau)\, e_k, \qquad g_k \sim G(0, 1)

    Densities and divergences are those of hard codes.

    Attributes:
        indices: (*batch, h, w) of the most probable codes.
        loc, scale: mean and deviation of the hard value.
    """

    has_rsample = True
    pytree_aux_fields = ("temperature",)

    def __init__(
        self,
        vectors: Array,
        logits: Array,
        temperature: float | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.temperature = temperature
        super().__init__(vectors, logits)

    def expand(self, batch_shape: Sequence[int]) -> RelaxedCodes:
        shape = (*batch_shape, *self.logits.shape[-3:])
        return RelaxedCodes(self.vectors, jnp.broadcast_to(self.logits, shape), self.temperature)

    @property
    def indices(self) -> Array:
        return self.logits.argmax(-3)

    @property
    def loc(self) -> Array:
        return self._mixed(jnp.exp(self.log_probs), self.vectors)

    @property
    def scale(self) -> Array:
        square = self._mixed(jnp.exp(self.log_probs), self.vectors**2)
        return jnp.sqrt(jnp.maximum(square - self.loc**2, 0.0))

    def rsample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        if self.temperature is None:
            return super().sample(key, sample_shape)
        shape = (*sample_shape, *self.logits.shape)
        noise = random.gumbel(key, shape, self.logits.dtype)
        shares = jax.nn.softmax((self.logits + noise) / self.temperature, -3)
        return self._mixed(shares, self.vectors)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.rsample(key, sample_shape)

    def _mixed(self, shares: Array, vectors: Array) -> Array:
        return jnp.moveaxis(jnp.moveaxis(shares, -3, -1) @ vectors, -1, -3)


class NearestCode(dist.Distribution):
    r"""All probability on the code nearest to an encoder's output, with its gradient passed on.

    .. math:: z = z_e + \mathrm{stop}(e_k - z_e), \qquad k = \arg\min_j |z_e - e_j|^2

    Its divergence from uniform codes is log K a position (van den Oord et al. 2017, section 3.1).

    Args:
        z: (*batch, d, h, w), the encoder's output z_e.
        vectors: (K, d), the codebook.

    Attributes:
        indices: (*batch, h, w) of the codes.
        code: (*batch, d, h, w), their vectors, with the codebook's gradient.
        loc, scale: mean and (no) deviation of the value.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    reparametrized_params: ClassVar[list[str]] = ["z"]
    has_rsample = True
    pytree_data_fields = ("z", "vectors", "indices", "code")

    def __init__(self, z: Array, vectors: Array, *, validate_args: bool | None = None) -> None:
        self.z, self.vectors = z, vectors
        self.indices = nearest(z, vectors)
        self.code = embed(self.indices, vectors)
        super().__init__(z.shape[:-3], z.shape[-3:], validate_args=False)

    def expand(self, batch_shape: Sequence[int]) -> NearestCode:
        z = jnp.broadcast_to(self.z, (*batch_shape, *self.event_shape))
        return NearestCode(z, self.vectors)

    @property
    def loc(self) -> Array:
        return lax.stop_gradient(self.code)

    @property
    def scale(self) -> Array:
        return jnp.zeros_like(self.loc)

    def log_prob(self, value: Array) -> Array:
        """0 where `value` is the nearest codes' vectors, to rounding, else -inf."""
        zero = jnp.zeros((), value.dtype)
        return jnp.where(_close(value, self.loc), zero, -jnp.inf)

    def rsample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        # z_e + stop(e - z_e), put such that the value is e to the last bit.
        value = self.loc + (self.z - lax.stop_gradient(self.z))
        return jnp.broadcast_to(value, (*sample_shape, *self.batch_shape, *self.event_shape))

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.rsample(key, sample_shape)


@kl_divergence.register(NearestCode, Codes)
def _nearest_code(q: NearestCode, p: Codes) -> Array:
    return -p.log_prob_of(q.indices)


@kl_divergence.register(Codes, Codes)
def _codes(q: Codes, p: Codes) -> Array:
    return (jnp.exp(q.log_probs) * (q.log_probs - p.log_probs)).sum((-3, -2, -1))


class CodeView:
    """A net over one-hot codes (n, K, h, w) as a net over their vectors (n, d, h, w).

    What `Autoregressive` asks of a net; `net` is a `PixelCNNNet` of K channels.
    """

    def __init__(self, net: Any, vectors: Array) -> None:
        self.net, self.vectors = net, vectors
        self.x_shape = (vectors.shape[1], *net.x_shape[1:])

    def __call__(self, x: Array, features: Array | None = None) -> Array:
        found: Array = self.net(one_hot(x, self.vectors), features)
        return found

    def generate(
        self, pick: Callable[[Any, Array], Array], n: int, features: Array | None, rng_key: Any
    ) -> Array:
        def pick_code(key: Any, parameters: Array) -> Array:
            return one_hot(pick(key, parameters), self.vectors)

        drawn = self.net.generate(pick_code, n, features, rng_key)
        return embed(drawn.argmax(1), self.vectors)


def autoregressive_codes(
    net: Any,
    vectors: Array,
    n: int,
    features: Array | None = None,
    support: Any = None,
) -> Autoregressive:
    """n maps of codes, each code given those before it; values as of `Codes`."""

    def conditional(logits: Array) -> Codes:
        return Codes(vectors, logits)

    return Autoregressive(CodeView(net, vectors), conditional, (n,), features, support)


@kl_divergence.register(NearestCode, Autoregressive)
def nearest_in_order(q: NearestCode, p: Any) -> Array:
    """-log p of the codes by index: a codebook that learns moves their vectors meanwhile."""
    if not isinstance(p.net, CodeView):
        raise NotImplementedError
    found: Array = -p.log_prob(embed(q.indices, p.net.vectors))
    return found


def _close(value: Array, code: Array) -> Array:
    """Whether maps (…, d, h, w) are the same but for rounding, batch by batch."""
    value = lax.stop_gradient(value)
    return (jnp.abs(value - code) <= TOLERANCE * (1 + jnp.abs(code))).all((-3, -2, -1))
