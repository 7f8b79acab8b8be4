r"""VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937): a map of discrete codes behind an image.

.. math:: p(x, z) = \prod_{ij} \frac1K\; p(x | z), \qquad z_{ij} \in \{e_1, \dots, e_K\}

The value of z1 is the map of the codes' vectors. Once pair and codebook are trained, a `CodePrior`
is trained on the codes of the training images, and takes the uniform prior's place.
"""

from __future__ import annotations

__all__ = ["VQVAE", "CodePrior"]

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpyro
from flax import nnx
from jax import Array
from numpyro.distributions import constraints

from ppl_vae.architecture import Architecture
from ppl_vae.checks import check_batch
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.codes import Codes, autoregressive_codes
from ppl_vae.numpyro.labelled import WithLabel, labelled_codes
from ppl_vae.numpyro.likelihoods import Likelihood
from ppl_vae.numpyro.nets import causal_net, halved
from ppl_vae.numpyro.nets.code_maps import CodeDecoder
from ppl_vae.numpyro.nets.codebook import Codebook, Grid


class VQVAE(nnx.Module):
    """One map of codes, a convolutional decoder over their vectors.

    Args:
        x_shape: (channels, height, width).
        codes: K.
        code_dim: numbers of a code's vector.
        hidden: channels of guides' strided convolutions from the image on, each halving its
            sides, so that the map has the last ones; the decoder has the first.
        blocks: residual blocks on the map's sides, in the decoder and in guides.
        activation: see `ppl_vae.architecture`.
        likelihood: of an image given the codes.
        batch_norm: in the decoder, and in guides unless they are told otherwise.
        levels: of a fixed grid of codes (finite scalar quantisation), K their product; None
            learns the codebook.
        update, decay, start, restart: how, see `ppl_vae.numpyro.nets.codebook.Codebook`.
        prior_layers: of the codes' autoregressive prior; 0 leaves it uniform.
        prior_channels, prior_kernel: its size.
        prior_net: "pixel_cnn" or "transformer".
        prior_labels: C labels, each with a prior of its own; images of unknown label are under
            their even mixture. 0 for none.
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
        levels: Sequence[int] | None = None,
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
        self.sides = halved(x_shape[1], x_shape[2], len(hidden))[-1]
        self.codebook: Codebook | Grid = (
            Codebook(codes, code_dim, update, decay, start, restart, rngs=rngs)
            if levels is None
            else Grid(levels)
        )
        num_codes, dim = self.codebook.vectors.shape
        self.decoder = CodeDecoder(
            (dim, *self.sides),
            self.x_shape,
            tuple(hidden),
            self.likelihood.num_outputs(self.x_shape[0]),
            blocks,
            activation,
            batch_norm,
            rngs=rngs,
        )
        shape = (num_codes, *self.sides)
        self.prior = (
            causal_net(
                prior_net,
                shape,
                num_codes,
                prior_channels,
                prior_layers,
                prior_kernel,
                prior_labels,
                rngs=rngs,
            )
            if prior_layers
            else nnx.data(None)
        )

    def __call__(self, x: Array | None = None, *, n: int | None = None, label: Any = None) -> Array:
        """Images (n, c, h, w): `x`, or n generated ones; of a label (one, or n)."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, numpyro.plate("data", n):
            vectors = net.codebook.vectors
            prior: Any
            if net.prior is None:
                prior = Codes.uniform(vectors, n, net.sides)
            elif net.num_labels:
                prior = labelled_codes(net.prior, vectors, n, net.num_labels, label)
            else:
                prior = autoregressive_codes(net.prior, vectors, n)
            z = numpyro.sample("z1", prior, infer={"context": net.codebook})
            return numpyro.sample("x", net.likelihood(net.decoder(z)), obs=x)


class CodePrior(nnx.Module):
    """Maps of codes under a causal net, as a program of its own: a site "x" of indices.

    Args:
        x_shape: (1, height, width) of the maps; with labels (2, height, width), the second channel
            the label at every position.
        codes: K; values are 0 to K - 1.
        channels, layers, kernel_size: see `ppl_vae.numpyro.nets.PixelCNNNet`.
        net: "pixel_cnn" or "transformer".
        labels: how many there are, 0 for none.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        codes: int = 64,
        channels: int = 32,
        layers: int = 5,
        kernel_size: int = 3,
        net: str = "pixel_cnn",
        labels: int = 0,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if x_shape[0] != (2 if labels else 1):
            channels_expected = (
                "two channels, index and label" if labels else "one channel, indices"
            )
            raise UsageError(
                f"x_shape: expected maps of {channels_expected}, came {x_shape[0]} channels"
            )
        self.x_shape, self.codes, self.num_labels = tuple(x_shape), codes, labels
        shape = (codes, *x_shape[1:])
        self.net: Any = causal_net(
            net, shape, codes, channels, layers, kernel_size, labels, rngs=rngs
        )

    def __call__(self, x: Array | None = None, *, n: int | None = None) -> Array:
        """Maps (n, 1, h, w) of indices, or (n, 2, h, w): `x`, or n generated ones."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, numpyro.plate("data", n):
            dtype = net.net.out.kernel[...].dtype
            indices = jnp.arange(net.codes, dtype=dtype)[:, None]
            highest = max(net.codes, net.num_labels) - 1
            inside = constraints.independent(constraints.integer_interval(0, highest), 3)
            maps: Any
            if net.num_labels:
                any_label = labelled_codes(net.net, indices, n, net.num_labels)
                maps = WithLabel(any_label, inside)
            else:
                maps = autoregressive_codes(net.net, indices, n, support=inside)
            return numpyro.sample("x", maps, obs=x)
