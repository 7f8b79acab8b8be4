"""How a very deep VAE's blocks stand at their resolutions (Child 2021, arXiv 2011.10650).

A tower of blocks is a list of stages, or the string that the paper's code writes for one:

| piece | stage |
|---|---|
| 32x11 | eleven blocks at resolution 32 |
| 32d2 | one block at 32, then the mean over each 2 × 2 pixels |
| 8m4 | one block at 8, before which its state takes in that at 4, each pixel repeated |
| 32 | one block at 32 |
"""

from __future__ import annotations

__all__ = ["Place", "Pyramid", "Stage", "Stages", "read_stages", "read_widths"]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ppl_vae.errors import UsageError
from ppl_vae.memory import LARGEST

PIECE = re.compile(r"(\d+)(?:([xdm])(\d+))?")
WIDTH = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class Stage:
    """Blocks at one resolution.

    Args:
        resolution: side of the square maps.
        blocks: one after another.
        down: of an encoder; after the last block, means over so many pixels each way.
        up: of a decoder; before the first block, the state at that resolution is added, each of
            its pixels repeated.

    >>> read_stages("8x2,8d2", "encoder") == (Stage(8, blocks=2), Stage(8, down=2))
    True
    """

    resolution: int
    blocks: int = 1
    down: int | None = None
    up: int | None = None

    def __str__(self) -> str:
        """As a string has it.

        >>> str(Stage(8, blocks=3, down=2)), str(Stage(8, up=4))
        ('8x2,8d2', '8m4')
        """
        marked = f"d{self.down}" if self.down else f"m{self.up}" if self.up else ""
        plain = self.blocks - bool(marked)
        pieces = [f"{self.resolution}x{plain}"] if plain else []
        with_mark = [f"{self.resolution}{marked}"] if marked else []
        return ",".join([*pieces, *with_mark] if self.down else [*with_mark, *pieces])


Stages: TypeAlias = str | Sequence[Mapping[str, int | None]] | Sequence[Stage]
"""A tower as its string, as a list of stages' arguments (as YAML has them), or of stages."""


class Place(NamedTuple):
    """Where a group of latents stands.

    Attributes:
        resolution: of its maps.
        up: of the state it takes in first.
        fresh: whether it reads the state as it is now, not that which the group before it read.
    """

    resolution: int
    up: int | None
    fresh: bool = True


