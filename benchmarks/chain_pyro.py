r"""A hierarchy of Normal numbers in Pyro; `benchmarks.chain_numpyro` has the same.

.. math:: p(z_1, \dots, z_L) = \prod_{l=L}^{1} N(z_l; \mu_l(z_{>l}), \sigma_l^2(z_{>l})), \qquad
    x = (z_2, z_1)

The two lowest are shown, so the density of x is what the layers above make of it. One layer alone
holds both numbers, independent of each other.
"""

from __future__ import annotations

__all__ = ["Chain", "Conditional", "Copy"]

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.checks import check_batch
from ppl_vae.pyro import Guide, Site, bind


class Conditional(nn.Module):
    """Location and log scale: V h + c + W2 σ(W1 h + b)."""

    def __init__(self, num_inputs: int, num_outputs: int, hidden: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2 * num_outputs))
        self.inside = nn.Linear(num_inputs, hidden) if num_inputs else None
        if num_inputs:
            self.outside = nn.Linear(hidden, 2 * num_outputs, bias=False)
            self.skip = nn.Linear(num_inputs, 2 * num_outputs, bias=False)

    def forward(self, h: Tensor) -> dist.Distribution:
        found = self.bias.expand(len(h), -1)
        if self.inside is not None:
            found = found + self.outside(torch.sigmoid(self.inside(h))) + self.skip(h)
        loc, log_scale = found.chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


class Chain(nn.Module):
    """Layers of one Normal number each, the lowest two shown.

    Args:
        layers: L; 1 is one layer of two numbers.
        hidden: sigmoid units between a number and those above it.
    """

    def __init__(self, layers: int, hidden: int = 64) -> None:
        super().__init__()
        self.x_shape = (1, 1, 2)
        self.sizes = (2,) if layers == 1 else (1,) * layers
        self.nets = nn.ModuleList(Conditional(i, size, hidden) for i, size in enumerate(self.sizes))

    def forward(self, x: Tensor | None = None, *, n: int | None = None) -> Tensor:
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, pyro.plate("data", n):
            h = next(net.parameters()).new_zeros(n, 0)
            for i, conditional in enumerate(net.nets):
                z = pyro.sample(f"z{len(net.sizes) - i}", conditional(h))
                h = torch.cat([h, z], -1)
            shown = h[:, -2:].reshape(n, 1, 1, 2)
            return pyro.sample("x", dist.Delta(shown, event_dim=3), obs=x)


class Copy(Guide):
    """The shown numbers as they are; Normal posteriors above.

    Those see the shown numbers and the prior at hand, and so the latents above.
    """

    def __init__(self, model: Chain, hidden: int = 64) -> None:
        super().__init__(model)
        self.above = tuple(self.sites)[: max(0, len(model.sizes) - 2)]
        self.nets = nn.ModuleList(nn.Linear(4, hidden) for _ in self.above)
        self.more = nn.ModuleList(nn.Linear(hidden, hidden) for _ in self.above)
        self.heads = nn.ModuleList(nn.Linear(hidden, 2) for _ in self.above)

    def posterior(self, site: Site, features: Any) -> Any:
        numbers = features[:, 0, 0]
        if site.name not in self.above:
            own = numbers[:, -int(site.name[1:])][:, None] if len(self.sites) > 1 else numbers
            return dist.Delta(own, event_dim=1)
        i = self.above.index(site.name)
        h = torch.cat([numbers, site.prior.loc, site.prior.scale.log()], -1)
        h = torch.tanh(self.more[i](torch.tanh(self.nets[i](h))))
        loc, log_scale = self.heads[i](h).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp())
