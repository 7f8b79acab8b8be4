r"""The Very Deep VAE's guide (Child 2021, arXiv 2011.10650, section 3).

.. math:: q(z_l | z_{>l}, x) = N(\mu(h_l, d_l(x)),\ \sigma^2(h_l, d_l(x)))

A tower of residual blocks reads the image up to the top; the last map at each resolution is d. At
each group it meets the state h that the prior was read off.
"""

from __future__ import annotations

__all__ = ["BottleneckTower", "VeryDeepGuide"]

import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ppl_vae.errors import UsageError
from ppl_vae.numpyro.guide import Guide, Site
from ppl_vae.numpyro.map_normal import MapNormal
from ppl_vae.numpyro.nets.bottleneck import Bottleneck, conv
from ppl_vae.stages import Pyramid, Stage, Stages, read_stages


class BottleneckTower(nnx.Module):
    """Residual blocks upwards; the last map at each resolution is kept.

    Args:
        pyramid: of the model.
        encoder: stages from the image up.
        recompute: blocks' activations are computed again for the gradient, not kept.
        rngs: for the initial weights.
    """

    def __init__(
        self, pyramid: Pyramid, encoder: tuple[Stage, ...], recompute: bool, *, rngs: nnx.Rngs
    ) -> None:
        self.pyramid = pyramid
        self.path = pyramid.climb(encoder)
        gain = math.sqrt(1 / len(self.path))
        self.stem = conv(pyramid.x_shape[0], pyramid.width, 3, rngs=rngs)
        self.blocks = nnx.List(
            [
                Bottleneck(
                    pyramid.channels(side), pyramid.inner(side), pyramid.channels(side), side,
                    residual=True, gain=gain, recompute=recompute, rngs=rngs,
                )
                for side, _ in self.path
            ]
        )  # fmt: skip

    def __call__(self, x: Array) -> dict[int, Array]:
        """{resolution: (n, resolution, resolution, channels)} of inputs (n, side, side, c)."""
        h = self.stem(x)
        found = {self.pyramid.side: h}
        for block, (side, down) in zip(self.blocks, self.path, strict=True):
            h = block(h)
            if down > 1:
                h = _pooled(h, down)
            more = self.pyramid.channels(side // down) - h.shape[-1]
            if more:
                h = jnp.pad(h, ((0, 0), (0, 0), (0, 0), (0, more)))
            found[side // down] = h
        return found


def _pooled(h: Array, down: int) -> Array:
    """Means over squares of `down` × `down`, which the sides hold a whole number of."""
    n, height, width, c = h.shape
    return h.reshape(n, height // down, down, width // down, down, c).mean((2, 4))


class VeryDeepGuide(Guide):
    """The tower's map at a group's resolution beside the state there: a Normal, pixel by pixel.

    Args:
        model: a `VeryDeepVAE`.
        encoder: stages from the image up, as a string such as "8x2,8d2,4x1,4d4,1x1" or a list, see
            `ppl_vae.stages`; None mirrors the model's decoder.
        recompute: None takes the model's choice.
        name: of the guide's parameters among the program's sites.
        rngs: for the initial weights.

    Raises:
        UsageError: the model is no VeryDeepVAE; a stage that nothing leads to, or none where a
            group of latents stands.
    """

    def __init__(
        self,
        model: Any,
        encoder: Stages | None = None,
        recompute: bool | None = None,
        *,
        rngs: nnx.Rngs,
        name: str = "guide",
    ) -> None:
        if not isinstance(getattr(model, "pyramid", None), Pyramid):
            raise UsageError(
                f"model: VeryDeepGuide answers VeryDeepVAE alone, came {type(model).__name__}: "
                "take another guide, such as LadderGuide, for it"
            )
        super().__init__(model, name=name)
        self.pyramid: Pyramid = model.pyramid
        self.input_mean, self.input_scale = model.input_mean, model.input_scale
        recompute = model.recompute if recompute is None else recompute
        stages = read_stages(encoder, "encoder") if encoder else self.pyramid.default_encoder()
        self.tower = BottleneckTower(self.pyramid, stages, recompute, rngs=rngs)
        self.order = tuple(self.sites)  # from the top down, as the groups stand
        self.heads = nnx.List(
            [
                Bottleneck(
                    2 * self.pyramid.channels(side), self.pyramid.inner(side),
                    2 * self.pyramid.latent_channels, side, recompute=recompute, rngs=rngs,
                )
                for side, *_ in self.pyramid.places
            ]
        )  # fmt: skip

    def encode(self, x: Array) -> dict[int, Array]:
        """{resolution: (n, resolution, resolution, channels)} of the tower."""
        x = jnp.pad(x, ((0, 0), (0, 0), *self.pyramid.margins)).transpose(0, 2, 3, 1)
        return self.tower((255 * x - self.input_mean) / self.input_scale)

    def posterior(self, site: Site, features: dict[int, Array]) -> Any:
        """Normal maps (n, latent, side, side) from the state and the tower's map of that size."""
        index = self.order.index(site.name)
        seen = features[self.pyramid.places[index].resolution]
        state = site.context.transpose(0, 2, 3, 1)
        h = self.heads[index](jnp.concatenate([state, seen], -1))
        loc, log_scale = jnp.split(h, 2, -1)
        return MapNormal(loc, jnp.exp(log_scale))
