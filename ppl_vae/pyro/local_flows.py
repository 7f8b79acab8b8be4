r"""Inverse autoregressive flows of which every image has its own, for `ppl_vae.pyro.local`.

The vector u of an image's latents is cut into its sites. Each is pushed through steps whose shift m
and log scale a depend on the site's values before, and on the sites before (those above it, where
u follows a hierarchy from the top down):

.. math:: y_i = e^{a_i} u_i + m_i, \qquad [m, a] = \mathrm{MADE}(u, y_{\text{sites before}})

    \log |\det \partial y / \partial u| = \sum_i a_i

(Kingma et al. 2016, arXiv 1606.04934; Germain et al. 2015, MADE.) The order within a site turns
round from step to step. A net is one hidden layer and a direct connection, so that one step alone
holds every Normal; its last layer begins at zero, and the flow at the identity.
"""

from __future__ import annotations

__all__ = ["ImageFlows"]

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ppl_vae import made

BOUND = 2.0  # of the log scale of a step

Net = dict[str, Tensor]
"""One step's net for every image: "into" (n, width, inputs), "bias" (n, width), "out"
(n, 2 D, width), "direct" (n, 2 D, inputs)."""


class ImageFlows:
    """Flows over vectors u (rows, D), the rows being repeats of n images in turn.

    Args:
        sizes: of the sites in u, in their order.
        num_steps: at each site.
        width: of the hidden layer.
    """

    def __init__(self, sizes: Sequence[int], num_steps: int = 2, width: int = 64) -> None:
        self.sizes, self.num_steps, self.width = tuple(sizes), num_steps, width

    def begin(self, n: int, like: Tensor) -> list[list[Net]]:
        """Nets of n images for each site and step, at the identity; of `like`'s kind of number."""
        return [
            [self._net(n, size, before, like) for _ in range(self.num_steps)]
            for size, before in zip(self.sizes, self._before(), strict=True)
        ]

    def __call__(self, nets: list[list[Net]], u: Tensor) -> tuple[Tensor, Tensor]:
        """(y (rows, D), log determinant (rows,))."""
        n = len(nets[0][0]["bias"])
        rest = u.reshape(-1, n, u.shape[1])
        done, log_det = rest[..., :0], u.new_zeros(rest.shape[:2])
        for site, size in zip(nets, self.sizes, strict=True):
            y, rest = rest[..., :size], rest[..., size:]
            for step, net in enumerate(site):
                shift, log_scale = self._passed(net, y, done, reverse=bool(step % 2))
                y = log_scale.exp() * y + shift
                log_det = log_det + log_scale.sum(-1)
            done = torch.cat([done, y], -1)
        return done.reshape(u.shape), log_det.reshape(-1)

    @property
    def num_weights(self) -> int:
        """How many numbers the nets of one image hold."""
        return self.num_steps * sum(
            (size + before) * (self.width + 2 * size) + self.width * (1 + 2 * size)
            for size, before in zip(self.sizes, self._before(), strict=True)
        )

    def _before(self) -> list[int]:
        """For each site, how many numbers stand before it."""
        return [sum(self.sizes[:i]) for i in range(len(self.sizes))]

    def _net(self, n: int, size: int, before: int, like: Tensor) -> Net:
        inputs = size + before
        scale = (2 / (inputs + self.width)) ** 0.5
        return {
            "into": scale * torch.randn_like(like.new_empty(n, self.width, inputs)),
            "bias": like.new_zeros(n, self.width),
            "out": like.new_zeros(n, 2 * size, self.width),
            "direct": like.new_zeros(n, 2 * size, inputs),
        }

    def _passed(self, net: Net, y: Tensor, done: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
        """(shift, log scale) of y (repeats, n, D), strictly autoregressive."""
        size = y.shape[-1]
        ins, hidden, outs = made.degrees(size, done.shape[-1], (self.width,), 2, reverse)
        into, out, direct = (
            net[name] * torch.as_tensor(made.mask(below, above), dtype=y.dtype, device=y.device)
            for name, below, above in (
                ("into", ins, hidden),
                ("out", hidden, outs),
                ("direct", ins, outs),
            )
        )
        seen = torch.cat([y, done], -1)
        h = functional.elu(torch.einsum("rni,noi->rno", seen, into) + net["bias"])
        found = torch.einsum("rni,noi->rno", h, out) + torch.einsum("rni,noi->rno", seen, direct)
        return found[..., :size], BOUND * torch.tanh(found[..., size:] / BOUND)
