"""What is judged, and what a check found."""

from __future__ import annotations

__all__ = ["Finding", "Subject"]

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import UsageError
from ppl_vae.typed import room

if TYPE_CHECKING:
    import xarray as xr

    from evaluation.page import Chapter
    from ppl_vae.data import Dataset, Images


@dataclass(frozen=True)
class Subject:
    """A trained pair in one PPL, and the images that it is asked about.

    Attributes:
        model, guide: in evaluation mode.
        ppl: "pyro" or "numpyro".
        images: those asked about, the first of the test split.
        figures: folder for pictures.
        data: the whole data set, where a check needs training images, labels or factors.
        history: of training (`ppl_vae.histories`), or None.
        params: what `fit` learned for plain functions.
        twin: gives the same pair in NumPyro, where its classes are in both PPLs.
        likelihood: of `images` (`evaluation.likelihood_ladder`), where it was measured already.
        seed, batch_norm: of every draw (`ppl_vae.<ppl>.asking`).
        spread: share the likelihood's images among processes, or devices.
    """

    model: Any
    guide: Any
    ppl: str
    images: Images
    figures: Path
    data: Dataset | None = None
    history: xr.Dataset | None = None
    params: dict[str, Any] | None = None
    twin: Callable[[], tuple[Any, Any]] | None = None
    likelihood: xr.Dataset | None = None
    seed: int = 0
    batch_norm: str = "running"
    spread: bool = False

    @property
    def programs(self) -> Any:
        """`ppl_vae.<ppl>`: the public calls."""
        return room(self.ppl)

    @property
    def train(self) -> Images:
        """Training images; UsageError where the whole data set was not given."""
        if self.data is None:
            raise UsageError("data: expected a data set, came none: give Subject(..., data=...)")
        return self.data.train

    @property
    def pair(self) -> tuple[Any, Any]:
        """(model, guide)."""
        return self.model, self.guide

    @property
    def drawn(self) -> dict[str, Any]:
        """Keywords that every draw from the pair takes."""
        return {"seed": self.seed, "batch_norm": self.batch_norm, "params": self.params}


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: of the check, its group in evaluation.nc and its key in the JSON.
        data: named axes, units in the attributes.
        told: a few plain numbers for the JSON.
        chapter: for the report.
    """

    name: str
    data: xr.Dataset | xr.DataTree
    chapter: Chapter
    told: dict[str, Any] = field(default_factory=dict)
