r"""VQ-VAE-2 (Razavi, van den Oord & Vinyals 2019, arXiv 1906.00446): two maps of discrete codes.

.. math:: p(x, z) = p(z_2)\, p(z_1 | z_2)\, p(x | z_1, z_2)

z2, of half the sides of z1, is for what the image is as a whole, z1 for its detail. Both priors are
uniform, or autoregressive, that of z1 given z2: learned with the pair, or after it by `CodePrior2`.
"""

from __future__ import annotations

__all__ = ["VQVAE2"]

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpyro
from flax import nnx
from jax import Array

from models.numpyro.code_prior_2 import TwoPriors
from ppl_vae.architecture import Architecture
from ppl_vae.checks import check_batch
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.codes import Codes
from ppl_vae.numpyro.likelihoods import Likelihood
from ppl_vae.numpyro.nets import MapDecoder, halved
from ppl_vae.numpyro.nets.code_maps import CodeDecoder
from ppl_vae.numpyro.nets.codebook import Codebook


class VQVAE2(nnx.Module):
    """Two maps of codes, each with a codebook of its own, and a decoder over both.

    Args:
        x_shape: (channels, height, width).
        codes: K of either codebook.
        code_dim: numbers of a code's vector.
        hidden: channels of guides' strided convolutions from the image to the sides of z1, each
            halving them; one more of the last width leads to z2.
        blocks: residual blocks on the maps' sides, in the decoder and in guides.
        activation: see `ppl_vae.architecture`.
        likelihood: of an image given the codes.
        batch_norm: in the decoders, and in guides unless they are told otherwise.
        update, decay, start, restart: see `ppl_vae.numpyro.nets.codebook.Codebook`.
        prior_layers: of the codes' autoregressive priors; 0 leaves them uniform.
        prior_channels, prior_kernel, prior_net: see `VQVAE`.
        prior_labels: C labels, each with a prior of z2 of its own; images of unknown label are
            under their even mixture. 0 for none.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        codes: int = 64,
        code_dim: int = 16,
        hidden: Sequence[int] = (32, 64),
        blocks: int = 0,
        activation: str = "relu",
        likelihood: str = "bernoulli",
        batch_norm: bool = False,
        update: str = "ema",
        decay: float = 0.99,
        start: str = "kmeans",
        restart: float = 0.01,
        prior_layers: int = 0,
        prior_channels: int = 32,
        prior_kernel: int = 3,
        prior_net: str = "pixel_cnn",
        prior_labels: int = 0,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.x_shape, self.blocks = tuple(x_shape), blocks
        self.architecture = Architecture(tuple(hidden), len(hidden), "conv", activation, batch_norm)
        self.likelihood, self.num_labels = Likelihood(likelihood), prior_labels
        self.sides = halved(x_shape[1], x_shape[2], len(hidden) + 1)[-2:]  # of z1, of z2
        self.codebooks = nnx.List(
            [
                Codebook(codes, code_dim, update, decay, start, restart, rngs=rngs)
                for _ in self.sides
            ]
        )
        low, high = ((code_dim, *sides) for sides in self.sides)
        self.rise = MapDecoder(high, low, 1, activation, batch_norm, rngs=rngs)
        outputs = self.likelihood.num_outputs(self.x_shape[0])
        self.decoder = CodeDecoder(
            (2 * code_dim, *self.sides[0]),
            self.x_shape,
            tuple(hidden),
            outputs,
            blocks,
            activation,
            batch_norm,
            rngs=rngs,
        )
        size = (prior_channels, prior_layers, prior_kernel, prior_net, prior_labels)
        self.priors = (
            TwoPriors(self.sides, codes, *size, rngs=rngs) if prior_layers else nnx.data(None)
        )

    def __call__(self, x: Array | None = None, *, n: int | None = None, label: Any = None) -> Array:
        """Images (n, c, h, w): `x`, or n generated ones; of a label (one, or n)."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, numpyro.plate("data", n):
            low, high = net.codebooks
            prior: Any
            if net.priors is None:
                prior = Codes.uniform(high.vectors, n, net.sides[1])
            else:
                prior = net.priors.of_upper(high.vectors, n, label)
            z2 = numpyro.sample("z2", prior, infer={"context": (high, None)})
            above = net.rise(z2)
            if net.priors is None:
                prior = Codes.uniform(low.vectors, n, net.sides[0])
            else:
                prior = net.priors.of_lower(low.vectors, z2, high.vectors)
            z1 = numpyro.sample("z1", prior, infer={"context": (low, above)})
            image = net.likelihood(net.decoder(jnp.concatenate([z1, above], 1)))
            return numpyro.sample("x", image, obs=x)
