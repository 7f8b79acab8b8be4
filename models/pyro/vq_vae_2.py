r"""VQ-VAE-2 (Razavi, van den Oord & Vinyals 2019, arXiv 1906.00446): two maps of discrete codes.

.. math:: p(x, z) = p(z_2)\, p(z_1 | z_2)\, p(x | z_1, z_2)

z2, of half the sides of z1, is for what the image is as a whole, z1 for its detail. Both priors are
uniform, or autoregressive, that of z1 given what `rise` makes of z2.
"""

from __future__ import annotations

__all__ = ["VQVAE2"]

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_vae.architecture import Architecture, check_batch
from ppl_vae.pyro.bind import bind
from ppl_vae.pyro.codes import Codes, autoregressive_codes
from ppl_vae.pyro.likelihoods import Likelihood
from ppl_vae.pyro.nets import MapDecoder, causal_net, halved
from ppl_vae.pyro.nets.code_maps import CodeDecoder
from ppl_vae.pyro.nets.codebook import Codebook


class VQVAE2(nn.Module):
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
        update, decay, start, restart: see `ppl_vae.pyro.nets.codebook.Codebook`.
        prior_layers: of the codes' autoregressive priors; 0 leaves them uniform.
        prior_channels, prior_kernel, prior_net: see `VQVAE`.
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
    ) -> None:
        super().__init__()
        self.x_shape, self.blocks = tuple(x_shape), blocks
        self.architecture = Architecture(tuple(hidden), len(hidden), "conv", activation, batch_norm)
        self.likelihood = Likelihood(likelihood)
        self.sides = halved(x_shape[1], x_shape[2], len(hidden) + 1)[-2:]  # of z1, of z2
        self.codebooks = nn.ModuleList(
            Codebook(codes, code_dim, update, decay, start, restart) for _ in self.sides
        )
        low, high = ((code_dim, *sides) for sides in self.sides)
        self.rise = MapDecoder(high, low, 1, activation, batch_norm)
        outputs = self.likelihood.num_outputs(self.x_shape[0])
        self.decoder = CodeDecoder(
            (2 * code_dim, *self.sides[0]),
            self.x_shape,
            tuple(hidden),
            outputs,
            blocks,
            activation,
            batch_norm,
        )
        size = (prior_channels, prior_layers, prior_kernel)
        self.priors = nn.ModuleList(
            causal_net(prior_net, (codes, *sides), codes, *size, num_features)
            for sides, num_features in zip(self.sides, (code_dim, 0), strict=True)
            if prior_layers
        )

    def forward(self, x: Tensor | None = None, *, n: int | None = None) -> Tensor:
        """Images (n, c, h, w): `x`, or n generated ones."""
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, pyro.plate("data", n):
            z2 = pyro.sample("z2", net.prior(1, n), infer={"context": (net.codebooks[1], None)})
            above = net.rise(z2)
            context = (net.codebooks[0], above)
            z1 = pyro.sample("z1", net.prior(0, n, above), infer={"context": context})
            image = net.likelihood(net.decoder(torch.cat([z1, above], 1)))
            return pyro.sample("x", image, obs=x)

    def prior(self, level: int, n: int, above: Tensor | None = None) -> Any:
        """Of z1 (level 0) or z2 (level 1), n maps."""
        vectors = self.codebooks[level].vectors
        if not len(self.priors):
            return Codes.uniform(vectors, n, self.sides[level])  # type: ignore[arg-type]
        return autoregressive_codes(self.priors[level], vectors, n, above)  # type: ignore[arg-type]