@dataclass(frozen=True)
class Pyramid:
    """Sizes that the program and its guide have in common.

    The nets' maps are squares; an image that is smaller than the decoder's last resolution is
    padded with zeros around it, and the likelihood sees the image alone.

    Args:
        x_shape: (channels, height, width) of the images.
        decoder: stages from the top latent down.
        width: channels of the maps.
        widths: (resolution, channels) pairs, for resolutions whose maps are wider or narrower.
        latent_channels: of each group's latent.
        bottleneck: share of the channels that a block's inner layers have.
        max_bias: largest resolution with a learned initial state; above it is zero.
        together: so many groups of a resolution, one after another, read one state.

    >>> small = Pyramid((1, 8, 8), read_stages("1x1,4m1,8m4,8", "decoder"), 16)
    >>> [place.resolution for place in small.places], small.side, small.biases
    ([1, 4, 8, 8], 8, (1, 4, 8))
    """

    x_shape: tuple[int, ...]
    decoder: tuple[Stage, ...]
    width: int
    widths: tuple[tuple[int, int], ...] = ()
    latent_channels: int = 16
    bottleneck: float = 0.25
    max_bias: int = 64
    together: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "x_shape", tuple(int(side) for side in self.x_shape))
        for name in ("width", "latent_channels", "together"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected at least 1, came {getattr(self, name)}")
        if not self.bottleneck > 0:
            raise UsageError(f"bottleneck: expected above 0, came {self.bottleneck}")
        self._check_decoder()
        self._check_widths()
        if max(self.x_shape[1:]) > self.side:
            raise UsageError(
                f"decoder: ends at resolution {self.side}, which the images' {self.x_shape[1]} × "
                f"{self.x_shape[2]} pixels exceed: end it at {max(self.x_shape[1:])} or above"
            )

    @property
    def side(self) -> int:
        """Of the maps at the image: the decoder's last resolution."""
        return self.decoder[-1].resolution

    @property
    def places(self) -> tuple[Place, ...]:
        """Of each group of latents, from the top down to z1."""
        found: list[Place] = []
        size = 0  # of the set of groups that read one state
        for stage in self.decoder:
            for i in range(stage.blocks):
                up = None if i else stage.up
                same = bool(found) and found[-1].resolution == stage.resolution and up is None
                fresh = not same or size == self.together
                size = 1 if fresh else size + 1
                found.append(Place(stage.resolution, up, fresh))
        return tuple(found)

    @property
    def biases(self) -> tuple[int, ...]:
        """Resolutions with a learned initial state, ascending."""
        found = {place.resolution for place in self.places}
        return tuple(sorted(side for side in found if side <= self.max_bias))

    @property
    def margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros (above, below) and (left, right) of the image."""
        rows, columns = (self.side - side for side in self.x_shape[1:])
        return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)

    @property
    def rows(self) -> int:
        """Images that go through the nets at once: `LARGEST` values of two of the largest maps.

        >>> Pyramid((3, 64, 64), read_stages("1x1,64m1", "decoder"), 512).rows
        64
        """
        sides = [stage.resolution for stage in self.decoder]
        return max(1, LARGEST // (2 * max(side**2 * self.channels(side) for side in sides)))

    def channels(self, resolution: int) -> int:
        """Of the maps at a resolution."""
        return dict(self.widths).get(resolution, self.width)

    def inner(self, resolution: int) -> int:
        """Channels of a block's inner layers."""
        return int(self.channels(resolution) * self.bottleneck)

    def default_encoder(self) -> tuple[Stage, ...]:
        """As many blocks at each resolution as the decoder has, in the opposite order."""
        counts: dict[int, int] = {}
        for place in self.places:
            counts[place.resolution] = counts.get(place.resolution, 0) + 1
        sides = sorted(counts, reverse=True)
        below = [*sides[1:], sides[-1]]
        return tuple(
            Stage(side, counts[side], down=None if after == side else side // after)
            for side, after in zip(sides, below, strict=True)
        )

    def climb(self, encoder: tuple[Stage, ...]) -> tuple[tuple[int, int], ...]:
        """(resolution, pixels averaged after it, 1 for none) of each of an encoder's blocks.

        Raises:
            UsageError: a stage at a resolution that the ones before do not lead to, or none at
                one that the decoder needs.
        """
        found: list[tuple[int, int]] = []
        side = self.side
        for index, stage in enumerate(encoder):
            where = _where("encoder", index, stage)
            if stage.up is not None:
                raise UsageError(f"{where}: 'm' is a decoder's: write {stage.resolution}x1")
            if stage.resolution != side:
                raise UsageError(
                    f"{where}: what stands before it leads to resolution {side}: start from "
                    f"{side}, or average down to {stage.resolution} first"
                )
            down = stage.down or 1
            if down < 1 or side % down:
                raise UsageError(f"{where}: {side} does not divide into squares of {down}")
            found += [(side, 1)] * (stage.blocks - 1) + [(side, down)]
            if self.channels(side // down) < self.channels(side):
                raise UsageError(
                    f"{where}: widths narrow from {self.channels(side)} to "
                    f"{self.channels(side // down)} channels, but an encoder only ever widens"
                )
            side //= down
        reached = {self.side} | {side // down for side, down in found}
        for index, stage in enumerate(self.decoder):
            if stage.resolution not in reached:
                raise UsageError(
                    f"{_where('decoder', index, stage)}: the encoder has no maps at resolution "
                    f"{stage.resolution}: it has {', '.join(map(str, sorted(reached)))}"
                )
        return tuple(found)

    def _check_decoder(self) -> None:
        if not self.decoder:
            raise UsageError("decoder: expected at least one stage, came none")
        known: list[int] = []
        for index, stage in enumerate(self.decoder):
            where = _where("decoder", index, stage)
            if stage.down is not None:
                raise UsageError(f"{where}: 'd' is an encoder's: write {stage.resolution}x1")
            if known and stage.resolution < known[-1]:
                raise UsageError(f"{where}: a decoder's resolutions never fall")
            if known and stage.resolution not in known and stage.up is None:
                raise UsageError(
                    f"{where}: nothing leads from the latents above to resolution "
                    f"{stage.resolution}: write {stage.resolution}m{known[-1]}"
                )
            if stage.up is not None and stage.up not in known:
                raise UsageError(
                    f"{where}: there is no state at resolution {stage.up} before it: "
                    f"there is {', '.join(map(str, dict.fromkeys(known))) or 'none'}"
                )
            if stage.up is not None and stage.resolution % stage.up:
                raise UsageError(
                    f"{where}: {stage.resolution} is no multiple of {stage.up}, whose pixels "
                    "are repeated"
                )
            known.append(stage.resolution)

    def _check_widths(self) -> None:
        if self.channels(self.side) != self.width:
            raise UsageError(
                f"widths: expected {self.width} channels (width) at the image's resolution "
                f"{self.side}, came {self.channels(self.side)}"
            )
        for index, stage in enumerate(self.decoder):
            side, up = stage.resolution, stage.up
            if self.inner(side) < 1:
                raise UsageError(
                    f"bottleneck: {self.bottleneck:g} of {self.channels(side)} channels at "
                    f"resolution {side} leaves none: raise it, or the width"
                )
            if up is not None and self.channels(up) < self.channels(side):
                raise UsageError(
                    f"{_where('decoder', index, stage)}: widths grow from {self.channels(up)} "
                    f"channels at {up} to {self.channels(side)} at {side}, but a state takes in "
                    "one that is at least as wide"
                )


def read_stages(given: Stages, name: str) -> tuple[Stage, ...]:
    """Stages of a tower from its string, or from a list of stages or of their arguments.

    Args:
        given: such as "8x2,8d2,4x1" or [{"resolution": 8, "blocks": 3, "down": 2}, …].
        name: of the argument, for errors: "encoder" or "decoder".

    Raises:
        UsageError: the piece that is wrong.
    """
    if isinstance(given, str):
        return tuple(_piece(piece, i, name) for i, piece in enumerate(given.split(",")))
    found = []
    for index, each in enumerate(given):
        stage: Any = each
        if isinstance(each, Mapping):
            try:
                stage = Stage(**each)
            except TypeError as error:
                raise UsageError(
                    f"{name}: stage {index + 1}, {dict(each)}: expected resolution, blocks, down "
                    f"and up ({error})"
                ) from error
        if not isinstance(stage, Stage):
            raise UsageError(f"{name}: stage {index + 1}: expected a Stage, came {stage!r}")
        numbers = (stage.resolution, stage.blocks, stage.down or 1, stage.up or 1)
        if not all(isinstance(value, int) and value >= 1 for value in numbers):
            raise UsageError(f"{name}: stage {index + 1}, {stage!r}: expected numbers from 1")
        found.append(stage)
    return tuple(found)


def read_widths(given: str | Mapping[int, int] | None) -> tuple[tuple[int, int], ...]:
    """(resolution, channels) pairs from "32:64,16:128", or from a mapping.

    >>> read_widths("4:24,8:16")
    ((4, 24), (8, 16))
    """
    if not given:
        return ()
    if isinstance(given, Mapping):
        pairs = [(int(side), int(width)) for side, width in given.items()]
    else:
        pairs = []
        for index, piece in enumerate(given.split(",")):
            match = WIDTH.fullmatch(piece.strip())
            if match is None:
                raise UsageError(
                    f"widths: piece {index + 1}, {piece!r}: expected resolution:channels, "
                    "such as 32:64"
                )
            pairs.append((int(match[1]), int(match[2])))
    for side, width in pairs:
        if side < 1 or width < 1:
            raise UsageError(f"widths: {side}:{width}: expected numbers from 1")
    if len(dict(pairs)) < len(pairs):
        raise UsageError(f"widths: {given!r} names a resolution twice")
    return tuple(sorted(pairs))


def _piece(text: str, index: int, name: str) -> Stage:
    match = PIECE.fullmatch(text.strip())
    if match is None:
        forms = "32x11, 32d2 or 32" if name == "encoder" else "32x11, 32m16 or 32"
        raise UsageError(f"{name}: piece {index + 1}, {text!r}: expected such as {forms}")
    resolution, kind, number = int(match[1]), match[2], int(match[3] or 1)
    if resolution < 1 or number < 1:
        raise UsageError(f"{name}: piece {index + 1}, {text!r}: expected numbers from 1")
    if kind == "d":
        return Stage(resolution, down=number)
    if kind == "m":
        return Stage(resolution, up=number)
    return Stage(resolution, blocks=number)


def _where(name: str, index: int, stage: Stage) -> str:
    return f"{name}: piece {index + 1}, '{stage}'"
