"""Sizes of nets: what a guide takes from its model unless it is told otherwise."""

from __future__ import annotations

__all__ = ["ACTIVATIONS", "Architecture"]

from dataclasses import dataclass, replace
from typing import Any, Self

from ppl_vae.errors import UsageError, nearest

ACTIVATIONS = ("leaky_relu", "relu", "tanh", "elu", "gelu", "silu")
NETS = ("mlp", "conv")


@dataclass(frozen=True)
class Architecture:
    """Sizes and choices of nets.

    Args:
        hidden: widths, from the data up. With one latent site these are the layers of its net;
            with several, one width a site, each net `layers` deep.
        layers: layers of each net of a hierarchy.
        net: "mlp" or "conv"; a convolutional net takes `hidden` as channels, halving the image's
            sides at each. In a hierarchy only the net that touches the image is convolutional.
        activation: one of leaky_relu, relu, tanh, elu, gelu, silu.
        batch_norm: normalisation before each activation.
    """

    hidden: tuple[int, ...] = (200, 200)
    layers: int = 2
    net: str = "mlp"
    activation: str = "leaky_relu"
    batch_norm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
        if not self.hidden or min(self.hidden) < 1:
            raise UsageError(f"hidden: expected widths of at least 1, came {self.hidden}")
        if self.layers < 1:
            raise UsageError(f"layers: expected at least 1, came {self.layers}")
        for name, value, known in (
            ("activation", self.activation, ACTIVATIONS),
            ("net", self.net, NETS),
        ):
            if value not in known:
                raise UsageError(f"{name}: unknown {value!r}: {nearest(value, known)}")

    @classmethod
    def of(cls, model: Any, num_sites: int, **changes: Any) -> Self:
        """The architecture of `model`, or a default of its depth; what is not None is changed."""
        default = cls(hidden=(200, 200) if num_sites == 1 else (200,) * num_sites)
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(getattr(model, "architecture", default), **given)

    def widths(self, num_sites: int) -> tuple[tuple[int, ...], ...]:
        """Layer widths of each site's net, from z1 (nearest the data) up.

        >>> Architecture(hidden=(64, 32), layers=2).widths(2)
        ((64, 64), (32, 32))
        """
        if num_sites == 1:
            return (self.hidden,)
        if len(self.hidden) != num_sites:
            raise UsageError(
                f"hidden: expected one width a latent site ({num_sites}), came {self.hidden}: "
                "list them from z1, nearest the data, up"
            )
        return tuple((width,) * self.layers for width in self.hidden)
