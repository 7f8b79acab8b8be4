r"""Maps of codes under a prior for each label (van den Oord et al. 2016, PixelCNN Decoders, 2.3).

.. math:: p(z | y) = \prod_{ij} p(z_{ij} | z_{\text{before } ij}, y), \qquad
          p(z) = \frac1C \sum_{y=1}^C p(z | y)

The net sees the label as a map of features, one-hot at every position.
"""

from __future__ import annotations

__all__ = ["AnyLabel", "WithLabel", "labelled_codes"]

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import register_kl
from torch.nn import functional

from ppl_vae.pyro.autoregressive import Autoregressive
from ppl_vae.pyro.codes import Codes, CodeView, NearestCode, nearest_in_order


class AnyLabel(TorchDistribution):
    """Maps (d, h, w) of codes whose label is not known: the even mixture of all labels.

    Args:
        net: of the codes' vectors and C features, see `Autoregressive`.
        conditional: parameters to the distribution of all codes given those before them.
        num_labels: C.
        batch_shape: such as (n,).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(
        self,
        net: CodeView,
        conditional: Callable[[Tensor], Any],
        num_labels: int,
        batch_shape: Sequence[int],
        validate_args: bool | None = None,
    ) -> None:
        self.net, self.conditional, self.num_labels = net, conditional, num_labels
        super().__init__(torch.Size(batch_shape), torch.Size(net.x_shape), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(AnyLabel, _instance)
        AnyLabel.__init__(new, self.net, self.conditional, self.num_labels, batch_shape)
        return new

    def of(self, labels: Tensor) -> Autoregressive:
        """Maps of these labels (*batch), 0 to C - 1."""
        shown = functional.one_hot(labels, self.num_labels).to(self.net.vectors.dtype)
        shown = shown[..., None, None].expand(*shown.shape, *self.event_shape[1:])
        return Autoregressive(self.net, self.conditional, labels.shape, shown)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of whole maps, nats: the batch shape; C passes for each."""
        shape = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        rows = value.expand(*shape, *self.event_shape).reshape(-1, *self.event_shape)
        labels = torch.arange(self.num_labels, device=rows.device).repeat_interleave(len(rows))
        each = self.of(labels).log_prob(rows.repeat(self.num_labels, 1, 1, 1))
        mixed = each.unflatten(0, (self.num_labels, -1)).logsumexp(0)
        return (mixed - math.log(self.num_labels)).reshape(shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.of(self.labels(shape[:-3])).sample()

    def labels(self, shape: Sequence[int]) -> Tensor:
        """Labels drawn evenly."""
        return torch.randint(self.num_labels, tuple(shape), device=self.net.vectors.device)


register_kl(NearestCode, AnyLabel)(nearest_in_order)


class WithLabel(TorchDistribution):
    """Maps (d + 1, h, w) that carry their label as last channel: p(y) p(z | y), labels even.

    Args:
        maps: of codes of any label.
        support: of a map.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(self, maps: AnyLabel, support: Any, validate_args: bool | None = None) -> None:
        self.maps, self.support = maps, support
        event = (maps.event_shape[0] + 1, *maps.event_shape[1:])
        super().__init__(maps.batch_shape, torch.Size(event), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(WithLabel, _instance)
        WithLabel.__init__(new, self.maps.expand(batch_shape), self.support)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of label and map together, nats."""
        of_labels = self.maps.of(value[..., -1, 0, 0].long())
        return of_labels.log_prob(value[..., :-1, :, :]) - math.log(self.maps.num_labels)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        labels = self.maps.labels((*sample_shape, *self.batch_shape))
        drawn = self.maps.of(labels).sample()
        shown = labels[..., None, None, None].expand(*drawn.shape[:-3], 1, *drawn.shape[-2:])
        return torch.cat([drawn, shown.to(drawn.dtype)], -3)


def labelled_codes(
    net: Any, vectors: Tensor, n: int, num_labels: int, label: Any = None
) -> AnyLabel | Autoregressive:
    """n maps of codes, values as of `Codes`: of a label (one, or n of them), or of any."""

    def conditional(logits: Tensor) -> Codes:
        return Codes(vectors, logits)

    maps = AnyLabel(CodeView(net, vectors), conditional, num_labels, (n,))
    if label is None:
        return maps
    return maps.of(torch.as_tensor(label, device=vectors.device).long().expand(n))
