r"""NVAE's guide: residual Normals from a bottom-up tower (Vahdat & Kautz 2020, section 3.2).

.. math:: q(z_l | z_{>l}, x) = N(m_p + m_q,\ l_p + l_q)

with the sums taken before the clamps of `ClampedNormal`, so it is no product with the prior and
its divergence is the ordinary one of two Normals. On top, if wanted, inverse autoregressive flows
of volume one, whose divergence is that of a draw: log q(z before the flow) - log p(z after it).
"""

from __future__ import annotations

__all__ = ["NVAEGuide"]

from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from guides.pyro.encoders import ResidualTower
from ppl_vae.errors import UsageError
from ppl_vae.pyro.clamped import ClampedNormal
from ppl_vae.pyro.flows import AutoregressiveShift
from ppl_vae.pyro.guide import Guide, Site
from ppl_vae.pyro.nets.masked import ShiftNet
from ppl_vae.pyro.nets.precision import in_full
from ppl_vae.pyro.nets.weight_norm import WeightNormConv
from ppl_vae.scales import Scales, check_sizes


class NVAEGuide(Guide):
    """Residual cells upwards; at each group what they saw meets the decoder's state.

    Args:
        model: an `NVAE`.
        channels, block_cells, group_cells: of the tower; None takes the model's own.
        squeeze_excite: gates in the tower's cells; None takes the model's choice.
        residual: posteriors below the top are residuals on their priors.
        flows: pairs of autoregressive cells behind each posterior, raster order then reversed.
        name: under which stock SVI registers the parameters.

    Raises:
        UsageError: the model is no NVAE.
    """

    def __init__(
        self,
        model: Any,
        channels: int | None = None,
        block_cells: int | None = None,
        group_cells: int | None = None,
        squeeze_excite: bool | None = None,
        residual: bool = True,
        flows: int = 0,
        *,
        name: str = "guide",
    ) -> None:
        if not isinstance(getattr(model, "layout", None), Scales):
            raise UsageError(
                f"model: NVAEGuide answers NVAE alone, came {type(model).__name__}: take another "
                "guide, such as LadderGuide, for it"
            )
        super().__init__(model, name=name)
        channels = model.channels if channels is None else channels
        block_cells = model.block_cells if block_cells is None else block_cells
        group_cells = model.group_cells if group_cells is None else group_cells
        gated = model.squeeze_excite if squeeze_excite is None else squeeze_excite
        check_sizes(
            channels=channels, block_cells=block_cells, group_cells=group_cells, flows=flows
        )
        self.tower = ResidualTower(model.layout, channels, block_cells, group_cells, gated)
        latents, of_groups = model.latent_channels, model.layout.of_groups
        widths = [model.layout.width(channels, scale) for scale in of_groups]
        states = [model.layout.width(model.channels, scale) for scale in of_groups]
        self.order = tuple(self.sites)  # from the top down, as the tower's maps come
        self.combine = nn.ModuleList(
            WeightNormConv(state, width, 1)
            for state, width in zip(states[1:], widths[1:], strict=True)
        )
        self.heads = nn.ModuleList(WeightNormConv(w, 2 * latents, 3) for w in widths)
        self.flows = nn.ModuleList(
            nn.ModuleList(ShiftNet(latents, bool(i % 2)) for i in range(2 * flows)) for _ in widths
        )
        self.residual = residual

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """{site: (n, channels, height, width)} of the tower."""
        model: Any = self.model
        return dict(zip(self.order, self.tower(model.seen(x)), strict=True))

    def posterior(self, site: Site, features: dict[str, Tensor]) -> Any:
        """Normal maps (n, latent, h, w), residual below the top if wanted; flows behind them."""
        index = self.order.index(site.name)
        h = features[site.name]
        if index:
            h = h + self.combine[index - 1](site.context)
        loc, scale = in_full(self.heads[index](h)).chunk(2, 1)
        if self.residual and index:
            loc, scale = site.prior.raw_loc + loc, site.prior.raw_scale + scale
        posterior = ClampedNormal(loc, scale)
        cells: Any = self.flows[index]
        if not len(cells):
            return posterior
        flow = [AutoregressiveShift(cell) for cell in cells]
        return dist.TransformedDistribution(posterior.to_event(3), flow)
