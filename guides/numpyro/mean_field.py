r"""Every site's posterior from the image alone.

.. math:: q(z | x) = \prod_l N(z_l; \hat\mu_l(x), \hat\sigma_l^2(x))

With one latent site this is the VAE's inference network (Kingma & Welling 2014).
"""

from __future__ import annotations

__all__ = ["MeanFieldGuide"]

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from jax import Array

from guides.numpyro.encoders import Tower
from ppl_vae.architecture import Architecture
from ppl_vae.numpyro.guide import Guide, Site, data_shape
from ppl_vae.numpyro.nets import GaussianHead


class MeanFieldGuide(Guide):
    """A tower of features over the image, a Gaussian head at each level.

    Args:
        model: any program `model(x=None, *, n=None)`; its sites are read off it.
        hidden, layers, net, activation, batch_norm: None takes the model's own architecture
            (see `ppl_vae.architecture`), or a default where it has none.
        name: of the guide's parameters among the program's sites.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        hidden: Sequence[int] | None = None,
        layers: int | None = None,
        net: str | None = None,
        activation: str | None = None,
        batch_norm: bool | None = None,
        *,
        rngs: nnx.Rngs,
        name: str = "guide",
    ) -> None:
        super().__init__(model, name=name)
        changes = {"layers": layers, "net": net, "activation": activation, "batch_norm": batch_norm}
        architecture = Architecture.of(model, len(self.sites), hidden=hidden, **changes)
        self.tower = Tower(data_shape(model), len(self.sites), architecture, rngs=rngs)
        self.order = tuple(reversed(self.sites))  # z1, nearest the data, first: as the tower runs
        self.heads = nnx.List(
            [
                GaussianHead(num_inputs, self.sites[site], rngs=rngs)
                for num_inputs, site in zip(self.tower.out_features, self.order, strict=True)
            ]
        )

    def encode(self, x: Array) -> dict[str, tuple[Array, Array]]:
        """{site: (loc, variance)} of the data's message, each (n, *event_shape)."""
        return self.messages(self.tower(x))

    def messages(self, features: list[Array]) -> dict[str, tuple[Array, Array]]:
        """What `encode` gives, from the tower's features [d_1, …, d_L]."""
        return {
            site: head(d) for site, head, d in zip(self.order, self.heads, features, strict=True)
        }

    def posterior(self, site: Site, features: dict[str, tuple[Array, Array]]) -> Any:
        """Normal (n, *event_shape): the image's message, whatever the latents above."""
        loc, variance = features[site.name]
        return dist.Normal(loc, jnp.sqrt(variance))
