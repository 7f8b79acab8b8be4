"""How NVAE's groups of latents stand at their scales; both of its towers are laid out by it."""

from __future__ import annotations

__all__ = ["Scales", "check_sizes", "groups_per_scale"]

from collections.abc import Sequence
from dataclasses import dataclass

from ppl_vae.errors import UsageError


@dataclass(frozen=True)
class Scales:
    """Sizes that NVAE's program and its guide have in common (Vahdat & Kautz 2020, section 3.1).

    Between the image and the finest scale of latents the sides are halved `blocks` times, and once
    more from each scale to the next. Images whose sides that would not divide are padded with
    zeros, which the likelihood does not see.

    Args:
        x_shape: (channels, height, width) of the images.
        groups: groups of latents at each scale, finest scale first.
        blocks: halvings between the image and the finest scale.
        padding: zeros at each side of the image, at least.

    >>> scales = Scales((1, 28, 28), (3, 1), blocks=1, padding=2)
    >>> scales.sides(0), scales.of_groups, scales.width(8, 0), scales.width(8, 1)
    ((8, 8), (0, 1, 1, 1), 32, 16)
    """

    x_shape: tuple[int, ...]
    groups: tuple[int, ...]
    blocks: int
    padding: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "x_shape", tuple(int(side) for side in self.x_shape))
        object.__setattr__(self, "groups", tuple(int(count) for count in self.groups))
        if not self.groups or min(self.groups) < 1:
            raise UsageError(f"groups: expected at least 1 at each scale, came {self.groups}")
        for name in ("blocks", "padding"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}: expected at least 0, came {getattr(self, name)}")

    @property
    def halvings(self) -> int:
        """Between the image and the top scale."""
        return self.blocks + len(self.groups) - 1

    @property
    def of_groups(self) -> tuple[int, ...]:
        """Scale of each group, 0 the top (coarsest), from the top group down to that of z1."""
        return tuple(s for s, count in enumerate(reversed(self.groups)) for _ in range(count))

    @property
    def margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros (above, below) and (left, right) of the image."""
        whole = 2**self.halvings
        found = []
        for side in self.x_shape[1:]:
            total = -(-(side + 2 * self.padding) // whole) * whole - side
            found.append((total // 2, total - total // 2))
        return found[0], found[1]

    def sides(self, scale: int) -> tuple[int, int]:
        """(height, width) of the maps at a scale, 0 the top."""
        (above, below), (left, right) = self.margins
        smaller = 2 ** (self.halvings - scale)
        _, height, width = self.x_shape
        return (above + height + below) // smaller, (left + width + right) // smaller

    def width(self, channels: int, scale: int) -> int:
        """Channels of a tower at a scale, where it has `channels` at the image."""
        return int(channels * 2 ** (self.halvings - scale))


LEAST = {"channels": 2, "latent_channels": 1, "block_cells": 1, "group_cells": 0, "flows": 0}
"""What NVAE's sizes may not be below; a halving cell makes four parts of twice the channels."""


def check_sizes(**sizes: int) -> None:
    """UsageError where one of NVAE's sizes is too small."""
    for name, value in sizes.items():
        if value < LEAST[name]:
            raise UsageError(f"{name}: expected at least {LEAST[name]}, came {value}")


def groups_per_scale(
    scales: int, groups: int | Sequence[int], adaptive: bool = False, min_groups: int = 1
) -> tuple[int, ...]:
    """Groups at each scale, finest first.

    Args:
        scales: how many there are.
        groups: at the finest scale, and at all the others unless `adaptive`; or one count a scale,
            finest first.
        adaptive: half as many (rounded down) at each coarser scale.
        min_groups: what halving does not go below.

    >>> groups_per_scale(3, 10, adaptive=True, min_groups=4)
    (10, 5, 4)
    """
    if scales < 1:
        raise UsageError(f"scales: expected at least 1, came {scales}")
    if not isinstance(groups, int):
        if len(groups) != scales:
            raise UsageError(
                f"groups: expected one number, or one a scale ({scales}), came {tuple(groups)}: "
                "list them from the finest scale"
            )
        return tuple(groups)
    found = [groups]
    for _ in range(scales - 1):
        found.append(max(min_groups, found[-1] // 2) if adaptive else groups)
    return tuple(found)
