"""Finding a set's files: the folder that was named, `PPL_VAE_DATA`, the cache, the network.

1. `path`, where it is given: that folder alone, and no download.
2. The folder that `PPL_VAE_DATA` names, with one folder for each set in it.
3. The cache: `PPL_VAE_CACHE`, or the user's cache folder for "ppl-vae".
4. A download into the cache, with a progress bar. pooch writes under a temporary name, checks the
   checksum that the source publishes, and only then gives the file its name; so a download that
   was cut off leaves nothing behind. A cached file that no longer fits is fetched again.
"""

from __future__ import annotations

__all__ = ["LocalFile", "RemoteFile", "cache_folder", "fetch", "find", "local_folder"]

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ppl_vae.data.problems import one_line
from ppl_vae.errors import UsageError

# Seconds a download may take before its progress bar shows.
_PATIENCE = 0.1

# Errors of the disk, not of the network.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded.

    Args:
        name: file name in a folder of one's own and in the cache.
        urls: where it lies; later ones are tried when earlier ones fail.
        checksum: "md5:..." or "sha256:..." as the source publishes it; None where none is, and
            then the reader of the file checks its structure.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str | None


@dataclass(frozen=True)
class LocalFile:
    """A file that is there, and what to do if it turns out to be damaged."""

    path: Path
    remedy: str


def fetch(
    folder: str,
    file: RemoteFile,
    *,
    path: str | Path | None = None,
    alternatives: Sequence[str] = (),
) -> LocalFile:
    """Find `file`, or one of its `alternatives` in a local folder, or download it.

    Args:
        folder: the set's folder in `PPL_VAE_DATA` and in the cache.
        path: the user's folder that holds the file; no download then.
        alternatives: other names it may have in a local folder (uncompressed, say).

    Raises:
        UsageError: it is nowhere and cannot be downloaded, or the download is not what its
            checksum says.
    """
    names = (file.name, *alternatives)
    found = find(folder, names, path=path)
    if found is not None:
        return found
    if path is not None:
        raise UsageError(
            f"{Path(path).expanduser()}: expected {' or '.join(names)} in this folder, came none "
            "of them: name the folder that holds them, or leave path out to download them"
        )
    return LocalFile(
        _download(cache_folder() / folder, file, folder),
        "delete it, and it is downloaded again",
    )


def find(folder: str, names: Sequence[str], *, path: str | Path | None = None) -> LocalFile | None:
    """The first of `names` in the user's folder or in `PPL_VAE_DATA`; None where there is none."""
    place = local_folder(folder, path)
    if place is None:
        return None
    for name in names:
        if (place / name).is_file():
            return LocalFile(place / name, "replace it with a whole copy of the original")
    return None


def cache_folder() -> Path:
    """Where downloads are kept: `PPL_VAE_CACHE`, or the user's cache folder for "ppl-vae"."""
    named = os.environ.get("PPL_VAE_CACHE")
    if named:
        return Path(named).expanduser()
    import pooch

    return Path(pooch.os_cache("ppl-vae"))


def local_folder(folder: str, path: str | Path | None) -> Path | None:
    """The user's folder for a set, or its place in `PPL_VAE_DATA`, there or not; None without."""
    if path is not None:
        place = Path(path).expanduser()
        if not place.is_dir():
            raise UsageError(
                f"path: expected a folder with the files of {folder}, came {place}, which is no "
                "folder: correct it, or leave it out to download them"
            )
        return place
    named = os.environ.get("PPL_VAE_DATA")
    if not named:
        return None
    if not Path(named).expanduser().is_dir():
        raise UsageError(
            f"PPL_VAE_DATA: expected a folder, came {named}, which is none: correct it or unset it"
        )
    return Path(named).expanduser() / folder


def _download(cache: Path, file: RemoteFile, folder: str) -> Path:
    """Ask one address after the other; the error names them all."""
    failures: list[str] = []
    for url in file.urls:
        try:
            return _retrieve(cache, file, url)
        except OSError as error:  # what requests raises is among these, without these numbers
            if isinstance(error, PermissionError) or error.errno in _DISK:
                raise UsageError(
                    one_line(
                        f"{cache}: expected a place to write {file.name} to, came "
                        f"{error.strerror or error}: make room there, or name another folder in "
                        "PPL_VAE_CACHE"
                    )
                ) from error
            status = getattr(getattr(error, "response", None), "status_code", "no answer")
            failures.append(f"{type(error).__name__} ({status}) from {url}")
        except ValueError as error:  # pooch's word for a checksum that does not fit
            failures.append(f"{error} from {url}")
    raise UsageError(
        one_line(
            f"{file.name}: expected to download it, came {'; '.join(failures)}: check the "
            f"connection and try again, or put the file into {folder}/ in a folder that "
            "PPL_VAE_DATA names"
        )
    )


def _retrieve(cache: Path, file: RemoteFile, url: str) -> Path:
    import pooch
    from tqdm.auto import tqdm

    pooch.get_logger().setLevel("WARNING")
    # pooch sets the true total; until then one byte, since a bar of none counts as no bar.
    with tqdm(desc=file.name, total=1, unit="B", unit_scale=True, delay=_PATIENCE) as bar:
        downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=30)
        return Path(
            pooch.retrieve(
                url, known_hash=file.checksum, fname=file.name, path=cache, downloader=downloader
            )
        )
