"""Large sets of colour images: CelebA 64, ImageNet 32 and 64, CelebA-HQ 256, FFHQ 256 and 1024.

None may be passed on freely, so each is read from the user's own copy or from a repository on the
Hugging Face hub, is brought to its size, written once to the cache (`ppl_vae.data.shards`) and
mapped into memory since. In this order:

1. a folder of one's own, `path` or the set's in `PPL_VAE_DATA`, with `train.npy` and `test.npy`;
   with `train/` and `test/` of images (and `valid/`, which goes to the end of the training images);
   or with images alone, of which a tenth, drawn once, is kept to test with;
2. the cache;
3. the hub.

Images that are not of the set's size are cropped to the middle square and rescaled.
"""

from __future__ import annotations

__all__ = ["SETS", "SOURCE", "ColourSet", "read"]

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppl_vae.data import arrays, folder, hub, shards
from ppl_vae.data.fetching import cache_folder, local_folder
from ppl_vae.data.images import Images, Source
from ppl_vae.errors import UsageError

Array = npt.NDArray[np.uint8]

SOURCE = Source(
    title="A repository of images on the Hugging Face hub",
    url="https://huggingface.co/datasets",
    licence="the repository's",
    citation="",
    split="the repository's, or the last tenth to test with",
    size=None,
    num_levels=256,
    checksum="none: every image is decoded in full",
)

PARTS = ("train", "test")
ALL = "all"


@dataclass(frozen=True)
class ColourSet:
    """One of them.

    Args:
        name: in `ppl_vae.data`.
        SOURCE: what `ppl_vae.data.source` says of it.
        terms: of access, a sentence for errors.
        repository, config: on the hub, where one is known; the user may name another.
        train, test: splits there; of `test` the first that it has, none holds out the last
            `held_out` images, a share of them where that is below 1.
        crop: side of the middle square of an original that is kept, pixels; None, all of it.
        key: behind a repository's name in the cache.
    """

    name: str
    SOURCE: Source
    terms: str
    repository: str | None = None
    config: str | None = None
    train: tuple[str, ...] = ("train",)
    test: tuple[str, ...] = ("validation", "valid", "val", "test")
    held_out: float = 0
    crop: int | None = None
    key: str = ""

    @property
    def side(self) -> int:
        """Of an image, pixels."""
        return self.x_shape[1]

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        if self.SOURCE.size is None:
            raise TypeError(f"{self.name}: a set of one size")
        return self.SOURCE.size

    def read(
        self, path: str | Path | None = None, repository: str | None = None
    ) -> tuple[Images, Images]:
        """Images to train and to test with, mapped into memory, without labels.

        Raises:
            UsageError: they are nowhere, cannot be had, or are not what they should be.
        """
        place = local_folder(self.name, path)
        if place is not None and (path is not None or place.is_dir()):
            return self._local(place)
        source = repository or self.repository
        if source is None:
            raise UsageError(
                f"{self.name}: expected images, came none: name a folder of your own (data.path, "
                f"or {self.name}/ in the folder that PPL_VAE_DATA names) or a repository on the "
                f"Hugging Face hub (data.repository). {self.terms}"
            )
        return self.of_repository(source)

    def of_repository(self, repository: str) -> tuple[Images, Images]:
        """Images of a repository, which the package `datasets` may also find in a folder."""
        place = Path(repository).expanduser()
        name = repository.replace("/", "--")
        if place.is_dir():
            repository = str(place.resolve())
            name = _digest(place, sorted(file for file in place.rglob("*") if file.is_file()))
        kept = cache_folder() / self.name / f"{name}{self.key}"
        return self._split(_kept(kept) or self._from_hub(kept, repository))

    def _local(self, place: Path) -> tuple[Images, Images]:
        """A folder of one's own: arrays as they are, images by way of the cache."""
        if (place / "train.npy").is_file():
            train, test = arrays.read(place)
            if train.x_shape != self.x_shape:
                raise UsageError(
                    f"{place}: expected images of shape {self.x_shape} for {self.name}, came "
                    f"{train.x_shape}: bring them to that size"
                )
            return train, test
        files = folder.split_files(place)
        kept = cache_folder() / self.name / _digest(place, chain(*files))
        sources = {
            part: shards.Files(some, lambda file: folder.read_square(file, self.side, self.crop))
            for part, some in zip(PARTS, files, strict=True)
        }
        return self._split(_kept(kept) or shards.write(kept, sources, self.x_shape))

    def _from_hub(self, kept: Path, repository: str) -> dict[str, Array]:
        config = self.config if repository == self.repository else None
        has = hub.splits(repository, config, self.terms)
        train = [split for split in self.train if split in has]
        test = [split for split in self.test if split in has][:1]
        if not train or not (test or self.held_out):
            raise UsageError(
                f"{repository}: expected splits {self.train[0]!r} and {self.test[0]!r}, came "
                f"{', '.join(has)}: name another repository (data.repository)"
            )

        def rows(names: Sequence[str]) -> hub.Rows:
            return hub.Rows(
                repository,
                config,
                names,
                self.terms,
                lambda image: folder.square(image, self.side, self.crop),
            )

        sources = {"train": rows(train), "test": rows(test)} if test else {ALL: rows(train)}
        return shards.write(kept, sources, self.x_shape)

    def _split(self, found: dict[str, Array]) -> tuple[Images, Images]:
        if ALL not in found:
            return Images(found["train"]), Images(found["test"])
        every = Images(found[ALL])
        held = self.held_out if self.held_out >= 1 else max(1, round(self.held_out * len(every)))
        if len(every) <= held:
            raise UsageError(
                f"{self.name}: expected more than {held} images, came {len(every)}: name "
                "another repository (data.repository)"
            )
        return every[: -int(held)], every[-int(held) :]


