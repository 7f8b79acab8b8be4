r"""Images and latent maps whose pixels depend on those before them.

.. math:: p(x) = \prod_{i, j} p(x_{ij} | x_{\text{before } ij}, s)
"""

from __future__ import annotations

__all__ = ["Autoregressive"]

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


class Autoregressive(TorchDistribution):
    """A causal net's distribution over maps (c, h, w), in raster order.

    All densities come from one pass; a draw goes pixel by pixel (`net.generate`). It serves as a
    likelihood and as the prior of a latent map alike. It has no mean in closed form.

    Args:
        net: `net(x, features)` gives parameters (rows, p, h, w), those of a pixel from the pixels
            before it; `net.generate(pick, rows, features)` draws; `net.x_shape` is (c, h, w).
        conditional: parameters (rows, p, h, w) to the distribution of all pixels given those
            before them: event shape (c, h, w), for maps of any size.
        batch_shape: such as (n,).
        features: *batch_shape, f, h, w: what all pixels may depend on.
        support: of a map, where it is not all of the real ones.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 3)
    has_rsample = False

    def __init__(
        self,
        net: Any,
        conditional: Callable[[Tensor], Any],
        batch_shape: Sequence[int],
        features: Tensor | None = None,
        support: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        self.net, self.conditional, self.features = net, conditional, features
        if support is not None:
            self.support = support
        super().__init__(torch.Size(batch_shape), torch.Size(net.x_shape), validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        new = self._get_checked_instance(Autoregressive, _instance)
        features = self.features
        if features is not None:
            features = features.expand(*batch_shape, *features.shape[-3:])
        Autoregressive.__init__(
            new, self.net, self.conditional, batch_shape, features, self.support
        )
        return new

    def conditionals(self, value: Tensor) -> Any:
        """The distribution of each pixel given those of `value` before it, rows flattened."""
        rows = value.reshape(-1, *self.event_shape)
        return self.conditional(self.net(rows, self._features(value.shape[:-3])))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of whole maps, nats: the batch shape of `value`."""
        shape = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        value = value.expand(*shape, *self.event_shape)
        rows = value.reshape(-1, *self.event_shape)
        return self.conditionals(value).log_prob(rows).reshape(shape)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        batch = shape[:-3]

        def pick(parameters: Tensor) -> Tensor:
            drawn: Tensor = self.conditional(parameters).sample()
            return drawn

        features = self._features(batch)
        return self.net.generate(pick, batch.numel(), features).reshape(shape)

    def _features(self, batch: Sequence[int]) -> Tensor | None:
        if self.features is None:
            return None
        event = self.features.shape[-3:]
        return self.features.expand(*batch, *event).reshape(-1, *event)
