r"""Priors over two maps of codes (Razavi et al. 2019, VQ-VAE-2, arXiv 1906.00446, section 3.2).

.. math:: p(z_1, z_2) = \prod_{ij} p(z_{2,ij} | z_{2,\text{before } ij})
          \prod_{ij} p(z_{1,ij} | z_{1,\text{before } ij}, \mathrm{rise}(z_2))

The same nets are a part of `VQVAE2`, whose priors are learned with the pair, and of `CodePrior2`,
a program of its own, which learns them afterwards.
"""

from __future__ import annotations

__all__ = ["CodePrior2", "TwoPriors"]

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpyro
from flax import nnx
from jax import Array
from numpyro.distributions import constraints

from ppl_vae.checks import check_batch
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.codes import autoregressive_codes, one_hot
from ppl_vae.numpyro.labelled import WithLabel, labelled_codes
from ppl_vae.numpyro.nets import MapDecoder, causal_net, halved


class TwoPriors(nnx.Module):
    """The causal nets of both maps, and `rise`, which makes features for z1's of the codes of z2.

    Args:
        sides: (height, width) of z1, of z2.
        codes: K of either codebook.
        channels, layers, kernel_size: see `ppl_vae.numpyro.nets.PixelCNNNet`.
        net: "pixel_cnn" or "transformer".
        labels: C labels, each with a prior of z2 of its own; 0 for none.
        rngs: for the initial weights.
    """

    def __init__(
        self,
        sides: Sequence[tuple[int, int]],
        codes: int,
        channels: int,
        layers: int,
        kernel_size: int,
        net: str,
        labels: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_labels = labels
        low, high = ((codes, *side) for side in sides)
        size = (codes, channels, layers, kernel_size)
        self.upper: Any = causal_net(net, high, *size, labels, rngs=rngs)
        self.rise = MapDecoder(high, (channels, *sides[0]), 1, rngs=rngs)
        self.lower: Any = causal_net(net, low, *size, channels, rngs=rngs)

    def of_upper(self, vectors: Array, n: int, label: Any = None, support: Any = None) -> Any:
        """n maps of z2, values as of `Codes`; of a label (one, or n)."""
        if self.num_labels:
            return labelled_codes(self.upper, vectors, n, self.num_labels, label)
        return autoregressive_codes(self.upper, vectors, n, support=support)

    def of_lower(self, vectors: Array, z2: Array, upper_vectors: Array, support: Any = None) -> Any:
        """Maps of z1 given those of z2 (n, d, h, w); `upper_vectors` are the codes of z2."""
        features = self.rise(one_hot(z2, upper_vectors))
        return autoregressive_codes(self.lower, vectors, len(z2), features, support)


class CodePrior2(nnx.Module):
    """Two maps of codes as a program of its own: a site "z2", and "x", the map of z1, given it.

    Args:
        x_shape: (2, height, width) of the map of z1, whose indices are the first channel; those of
            z2 are the second, each at the 2 × 2 positions below it; with labels (3, height, width),
            the third channel the label at every position.
        codes: K of either codebook; values are 0 to K - 1.
        channels, layers, kernel_size, net, labels: see `TwoPriors`.
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
        if x_shape[0] != (3 if labels else 2):
            expected = "three channels, two of indices and the label" if labels else "two channels"
            raise UsageError(f"x_shape: expected maps of {expected}, came {x_shape[0]} channels")
        self.x_shape, self.codes, self.num_labels = tuple(x_shape), codes, labels
        sides = halved(x_shape[1], x_shape[2], 1)
        size = (channels, layers, kernel_size, net, labels)
        self.priors = TwoPriors(sides, codes, *size, rngs=rngs)

    def __call__(self, x: Array | None = None, *, n: int | None = None) -> Array:
        """Maps (n, 2, h, w) of indices, or (n, 3, h, w): `x`, or n generated ones of z1 alone."""
        n = check_batch(x, n, self.x_shape)
        below, above = (None, None) if x is None else (x[:, :1], x[:, 1:, ::2, ::2])
        with bind("model", self) as net, numpyro.plate("data", n):
            dtype = net.priors.lower.out.kernel[...].dtype
            indices = jnp.arange(net.codes, dtype=dtype)[:, None]
            upper = net.priors.of_upper(indices, n, support=_up_to(net.codes))
            if net.num_labels:
                upper = WithLabel(upper, _up_to(max(net.codes, net.num_labels)))
            z2 = numpyro.sample("z2", upper, obs=above)
            lower = net.priors.of_lower(indices, z2[:, :1], indices, _up_to(net.codes))
            return numpyro.sample("x", lower, obs=below)


def _up_to(count: int) -> Any:
    """Maps of whole numbers below `count`."""
    return constraints.independent(constraints.integer_interval(0, count - 1), 3)
