"""What a prior's training reads off a pair with codes: maps of indices, and what they cost."""

from __future__ import annotations

__all__ = ["STAGES", "bits", "codebooks_of", "count_labels", "digest", "read"]

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.errors import UsageError

if TYPE_CHECKING:
    from ppl_vae.data import Dataset
    from ppl_vae.runs import Run
    from ppl_vae.second_stage import PriorSettings

STAGES = {("z1",): "CodePrior", ("z1", "z2"): "CodePrior2"}
"""Class of the prior's program by the sites of the pair."""


def codebooks_of(programs: Any, pair: tuple[Any, Any], run: Run) -> dict[str, np.ndarray]:
    """{site: (K, d)} of a pair with one map of codes, or two."""
    sites = tuple(sorted(pair[1].sites))
    if sites not in STAGES:
        raise UsageError(
            f"{run.path}: expected one latent map of codes, or two, came {', '.join(sites)}: train "
            "VQVAE or VQVAE2"
        )
    return {site: programs.codebook_of(pair[0], site) for site in sites}


def read(
    programs: Any, pair: tuple[Any, Any], data: Dataset, settings: PriorSettings, num_labels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps of codes of the images for training, for choosing the epoch, and of the test images."""
    maps = [_maps(programs, pair, data.train, seed, num_labels) for seed in range(settings.draws)]
    if data.valid is None:  # the same images of every draw
        held = max(1, int(settings.valid * len(data.train)))
        maps, valid = [part[:-held] for part in maps], maps[0][-held:]
    else:
        valid = _maps(programs, pair, data.valid, 0, num_labels)
    return np.concatenate(maps), valid, _maps(programs, pair, data.test, 0, num_labels)


def _maps(
    programs: Any, pair: tuple[Any, Any], images: Any, seed: int, num_labels: int = 0
) -> np.ndarray:
    """(n, channels, h, w) float32: indices of the codes of z1, of z2 if there are, the label."""
    indices = programs.codes_of(*pair, images, seed=seed)
    (n, height, width), parts = indices["z1"].shape, [indices["z1"]]
    if "z2" in indices:  # each at the 2 x 2 positions below it
        parts.append(indices["z2"].repeat(2, 1).repeat(2, 2)[:, :height, :width])
    if num_labels:
        parts.append(np.broadcast_to(images.labels[:, None, None], (n, height, width)))
    return np.stack(parts, axis=1).astype(np.float32)


def bits(
    programs: Any, pair: tuple[Any, Any], data: Dataset, codebooks: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """What the test images' codes cost, see `ppl_vae.second_stage.train_prior`."""
    scale = math.log(2) * math.prod(data.x_shape)
    nats = programs.site_terms(*pair, data.test)["kl"]
    learned = {site: float(nats[site].mean()) / scale for site in pair[1].sites}
    uniform = {
        site: math.prod(shape[1:]) * math.log(len(codebooks[site])) / scale
        for site, shape in pair[1].sites.items()
    }
    told = {"uniform_bits": sum(uniform.values()), "prior_bits": sum(learned.values())}
    if len(learned) > 1:
        for site in learned:
            told |= {f"uniform_bits_{site}": uniform[site], f"prior_bits_{site}": learned[site]}
    return told


def digest(codebooks: Mapping[str, np.ndarray]) -> str:
    """Tells codebooks apart."""
    told = hashlib.sha256()
    for site in sorted(codebooks):
        told.update(np.ascontiguousarray(codebooks[site]).tobytes())
    return told.hexdigest()


def count_labels(images: Any) -> int:
    """How many labels images have, from 0 up."""
    if images.labels is None:
        raise UsageError("labels: expected labelled images, came some without: leave it false")
    return int(images.labels.max()) + 1
