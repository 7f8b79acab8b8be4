"""Images from a repository on the Hugging Face hub, streamed one by one (package `datasets`).

A folder of one's own that the package can read (Parquet files, WebDataset's tars, images) may
stand in the place of a repository's name.
"""

from __future__ import annotations

__all__ = ["Rows", "splits"]

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ppl_vae.data.problems import one_line
from ppl_vae.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = ("image", "img", "jpg", "png", "webp")  # the last are WebDataset's


def splits(repository: str, config: str | None, terms: str) -> list[str]:
    """Names of a repository's splits.

    Args:
        repository: "owner/name", or a folder.
        config: one of its configurations, None for the only one.
        terms: what has to be agreed to where it is not open to all, for the error.

    Raises:
        UsageError: no package `datasets`, no connection, no such repository, or none for us.
    """
    package = _package(terms)
    try:
        return list(package.get_dataset_split_names(repository, config))
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreachable(repository, terms, error) from error


class Rows:
    """The images of some splits in the repository's order; see `ppl_vae.data.shards.Source`.

    Its place is the package's own, which knows the file and the row: nothing that was read is read
    again but what stands in the same piece of a file.

    Args:
        repository, config, terms: as those of `splits`.
        names: the splits, one behind the other.
        prepare: what is made of each decoded image.
    """

    def __init__(
        self,
        repository: str,
        config: str | None,
        names: Sequence[str],
        terms: str,
        prepare: Callable[[Image], npt.NDArray[np.uint8]],
    ) -> None:
        self.repository, self.config, self.names = repository, config, names
        self.terms, self.prepare = terms, prepare
        self._split, self._seen = 0, 0
        self._rows: Any = None

    def images(self, place: Any = None) -> Iterator[npt.NDArray[np.uint8]]:
        package = _package(self.terms)
        first = place["split"] if place else 0
        try:
            for number in range(first, len(self.names)):
                rows: Any = package.load_dataset(
                    self.repository, self.config, split=self.names[number], streaming=True
                )
                self._rows, self._split, self._seen = rows, number, 0
                if place and number == first:
                    self._seen = place["seen"]
                    rows = _taken_up(rows, place)
                for row in rows:
                    self._seen += 1
                    yield self.prepare(_image(self.repository, row))
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, UsageError):
                raise
            raise _unreachable(self.repository, self.terms, error) from error

    def place(self) -> Any:
        state = self._rows.state_dict() if hasattr(self._rows, "state_dict") else None
        return {"split": self._split, "seen": self._seen, "state": state}


def _taken_up(rows: Any, place: dict[str, Any]) -> Any:
    """Rows of a split from a place on."""
    if place["state"] is None:
        return islice(rows, place["seen"], None)
    rows.load_state_dict(place["state"])
    return rows


def _image(repository: str, row: dict[str, Any]) -> Image:
    for column in COLUMNS:
        if column in row:
            image: Image = row[column]
            return image
    raise UsageError(
        f"{repository}: expected a column {' or '.join(COLUMNS)} of images, came "
        f"{', '.join(row)}: name another repository (data.repository)"
    )


def _package(terms: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "datasets: this set comes through the Hugging Face hub, whose package is not "
            "installed: run `pip install -c constraints.txt -e '.[hub]'`, or put the images into a "
            f"folder of your own and name it (data.path). {terms}"
        ) from error
    return datasets


def _unreachable(repository: str, terms: str, error: BaseException) -> UsageError:
    return UsageError(
        one_line(
            f"{repository}: expected to read it on the Hugging Face hub, came "
            f"{type(error).__name__}: {error}. {terms} Where an account is needed agree to the "
            "terms on the repository's page and run `hf auth login`; or name another repository "
            "(data.repository) or a folder of your own (data.path). What was read is kept: the "
            "same command goes on from there"
        )
    )
