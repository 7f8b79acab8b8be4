r"""Nearest codes of two maps, from the top down (Razavi et al. 2019, VQ-VAE-2, section 3.1).

.. math:: h_1 = f_1(x), \quad z_2 = Q(f_2(h_1)), \quad z_1 = Q(f(h_1, \mathrm{rise}(z_2)))

with Q the quantiser and the penalties of `VectorQuantizerGuide`, for each map by itself.
"""

from __future__ import annotations

__all__ = ["VectorQuantizer2Guide"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from guides.pyro.vector_quantizer import check_commitment, quantised
from ppl_vae.architecture import Architecture
from ppl_vae.errors import UsageError
from ppl_vae.pyro.codes import NearestCode
from ppl_vae.pyro.guide import Guide, Site, data_shape
from ppl_vae.pyro.nets.code_maps import CodeEncoder
from ppl_vae.pyro.nets.conv import conv
from ppl_vae.pyro.nets.precision import in_full


class VectorQuantizer2Guide(Guide):
    """An encoder to the lower map's sides, one more from there to the upper map.

    Args:
        model: with two latent maps and a codebook for each, such as `VQVAE2`.
        commitment, hidden, blocks, activation, batch_norm: see `VectorQuantizerGuide`.
        name: under which stock SVI registers the parameters.

    Raises:
        UsageError: a model without two codebooks.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        commitment: float = 0.25,
        hidden: Sequence[int] | None = None,
        blocks: int | None = None,
        activation: str | None = None,
        batch_norm: bool | None = None,
        *,
        name: str = "guide",
    ) -> None:
        super().__init__(model, name=name)
        if getattr(model, "codebooks", None) is None or list(self.sites) != ["z2", "z1"]:
            raise UsageError(
                f"{type(self).__name__}: expected a model of two latent maps with codebooks, came "
                f"{type(model).__name__}: take VQVAE2, or another guide"
            )
        self.commitment = check_commitment(commitment)
        changes = {"hidden": hidden, "activation": activation, "batch_norm": batch_norm}
        sizes = Architecture.of(model, 1, **changes)
        blocks = getattr(model, "blocks", 0) if blocks is None else blocks
        width, low, high = sizes.hidden[-1], self.sites["z1"], self.sites["z2"]
        rest = (blocks, sizes.activation, sizes.batch_norm)
        self.encoder = CodeEncoder(data_shape(model), sizes.hidden, width, *rest)
        if self.encoder.out_shape[1:] != tuple(low[1:]):
            raise UsageError(
                f"hidden: expected widths that bring images to maps of {tuple(low[1:])}, came "
                f"{sizes.hidden}, which bring them to {self.encoder.out_shape[1:]}: give as many "
                "as the model has"
            )
        self.upper = CodeEncoder((width, *low[1:]), (width,), high[0], *rest)
        self.lower = conv(width + low[0], low[0])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(h_1 (n, width, h', w'), z_e of z2)."""
        h = self.encoder(x)
        return h, self.upper(h)

    def posterior(self, site: Site, features: tuple[Tensor, Tensor]) -> NearestCode:
        """The nearest codes of one map, (n, d, h, w); those of z1 by the codes of z2 too."""
        codebook, above = site.context
        h, z = features
        if site.name == "z1":
            z = self.lower(torch.cat([h, above], 1))
        return quantised(site.name, codebook, codebook.bound(in_full(z)), self.commitment)
