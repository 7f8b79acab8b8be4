"""Images from a repository on the Hugging Face hub, streamed one by one (package `datasets`)."""

from __future__ import annotations

__all__ = ["splits", "stream"]

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ppl_vae.data.problems import one_line
from ppl_vae.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = ("image", "img")


def splits(repository: str, config: str | None, terms: str) -> list[str]:
    """Names of a repository's splits.

    Args:
        repository: "owner/name".
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


def stream(repository: str, config: str | None, split: str, terms: str) -> Iterator[Image]:
    """The images of a split in the repository's order, decoded; nothing else is read."""
    package = _package(terms)
    try:
        rows: Any = package.load_dataset(repository, config, split=split, streaming=True)
        for row in rows:
            yield _image(repository, row)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, UsageError):
            raise
        raise _unreachable(repository, terms, error) from error


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
            "(data.repository) or a folder of your own (data.path)"
        )
    )
