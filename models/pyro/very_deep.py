r"""The Very Deep VAE's generative model (Child 2021, arXiv 2011.10650, section 3).

.. math:: p(x, z) = p(x | z) \prod_{l=L}^{1} N(z_l; \mu(h_l), \sigma^2(h_l))

The state h is a map at each of several resolutions. A group of latents reads its prior off the
state and adds to it: what the prior's net found, the draw, and what a residual block makes of
both. The first group at a resolution takes in the state of a coarser one.
"""

from __future__ import annotations

__all__ = ["Group", "VeryDeepVAE"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from ppl_vae.checks import check_batch
from ppl_vae.errors import UsageError
from ppl_vae.pyro.bind import bind
from ppl_vae.pyro.likelihoods import Likelihood
from ppl_vae.pyro.nets.bottleneck import Bottleneck, pixel_conv
from ppl_vae.pyro.nets.precision import in_full
from ppl_vae.stages import Place, Pyramid, Stages, read_stages, read_widths


class Group(nn.Module):
    """p(z_l | z_{>l}) from the state, and the state with z_l taken in."""

    def __init__(self, pyramid: Pyramid, resolution: int, recompute: bool = False) -> None:
        super().__init__()
        channels, inner = pyramid.channels(resolution), pyramid.inner(resolution)
        gain = math.sqrt(1 / len(pyramid.places))
        latent = self.latent_channels = pyramid.latent_channels
        self.prior_net = Bottleneck(
            channels, inner, 2 * latent + channels, resolution, gain=0.0, recompute=recompute
        )
        self.project = pixel_conv(latent, channels, gain)
        self.residual = Bottleneck(
            channels, inner, channels, resolution, residual=True, gain=gain, recompute=recompute
        )

    def prior(self, h: Tensor) -> tuple[dist.Distribution, Tensor]:
        """Of z given the state, and what the state gains besides z.

        Args:
            h: (n, channels, side, side).

        Returns:
            (Normal maps (n, latent, side, side); increment as h).
        """
        head, increment = self.prior_net(h).tensor_split((2 * self.latent_channels,), 1)
        loc, log_scale = in_full(head).chunk(2, 1)
        return dist.Normal(loc, log_scale.exp()).to_event(3), increment

    def merge(self, h: Tensor, z: Tensor) -> Tensor:
        """The state (n, channels, side, side) with the draw (n, latent, side, side) taken in."""
        state: Tensor = self.residual(h + self.project(z))
        return state


class VeryDeepVAE(nn.Module):
    """Groups of latent maps at rising resolutions, zL the first at the lowest, z1 the last.

    A site's context is the state that its prior was read off, (n, channels, side, side).

    Args:
        x_shape: (channels, height, width); images in [0, 1].
        decoder: stages from the top down, as a string such as "1x1,4m1,8m4,8x2" or a list, see
            `ppl_vae.stages`. Images smaller than its last resolution are padded.
        width: channels of the state.
        widths: other channels at some resolutions, as "16:64,8:128" or a mapping.
        latent_channels: of a group's map.
        bottleneck: share of the channels within a block.
        max_bias: largest resolution whose state starts from a learned one, not from zero.
        likelihood: "bernoulli", "discretized_logistic", "discretized_logistic_mixture" or "normal".
        components, edges: of the mixture, see `ppl_vae.pyro.mixture`.
        num_levels: of the discretised likelihoods; images are brought down to fewer than 256
            before they are scored, not before the guide sees them.
        input_mean, input_scale: in grey levels; guides see (255 x - input_mean) / input_scale.
        recompute: blocks' activations are computed again for the gradient, not kept.
        together: so many groups of a resolution, one after another, read one state: their draws are
            independent given those above, and the state takes in the sum of what each adds. Fewer
            layers of latents with the same nets, as in the paper's table of depths.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        decoder: Stages = "1x1,4m1,4x2,8m4,8x3",
        width: int = 64,
        widths: str | Mapping[int, int] | None = None,
        latent_channels: int = 16,
        bottleneck: float = 0.25,
        max_bias: int = 64,
        likelihood: str = "bernoulli",
        components: int = 10,
        edges: str = "proper",
        num_levels: int = 256,
        input_mean: float = 127.5,
        input_scale: float = 127.5,
        recompute: bool = False,
        together: int = 1,
    ) -> None:
        super().__init__()
        self.x_shape = tuple(x_shape)
        self.pyramid = Pyramid(
            self.x_shape, read_stages(decoder, "decoder"), width, read_widths(widths),
            latent_channels, bottleneck, max_bias, together,
        )  # fmt: skip
        if num_levels < 2 or 256 % num_levels:
            raise UsageError(f"num_levels: expected 256, 128, … or 2, came {num_levels}")
        self.num_levels, self.edges = num_levels, edges
        self.likelihood = Likelihood(
            likelihood, components=components, num_levels=num_levels, edges=edges
        )
        self.input_mean, self.input_scale = input_mean, input_scale
        self.recompute = recompute
        self.starts = nn.ParameterList(
            torch.zeros(1, self.pyramid.channels(side), side, side) for side in self.pyramid.biases
        )
        self.groups = nn.ModuleList(
            Group(self.pyramid, place.resolution, recompute) for place in self.pyramid.places
        )
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.out = pixel_conv(width, self.likelihood.num_outputs(self.x_shape[0]))

    def forward(self, x: Tensor | None = None, *, n: int | None = None) -> Tensor:
        """Images (n, c, h, w): `x`, or n generated ones."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, pyro.plate("data", n):
            states: dict[int, Tensor] = {}
            for index, place in enumerate(net.pyramid.places):
                group: Any = net.groups[index]
                if place.fresh:
                    h = net.state(states, place, n)
                prior, increment = group.prior(h)
                z = pyro.sample(f"z{len(net.groups) - index}", prior, infer={"context": h})
                merged = group.merge(h + increment, z)
                if not place.fresh:  # what the others of its set have added to h
                    merged = merged + (states[place.resolution] - h)
                states[place.resolution] = merged
            image = net.likelihood(net.decode(states[net.pyramid.side]))
            return pyro.sample("x", image, obs=None if x is None else net.target(x))

    def target(self, x: Tensor) -> Tensor:
        """What is scored of images in [0, 1]: k / (num_levels - 1), or x itself.

        Published weights on 5 bits (edges "vdvae") score 8 k / 255 instead.
        """
        levels = self.num_levels
        if levels == 256 or not self.likelihood.name.startswith("discretized"):
            return x
        width = 256 // levels
        level = torch.floor((255 * x + 0.5) / width)  # the half holds a rounded k / 255 in its bin
        return level * (width / 255) if self.edges == "vdvae" else level / (levels - 1)

    def state(self, states: dict[int, Tensor], place: Place, n: int) -> Tensor:
        """Before the group at `place`: (n, channels, resolution, resolution)."""
        side, up, _ = place
        if side in states:
            h = states[side]
        elif side in self.pyramid.biases:
            start = self.starts[self.pyramid.biases.index(side)]
            h = start.expand(n, *start.shape[1:])
        else:
            h = self.gain.new_zeros(n, self.pyramid.channels(side), side, side)
        if up is None:
            return h
        above = states[up][:, : h.shape[1]]
        return h + functional.interpolate(above, scale_factor=side // up, mode="nearest")

    @property
    def rows(self) -> int:
        """Images that go through the nets at once."""
        return self.pyramid.rows

    def decode(self, h: Tensor) -> Tensor:
        """Likelihood parameters of the image from the last state: (n, parameters, h, w)."""
        (above, _), (left, _) = self.pyramid.margins
        _, height, width = self.x_shape
        h = self.out(h * self.gain + self.bias)
        return h[:, :, above : above + height, left : left + width]
