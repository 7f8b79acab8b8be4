r"""The variational autoencoder's generative model (Kingma & Welling 2014; Rezende et al. 2014).

.. math:: p(x, z_1) = N(z_1; 0, I)\; p(x | f(z_1))
"""

from __future__ import annotations

__all__ = ["VAE"]

from collections.abc import Sequence

import jax
import numpyro
from flax import nnx
from jax import Array

from ppl_vae.architecture import Architecture
from ppl_vae.checks import check_batch, check_latents
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.distributions import standard_normal
from ppl_vae.numpyro.likelihoods import Likelihood
from ppl_vae.numpyro.nets import decoder


class VAE(nnx.Module):
    """One latent vector under a standard normal, one net to the image.

    Trained with KL weight 0 it is the plain autoencoder; with beta above 1, the beta-VAE.

    Args:
        x_shape: (channels, height, width).
        latent: size of z1.
        hidden: widths from the data up; the decoder runs through them backwards. Channels where
            `net` is "conv".
        net: "mlp" or "conv".
        activation: see `ppl_vae.architecture`.
        likelihood: "bernoulli", "discretized_logistic", "discretized_logistic_mixture" or
            "normal".
        batch_norm: in the decoder, and in guides unless they are told otherwise.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent: int = 50,
        hidden: Sequence[int] = (200, 200),
        net: str = "mlp",
        activation: str = "tanh",
        likelihood: str = "bernoulli",
        batch_norm: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.x_shape = tuple(x_shape)
        self.latents = check_latents("latent", (latent,))
        self.architecture = Architecture(tuple(hidden), len(hidden), net, activation, batch_norm)
        self.likelihood = Likelihood(likelihood)
        self.decoder = decoder(
            latent,
            self.x_shape,
            hidden,
            self.architecture,
            self.likelihood.num_outputs(self.x_shape[0]),
            rngs=rngs,
        )

    def __call__(self, x: Array | None = None, *, n: int | None = None) -> Array:
        """Images (n, c, h, w): `x`, or n generated ones."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, numpyro.plate("data", n):
            like = jax.tree.leaves(nnx.state(net, nnx.Param))[0]
            prior = standard_normal(n, net.latents, like=like)
            z = numpyro.sample("z1", prior)
            return numpyro.sample("x", net.likelihood(net.decoder(z)), obs=x)
