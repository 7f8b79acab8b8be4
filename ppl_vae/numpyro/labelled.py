r"""Maps of codes under a prior for each label (van den Oord et al. 2016, PixelCNN Decoders, 2.3).

.. math:: p(z | y) = \prod_{ij} p(z_{ij} | z_{\text{before } ij}, y), \qquad
          p(z) = \frac1C \sum_{y=1}^C p(z | y)

The net sees the label as a map of features, one-hot at every position.
"""

from __future__ import annotations

__all__ = ["AnyLabel", "WithLabel", "labelled_codes"]

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, random
from numpyro.distributions import constraints
from numpyro.distributions.kl import kl_divergence

from ppl_vae.numpyro.autoregressive import Autoregressive
from ppl_vae.numpyro.codes import Codes, CodeView, NearestCode, nearest_in_order


class AnyLabel(dist.Distribution):
    """Maps (d, h, w) of codes whose label is not known: the even mixture of all labels.

    Args:
        net: of the codes' vectors and C features, see `Autoregressive`.
        conditional: parameters to the distribution of all codes given those before them.
        num_labels: C.
        batch_shape: such as (n,).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    reparametrized_params: ClassVar[list[str]] = []
    pytree_data_fields = ("net",)
    pytree_aux_fields = ("conditional", "num_labels")

    def __init__(
        self,
        net: CodeView,
        conditional: Callable[[Array], Any],
        num_labels: int,
        batch_shape: Sequence[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.net, self.conditional, self.num_labels = net, conditional, num_labels
        super().__init__(tuple(batch_shape), tuple(net.x_shape), validate_args=False)

    def expand(self, batch_shape: Sequence[int]) -> AnyLabel:
        return AnyLabel(self.net, self.conditional, self.num_labels, batch_shape)

    def of(self, labels: Array) -> Autoregressive:
        """Maps of these labels (*batch), 0 to C - 1."""
        shown = jax.nn.one_hot(labels, self.num_labels, dtype=self.net.vectors.dtype)
        shape = (*shown.shape, *self.event_shape[1:])
        shown = jnp.broadcast_to(shown[..., None, None], shape)
        return Autoregressive(self.net, self.conditional, labels.shape, shown)

    def log_prob(self, value: Array) -> Array:
        """Log probability of whole maps, nats: the batch shape; C passes for each."""
        shape = jnp.broadcast_shapes(value.shape[:-3], self.batch_shape)
        rows = jnp.broadcast_to(value, (*shape, *self.event_shape)).reshape(-1, *self.event_shape)
        labels = jnp.repeat(jnp.arange(self.num_labels), len(rows))
        each = self.of(labels).log_prob(jnp.tile(rows, (self.num_labels, 1, 1, 1)))
        mixed = jax.nn.logsumexp(each.reshape(self.num_labels, -1), axis=0)
        return (mixed - math.log(self.num_labels)).reshape(shape)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        choose, draw = random.split(key)
        labels = self.labels(choose, (*sample_shape, *self.batch_shape))
        return self.of(labels).sample(draw)

    def labels(self, key: Any, shape: Sequence[int]) -> Array:
        """Labels drawn evenly."""
        return random.randint(key, tuple(shape), 0, self.num_labels)


kl_divergence.register(NearestCode, AnyLabel)(nearest_in_order)


class WithLabel(dist.Distribution):
    """Maps (d + 1, h, w) that carry their label as last channel: p(y) p(z | y), labels even.

    Args:
        maps: of codes of any label.
        support: of a map.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    reparametrized_params: ClassVar[list[str]] = []
    pytree_data_fields = ("maps",)
    pytree_aux_fields = ("support",)

    def __init__(self, maps: AnyLabel, support: Any, *, validate_args: bool | None = None) -> None:
        self.maps, self.support = maps, support
        event = (maps.event_shape[0] + 1, *maps.event_shape[1:])
        super().__init__(maps.batch_shape, event, validate_args=False)

    def expand(self, batch_shape: Sequence[int]) -> WithLabel:
        return WithLabel(self.maps.expand(batch_shape), self.support)

    def log_prob(self, value: Array) -> Array:
        """Log probability of label and map together, nats."""
        of_labels = self.maps.of(value[..., -1, 0, 0].astype(int))
        return of_labels.log_prob(value[..., :-1, :, :]) - math.log(self.maps.num_labels)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        choose, draw = random.split(key)
        labels = self.maps.labels(choose, (*sample_shape, *self.batch_shape))
        drawn = self.maps.of(labels).sample(draw)
        shape = (*drawn.shape[:-3], 1, *drawn.shape[-2:])
        shown = jnp.broadcast_to(labels[..., None, None, None], shape)
        return jnp.concatenate([drawn, shown.astype(drawn.dtype)], -3)


def labelled_codes(
    net: Any, vectors: Array, n: int, num_labels: int, label: Any = None
) -> AnyLabel | Autoregressive:
    """n maps of codes, values as of `Codes`: of a label (one, or n of them), or of any."""

    def conditional(logits: Array) -> Codes:
        return Codes(vectors, logits)

    maps = AnyLabel(CodeView(net, vectors), conditional, num_labels, (n,))
    if label is None:
        return maps
    return maps.of(jnp.broadcast_to(jnp.asarray(label, int), (n,)))
