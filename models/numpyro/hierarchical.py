r"""The deep hierarchical generative model of Sønderby et al. 2016 (Ladder VAE, section 2.1).

.. math:: p(x, z) = p(x | z_1)\, N(z_L; 0, I) \prod_{l<L} N(z_l; \mu(z_{l+1}), \sigma^2(z_{l+1}))
"""

from __future__ import annotations

__all__ = ["Group", "HierarchicalVAE"]

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array

from ppl_vae.architecture import Architecture
from ppl_vae.checks import check_batch, check_latents
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.distributions import standard_normal
from ppl_vae.numpyro.likelihoods import Likelihood
from ppl_vae.numpyro.nets import MLP, GaussianHead, decoder


class Group(nnx.Module):
    """p(z_l | z_{l+1}): an MLP and a Gaussian head."""

    def __init__(
        self,
        num_above: int,
        latent: int,
        widths: Sequence[int],
        architecture: Architecture,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.mlp = MLP(
            num_above, widths, architecture.activation, architecture.batch_norm, rngs=rngs
        )
        self.head = GaussianHead(widths[-1], (latent,), rngs=rngs)

    def prior(self, h: Array) -> dist.Distribution:
        """p(z_l | z_{l+1}), (n, latent), by what `mlp` makes of z_{l+1}: h (n, widths[-1])."""
        loc, variance = self.head(h)
        return dist.Normal(loc, jnp.sqrt(variance)).to_event(1)


class HierarchicalVAE(nnx.Module):
    """L stochastic layers, each a Gaussian given the one above.

    Args:
        x_shape: (channels, height, width).
        latents: sizes of z1 (nearest the data) to zL (top).
        hidden: width of the nets at each level; hidden[0] stands between x and z1.
        layers: layers of each net; with a single latent `hidden` lists them itself.
        net: "mlp", or "conv" between z1 and the image; hidden[0] then is its channels, halving
            the image's sides `layers` times.
        activation: see `ppl_vae.architecture`.
        likelihood: "bernoulli", "discretized_logistic", "discretized_logistic_mixture" or
            "normal".
        batch_norm: before every activation, and in guides unless they are told otherwise.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latents: Sequence[int] = (64, 32, 16, 8, 4),
        hidden: Sequence[int] = (512, 256, 128, 64, 32),
        layers: int = 2,
        net: str = "mlp",
        activation: str = "leaky_relu",
        likelihood: str = "bernoulli",
        batch_norm: bool = True,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.x_shape = tuple(x_shape)
        self.latents = check_latents("latents", latents)
        self.architecture = Architecture(tuple(hidden), layers, net, activation, batch_norm)
        self.likelihood = Likelihood(likelihood)
        widths = self.architecture.widths(len(self.latents))
        self.groups = nnx.List(
            [
                Group(above, latent, width, self.architecture, rngs=rngs)
                for above, latent, width in zip(latents[1:], latents[:-1], widths[1:], strict=True)
            ]
        )
        self.decoder = decoder(
            latents[0],
            self.x_shape,
            widths[0],
            self.architecture,
            self.likelihood.num_outputs(self.x_shape[0]),
            rngs=rngs,
        )

    def __call__(self, x: Array | None = None, *, n: int | None = None) -> Array:
        """Images (n, c, h, w): `x`, or n generated ones."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, numpyro.plate("data", n):
            top = len(net.latents)
            like = jax.tree.leaves(nnx.state(net, nnx.Param))[0]
            prior = standard_normal(n, net.latents[-1:], like=like)
            z = numpyro.sample(f"z{top}", prior)
            for level in range(top - 1, 0, -1):
                group = net.groups[level - 1]
                h = group.mlp(z)
                z = numpyro.sample(f"z{level}", group.prior(h), infer={"context": h})
            return numpyro.sample("x", net.likelihood(net.decoder(z)), obs=x)
