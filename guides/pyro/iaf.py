r"""Inverse autoregressive flows on top of a Normal posterior (Kingma et al. 2016, algorithm 1).

A draw of the base goes through steps whose shift m and gate σ depend on the values before, and on
the image:

.. math::
    z^{t} = \sigma_t \odot z^{t-1} + (1 - \sigma_t) \odot m_t, \qquad
    [m_t, s_t] = \mathrm{MADE}_t(z^{t-1}, h(x)), \quad \sigma_t = \mathrm{sigmoid}(s_t + 2)

    \log q(z^T | x) = \log q(z^0 | x) - \sum_t \sum_i \log \sigma_{t,i}

Maps (channels, height, width) take NVAE's steps instead (Vahdat & Kautz 2020): masked convolutions
and a gate of one, z - m(z, h(x)), which keep volume. The order of the values is turned round from
step to step. The divergence has no closed form: log q - log p of the draw takes its place.
"""

from __future__ import annotations

__all__ = ["IAFGuide", "InverseAutoregressive"]

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn import functional

from guides.pyro.ladder import LadderGuide
from guides.pyro.mean_field import MeanFieldGuide
from guides.pyro.residual_normal import ResidualNormalGuide
from ppl_vae.errors import UsageError, nearest
from ppl_vae.pyro.flows import AutoregressiveShift
from ppl_vae.pyro.guide import Guide, Site
from ppl_vae.pyro.nets.made import MADE
from ppl_vae.pyro.nets.masked import ShiftNet
from ppl_vae.pyro.nets.mlp import linear

BASES: dict[str, type[MeanFieldGuide]] = {
    "mean_field": MeanFieldGuide,
    "ladder": LadderGuide,
    "residual_normal": ResidualNormalGuide,
}
OPEN = 2.0  # added to s, so that the gate begins nearly open and the flow near the identity


class InverseAutoregressive(Transform):
    """One step of the flow.

    The density of a draw takes input and log determinant from the cache, so that the net runs
    once; that of any other value solves for its input, one pass of the net for each of its
    entries.

    Args:
        net: (z, context) to m and s, (…, 2, D), strictly autoregressive.
        context: (…, C), of the batch.
        event_shape: of the values, D in all.
        reverse: the net begins with the last value.
    """

    bijective = True
    sign = 1

    def __init__(
        self,
        net: Callable[[Tensor, Tensor], Tensor],
        context: Tensor,
        event_shape: Sequence[int],
        reverse: bool = False,
        cache_size: int = 1,
    ) -> None:
        super().__init__(cache_size=cache_size)
        self.net, self.context = net, context
        self.event_shape, self.reverse = tuple(event_shape), reverse
        self.domain = constraints.independent(constraints.real, len(self.event_shape))
        self.codomain = self.domain
        self._log_gates: tuple[Any, Any] = (None, None)

    @property
    def order(self) -> tuple[int, ...]:
        """Positions of the flat values as the net takes them."""
        size = math.prod(self.event_shape)
        return tuple(reversed(range(size)) if self.reverse else range(size))

    def with_cache(self, cache_size: int = 1) -> InverseAutoregressive:
        if cache_size == self._cache_size:
            return self
        return InverseAutoregressive(
            self.net, self.context, self.event_shape, self.reverse, cache_size
        )

    def _call(self, x: Tensor) -> Tensor:
        z, shift, log_gate = self._step(x)
        if self._cache_size:
            self._log_gates = x, log_gate
        gate = log_gate.exp()
        return (gate * z + (1 - gate) * shift).reshape(x.shape)

    def _inverse(self, y: Tensor) -> Tensor:
        flat, x = self._flat(y), torch.zeros_like(self._flat(y))
        for i in self.order:  # each from those before it, which are known by then
            _, shift, log_gate = self._step(x.reshape(y.shape))
            x = x.clone()
            x[..., i] = (shift + (flat - shift) * torch.exp(-log_gate))[..., i]
        return x.reshape(y.shape)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        known, log_gate = self._log_gates
        if known is not x:
            log_gate = self._step(x)[2]
        return log_gate.sum(-1)

    def _step(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(z, m, log σ), flat, (…, D)."""
        z = self._flat(x)
        shift, raw = self.net(z, self.context).unbind(-2)
        return z, shift, functional.logsigmoid(raw + OPEN)

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[: x.dim() - len(self.event_shape)], -1)


class IAFGuide(Guide):
    """Flows on each site of a guide with Normal posteriors.

    Args:
        model: any program `model(x=None, *, n=None)`; its sites are read off it.
        base: whose posteriors the flows begin with, "mean_field", "ladder" or "residual_normal"
            (a key of `BASES`, which takes any class derived from `MeanFieldGuide`).
        flows: steps at each site.
        width: of the two hidden layers of each step's net over vectors; over maps a net is six
            times as wide as the site has channels.
        num_context: numbers that the image's features at a level hand to its flows.
        hidden, layers, net, activation, batch_norm: the base's, see `MeanFieldGuide`.
        name: under which stock SVI registers the parameters.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        base: Literal["mean_field", "ladder", "residual_normal"] = "mean_field",
        flows: int = 2,
        width: int = 64,
        num_context: int = 16,
        hidden: Sequence[int] | None = None,
        layers: int | None = None,
        net: str | None = None,
        activation: str | None = None,
        batch_norm: bool | None = None,
        *,
        name: str = "guide",
    ) -> None:
        super().__init__(model, name=name)
        for argument, value in (("flows", flows), ("width", width), ("num_context", num_context)):
            if value < 1:
                raise UsageError(f"{argument}: expected at least 1, came {value}")
        if base not in BASES:
            raise UsageError(f"base: unknown {base!r}: {nearest(base, BASES)}")
        self.base = BASES[base](model, hidden, layers, net, activation, batch_norm, name=name)
        self.order = self.base.order
        widths = self.base.tower.out_features
        self.contexts = nn.ModuleList(linear(size, num_context) for size in widths)
        self.flows = nn.ModuleList(
            nn.ModuleList(
                _net(self.sites[site], width, num_context, bool(t % 2)) for t in range(flows)
            )
            for site in self.order
        )

    def encode(self, x: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """(the base's messages, {site: context (n, num_context)})."""
        features = self.base.tower(x)
        contexts = {
            site: layer(d)
            for site, layer, d in zip(self.order, self.contexts, features, strict=True)
        }
        return self.base.messages(features), contexts

    def posterior(self, site: Site, features: tuple[Any, dict[str, Tensor]]) -> Any:
        """The base's Normal through the site's flows: batch shape (n,), event shape the site's."""
        messages, contexts = features
        normal = self.base.posterior(site, messages).to_event(len(site.event_shape))
        nets: Any = self.flows[self.order.index(site.name)]
        context = contexts[site.name]
        if len(site.event_shape) == 3:
            steps: list[Transform] = [AutoregressiveShift(net, context) for net in nets]
        else:
            steps = [
                InverseAutoregressive(net, context, site.event_shape, reverse=bool(t % 2))
                for t, net in enumerate(nets)
            ]
        return dist.TransformedDistribution(normal, steps)


def _net(event_shape: Sequence[int], width: int, num_context: int, reverse: bool) -> nn.Module:
    """Of one step: masked convolutions over maps, a masked perceptron over anything else."""
    if len(event_shape) == 3:
        return ShiftNet(event_shape[0], reverse, num_context=num_context)
    return MADE(math.prod(event_shape), num_context, (width, width), reverse=reverse)