def read(
    path: str | Path | None = None, repository: str | None = None, image_size: int | None = None
) -> tuple[Images, Images]:
    """Images to train and to test with of any repository, at a size of one's own.

    Raises:
        UsageError: no repository, no size, a path, or what `ColourSet.read` raises.
    """
    if repository is None or path is not None:
        beside = "" if path is None else f" and path {str(path)!r}"
        raise UsageError(
            "repository: expected 'owner/name' of one on the Hugging Face hub, or a folder as the "
            f"package datasets reads it, came {repository or 'none'}{beside}: set data.repository "
            "alone, or take 'folder' for a folder of images"
        )
    if image_size is None or isinstance(image_size, bool) or image_size < 1:
        raise UsageError(
            f"image_size: expected the side of the images in pixels for 'hub', came {image_size}: "
            "set data.image_size"
        )
    size = (3, image_size, image_size)
    any_set = ColourSet("hub", replace(SOURCE, size=size), "", held_out=0.1, key=f"-{image_size}")
    return any_set.of_repository(repository)


def _kept(place: Path) -> dict[str, Array] | None:
    """What the cache holds of a set, in two parts or in one that is split at its end."""
    return shards.parts(place, PARTS) or shards.parts(place, (ALL,))


def _digest(place: Path, files: Iterable[Path]) -> str:
    """A name for a folder of images as it is now: other files, another name."""
    told = hashlib.sha256(str(place.resolve()).encode())
    for file in files:
        about = file.stat()
        told.update(f"{file.relative_to(place)} {about.st_size} {about.st_mtime_ns}".encode())
    return f"folder-{told.hexdigest()[:16]}"


_FACES = (
    "CelebA is for non-commercial research alone, under the agreement on its page, "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html."
)
_IMAGENET = (
    "ImageNet is for non-commercial research and education alone, and its images need an account "
    "on https://image-net.org."
)
_FLICKR = (
    "FFHQ is for non-commercial use alone, under CC BY-NC-SA 4.0 and each image's own licence: "
    "https://github.com/NVlabs/ffhq-dataset."
)
_UNCHECKED = "none published at this size: shape and type are checked"


def _imagenet(side: int) -> ColourSet:
    about = Source(
        title=f"ImageNet {side}",
        url="https://image-net.org",
        licence="non-commercial research and education (ImageNet's terms)",
        citation="van den Oord, Kalchbrenner & Kavukcuoglu 2016, Pixel recurrent neural networks",
        split="train and validation of your copy, which the papers test on",
        size=(3, side, side),
        num_levels=256,
        checksum=_UNCHECKED,
    )
    return ColourSet(f"imagenet{side}", about, _IMAGENET)


def _ffhq(side: int, repository: str | None) -> ColourSet:
    about = Source(
        title=f"FFHQ {side}",
        url="https://github.com/NVlabs/ffhq-dataset",
        licence="CC BY-NC-SA 4.0; each image has a licence of its own",
        citation="Karras, Laine & Aila 2019, A style-based generator architecture for GANs",
        split="63,000 / 7,000 (ours, the last ones)",
        size=(3, side, side),
        num_levels=256,
        checksum=_UNCHECKED,
    )
    return ColourSet(f"ffhq{side}", about, _FLICKR, repository, held_out=7000)


_CELEBA = Source(
    title="CelebA 64",
    url="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    licence="non-commercial research (the authors' agreement)",
    citation="Liu, Luo, Wang & Tang 2015, Deep learning face attributes in the wild",
    split="182,637 / 19,962, of the first the last 19,867 to validate with (the authors')",
    size=(3, 64, 64),
    num_levels=256,
    checksum=_UNCHECKED,
)
_CELEBA_HQ = Source(
    title="CelebA-HQ 256",
    url="https://github.com/tkarras/progressive_growing_of_gans",
    licence="non-commercial research, as CelebA",
    citation="Karras, Aila, Laine & Lehtinen 2018, Progressive growing of GANs",
    split="train and validation of the repository",
    size=(3, 256, 256),
    num_levels=256,
    checksum=_UNCHECKED,
)

SETS: dict[str, ColourSet] = {
    each.name: each
    for each in (
        ColourSet(
            "celeba64",
            _CELEBA,
            _FACES,
            "flwrlabs/celeba",
            train=("train", "valid"),
            test=("test",),
            crop=148,
        ),
        ColourSet("celebahq256", _CELEBA_HQ, _FACES, "korexyz/celeba-hq-256x256"),
        _imagenet(32),
        _imagenet(64),
        _ffhq(256, "merkol/ffhq-256"),
        _ffhq(1024, None),
    )
}
"""The sets, by name."""
