r"""The Fréchet inception distance of samples from test images (Heusel et al. 2017, eq. 6).

.. math:: \lVert \mu_1 - \mu_2 \rVert^2
    + \mathrm{Tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})

of the means and covariances of Inception's 2048 features. It is computed by torch-fidelity (extra
`frechet`), with the one file of weights that the name stands for, which the user supplies; under
any other features there would be a number, but not this one, so none is given.
"""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge", "ready"]

import hashlib
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.errors import UsageError
from ppl_vae.judging.subject import Finding, Subject

if TYPE_CHECKING:
    from evaluation.page import Chapter

NAME = "frechet"
FEATURES = "inception-v3-compat"  # torch-fidelity's name for the published network
NUM_FEATURES = 2048
BLOCK = 200  # images drawn at a time


@dataclass(frozen=True)
class Settings:
    """Args:
    weights: the published file of Inception's weights, see docs/evaluation.md.
    samples: drawn from the model; 0 for as many as there are images asked about.
    batch: images that go through Inception at once.
    """

    weights: str | None = None
    samples: int = 0
    batch: int = 64


def ready(subject: Subject, settings: Settings) -> None:
    """Refuse what would be no Fréchet distance, before anything is drawn.

    Raises:
        UsageError: images that have no colour or a mask, no weights or others than the published
            ones, or no package torch-fidelity.
    """
    if subject.images.x_shape[0] != 3 or subject.images.pixels.shape[1] != 3:
        raise UsageError(
            f"frechet: expected whole images in colour, which Inception was trained on, came "
            f"{subject.images.x_shape[0]} channels: the distance means nothing here, see "
            "--check predictive"
        )
    if settings.samples < 0 or settings.batch < 1:
        raise UsageError(
            f"frechet: expected samples from 0 and batch from 1, came {settings.samples} and "
            f"{settings.batch}"
        )
    _check_weights(settings.weights, _package())


def judge(subject: Subject, settings: Settings) -> Finding:
    """Draw from p(x | z) with z from the prior, and compare with the images asked about."""
    import xarray as xr

    ready(subject, settings)
    package, real = _package(), subject.images.pixels
    count = settings.samples or len(real)
    with tempfile.TemporaryDirectory(prefix="ppl-vae-") as place:
        ours, theirs = Path(place, "samples"), Path(place, "images")
        _write(ours, _drawn(subject, count))
        _write(theirs, (real[i : i + BLOCK] for i in range(0, len(real), BLOCK)))
        found = package.calculate_metrics(
            input1=str(ours),
            input2=str(theirs),
            fid=True,
            feature_extractor=FEATURES,
            feature_extractor_weights_path=settings.weights,
            batch_size=settings.batch,
            cuda=False,
            cache=False,
            save_cpu_ram=True,
            verbose=False,
        )
    distance = float(found[package.KEY_METRIC_FID])
    told = {"distance": distance, "num_samples": count, "num_images": len(real)}
    data = xr.Dataset(
        {
            "distance": (
                (),
                distance,
                {"units": "squared feature units", "long_name": "Fréchet inception distance"},
            )
        },
        attrs={**told, "features": FEATURES},
    )
    return Finding(NAME, data, _chapter(told), told)


def _drawn(subject: Subject, count: int) -> Iterable[np.ndarray]:
    """uint8 images (at most BLOCK, 3, h, w), a stream of its own for each block."""
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        drawn = {**subject.drawn, "seed": subject.seed + start}
        x = np.asarray(subject.programs.simulate(subject.model, size, **drawn)["x"])
        yield np.round(x.clip(0.0, 1.0) * 255.0).astype(np.uint8)


def _write(folder: Path, blocks: Iterable[np.ndarray]) -> None:
    """Each image as a PNG, which loses nothing."""
    from PIL import Image

    folder.mkdir()
    written = 0
    for block in blocks:
        for pixels in block:
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{written:07}.png")
            written += 1


def _package() -> Any:
    try:
        import torch_fidelity
    except ImportError as error:
        raise UsageError(
            "frechet: torch-fidelity, which computes it, is not installed: run "
            "`pip install -c constraints.txt -e '.[frechet]'`, or leave the check out"
        ) from error
    return torch_fidelity


def _check_weights(weights: str | None, package: Any) -> None:
    """The published file's name ends with how its SHA-256 begins."""
    from importlib import import_module

    url = import_module(f"{package.__name__}.feature_extractor_inceptionv3").URL_INCEPTION_V3
    name = str(url).rpartition("/")[2]
    if weights is None:
        raise UsageError(
            f"frechet.weights: expected the file {name}, came none: download it from {url} and say "
            "where it is (--set frechet.weights=FILE)"
        )
    file = Path(weights).expanduser()
    if not file.is_file():
        raise UsageError(f"frechet.weights: expected the file {name}, came none at {file}")
    with file.open("rb") as stream:
        came = hashlib.file_digest(stream, "sha256").hexdigest()
    wanted = re.search(r"-([0-9a-f]{8,})\.pth$", name)
    if wanted is None or not came.startswith(wanted[1]):
        raise UsageError(
            f"frechet.weights: expected {name}, whose SHA-256 begins as its name ends, came {file} "
            f"with {came[:8]}…: with other features the number would not be this distance; take "
            f"that of {url}"
        )


def _chapter(told: dict[str, Any]) -> Chapter:
    from evaluation.comparison import Number
    from evaluation.page import Chapter, Table

    text = (
        f"{told['num_samples']} draws of p(x | z), z from the prior, against {told['num_images']} "
        "images of the test split, in the features of the published Inception network. Lower is "
        "better; few images bias it upwards, so it compares only with distances of as many.",
    )
    row = {"distance": Number(told["distance"], decimals=2), **{
        name.replace("num_", ""): told[name] for name in ("num_samples", "num_images")
    }}  # fmt: skip
    few = min(told["num_samples"], told["num_images"]) <= NUM_FEATURES
    warnings = (
        (f"No more than {NUM_FEATURES} images on a side: the covariances are singular.",)
        if few
        else ()
    )
    return Chapter("Fréchet inception distance", text, [Table([row])], warnings=warnings)
