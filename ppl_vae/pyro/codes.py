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

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import register_kl
from torch.nn import functional

from ppl_vae.pyro.autoregressive import Autoregressive
from ppl_vae.pyro.nets.precision import in_full

TOLERANCE = 1e-4  # of a value beside its code's vector, per unit of their sizes


@torch.no_grad()
def nearest(values: Tensor, vectors: Tensor) -> Tensor:
    """Indices (…, h, w) of the codes nearest to `values` (…, d, h, w); the first of equals."""
    with torch.autocast(values.device.type, enabled=False):
        z = values.movedim(-3, -1).to(vectors.dtype)
        return (vectors.square().sum(-1) - 2 * (z @ vectors.T)).argmin(-1)


def embed(indices: Tensor, vectors: Tensor) -> Tensor:
    """Vectors (…, d, h, w) of the codes `indices` (…, h, w)."""
    return vectors[indices].movedim(-1, -3)


def one_hot(values: Tensor, vectors: Tensor) -> Tensor:
    """(…, K, h, w): 1 for the code nearest to `values` (…, d, h, w), 0 for the others."""
    indices = nearest(values, vectors)
    return functional.one_hot(indices, len(vectors)).movedim(-1, -3).to(vectors.dtype)


class Codes(TorchDistribution):
    """One categorical code at each position, independent of the others.

    Args:
        vectors: (K, d), the codebook.
        logits: (*batch, K, h, w), up to a constant at each position.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(self, vectors: Tensor, logits: Tensor, validate_args: bool | None = None) -> None:
        self.vectors, self.logits = vectors, logits
        event = (vectors.shape[1], *logits.shape[-2:])
        super().__init__(logits.shape[:-3], torch.Size(event), validate_args=False)

    @classmethod
    def uniform(cls, vectors: Tensor, n: int, sides: Sequence[int]) -> Self:
        """All codes alike at every position of n maps: log probability -h w log K."""
        return cls(vectors, vectors.new_zeros(()).expand(n, len(vectors), *sides))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(Codes, _instance)
        logits = self.logits.expand(*batch_shape, *self.logits.shape[-3:])
        Codes.__init__(new, self.vectors, logits)
        return new

    @property
    def log_probs(self) -> Tensor:
        """(*batch, K, h, w), nats."""
        return functional.log_softmax(self.logits, -3)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of whole maps, nats; -inf where a vector is none of the codebook's."""
        indices = nearest(value, self.vectors)
        known = _close(value, embed(indices, self.vectors))
        found = self.log_prob_of(indices)
        return torch.where(known, found, torch.full_like(found, -torch.inf))

    def log_prob_of(self, indices: Tensor) -> Tensor:
        """Log probability of codes (…, h, w), nats: the batch shape."""
        shape = torch.broadcast_shapes(indices.shape[:-2], self.batch_shape)
        log_probs = self.log_probs.expand(*shape, *self.logits.shape[-3:])
        chosen = indices.expand(*shape, *indices.shape[-2:]).unsqueeze(-3)
        return log_probs.gather(-3, chosen).sum((-3, -2, -1))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        logits = self.logits.movedim(-3, -1)
        drawn = torch.distributions.Categorical(logits=logits).sample(torch.Size(sample_shape))
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

    def __init__(
        self,
        vectors: Tensor,
        logits: Tensor,
        temperature: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.temperature = temperature
        super().__init__(vectors, logits)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(RelaxedCodes, _instance)
        logits = self.logits.expand(*batch_shape, *self.logits.shape[-3:])
        RelaxedCodes.__init__(new, self.vectors, logits, self.temperature)
        return new

    @property
    def indices(self) -> Tensor:
        return self.logits.argmax(-3)

    @property
    def loc(self) -> Tensor:
        return self._mixed(self.log_probs.exp(), self.vectors)

    @property
    def scale(self) -> Tensor:
        square = self._mixed(self.log_probs.exp(), self.vectors.square())
        return (square - self.loc.square()).clamp(min=0.0).sqrt()

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        if self.temperature is None:
            return self.sample(sample_shape)
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        noise = -torch.empty_like(logits).exponential_().log()
        return self._mixed(((logits + noise) / self.temperature).softmax(-3), self.vectors)

    def _mixed(self, shares: Tensor, vectors: Tensor) -> Tensor:
        return in_full(shares.movedim(-3, -1) @ vectors).movedim(-1, -3)


class NearestCode(TorchDistribution):
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
    has_rsample = True

    def __init__(self, z: Tensor, vectors: Tensor, validate_args: bool | None = None) -> None:
        self.vectors = vectors
        indices = nearest(z, vectors)
        self._set(z, indices, embed(indices, vectors))

    def _set(self, z: Tensor, indices: Tensor, code: Tensor) -> None:
        self.z, self.indices, self.code = z, indices, code
        super().__init__(z.shape[:-3], z.shape[-3:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(NearestCode, _instance)
        new.vectors = self.vectors
        new._set(
            self.z.expand(*batch_shape, *self.event_shape),
            self.indices.expand(*batch_shape, *self.event_shape[1:]),
            self.code.expand(*batch_shape, *self.event_shape),
        )
        return new

    @property
    def loc(self) -> Tensor:
        return self.code.detach()

    @property
    def scale(self) -> Tensor:
        return torch.zeros_like(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """0 where `value` is the nearest codes' vectors, to rounding, else -inf."""
        zero = value.new_zeros(())
        return torch.where(_close(value, self.code.detach()), zero, zero - torch.inf)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        # z_e + stop(e - z_e), put such that the value is e to the last bit.
        value = self.code.detach() + (self.z - self.z.detach())
        return value.expand(self._extended_shape(torch.Size(sample_shape)))


@register_kl(NearestCode, Codes)
def _nearest_code(q: NearestCode, p: Codes) -> Tensor:
    return -p.log_prob_of(q.indices)


@register_kl(Codes, Codes)
def _codes(q: Codes, p: Codes) -> Tensor:
    return (q.log_probs.exp() * (q.log_probs - p.log_probs)).sum((-3, -2, -1))


class CodeView:
    """A net over one-hot codes (n, K, h, w) as a net over their vectors (n, d, h, w).

    What `Autoregressive` asks of a net; `net` is a `PixelCNNNet` of K channels.
    """

    def __init__(self, net: Any, vectors: Tensor) -> None:
        self.net, self.vectors = net, vectors
        self.x_shape = (vectors.shape[1], *net.x_shape[1:])

    def __call__(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        found: Tensor = self.net(one_hot(x, self.vectors), features)
        return found

    def generate(
        self, pick: Callable[[Tensor], Tensor], n: int, features: Tensor | None = None
    ) -> Tensor:
        def pick_code(parameters: Tensor) -> Tensor:
            return one_hot(pick(parameters), self.vectors)

        return embed(self.net.generate(pick_code, n, features).argmax(1), self.vectors)


def autoregressive_codes(
    net: Any,
    vectors: Tensor,
    n: int,
    features: Tensor | None = None,
    support: Any = None,
) -> Autoregressive:
    """n maps of codes, each code given those before it; values as of `Codes`."""

    def conditional(logits: Tensor) -> Codes:
        return Codes(vectors, logits)

    return Autoregressive(CodeView(net, vectors), conditional, (n,), features, support)


@register_kl(NearestCode, Autoregressive)
def nearest_in_order(q: NearestCode, p: Any) -> Tensor:
    """-log p of the codes by index: a codebook that learns moves their vectors meanwhile."""
    if not isinstance(p.net, CodeView):
        raise NotImplementedError
    found: Tensor = -p.log_prob(embed(q.indices, p.net.vectors))
    return found


def _close(value: Tensor, code: Tensor) -> Tensor:
    """Whether maps (…, d, h, w) are the same but for rounding, batch by batch."""
    away = (value - code).abs() > TOLERANCE * (1 + code.abs())
    return ~away.any(-1).any(-1).any(-1)
