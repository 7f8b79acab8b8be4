"""How a pair with discrete latents uses its codes, and what they cost under its prior."""

from __future__ import annotations

__all__ = ["NAME", "Settings", "judge"]

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from evaluation import code_usage
from evaluation.code_figures import code_counts
from evaluation.comparison import Number, Row
from evaluation.page import Chapter, Picture, Table
from ppl_vae.judging.subject import Finding, Subject

NAME = "codes"


@dataclass(frozen=True)
class Settings:
    """Nothing to set."""


def judge(subject: Subject, settings: Settings) -> Finding:
    """Counts, perplexity and bits of the test images' codes.

    Raises:
        UsageError: a pair without a codebook.
    """
    programs, images = subject.programs, subject.images
    num_codes = len(programs.codebook_of(subject.model))
    (indices,) = programs.codes_of(*subject.pair, images, **subject.drawn).values()
    terms = programs.site_terms(*subject.pair, images, **subject.drawn)
    scale = math.log(2) * math.prod(images.x_shape)
    bits = {"units": "bits per dimension of the image"}
    uniform = math.prod(indices.shape[1:]) * math.log(num_codes)
    data = code_usage(indices, num_codes, images.images).assign(
        code_bits=((), float(np.mean(sum(terms["kl"].values()))) / scale, bits),
        uniform_bits=((), uniform / scale, bits),
    )
    told = {str(name): data[name].item() for name in data if not data[name].dims}
    chapter = Chapter("Codes", _text(data), [_table(told, num_codes)], _pictures(subject, data))
    return Finding(NAME, data, chapter, {**told, "num_codes": num_codes})


def _text(data: xr.Dataset) -> list[str]:
    return [
        "Perplexity is the number of codes that, evenly used, would say as much as these do, on "
        f"{data.attrs['num_images']} test images. The ceiling is what it could be at most if all "
        "blank patches went to one code. Codes cost log K a position under a uniform prior; a "
        "learned prior (ppl-vae prior RUN) makes them cheaper."
    ]


def _table(told: dict[str, Any], num_codes: int) -> Table:
    row: Row = {
        "codes": num_codes,
        "used": told["used"],
        "perplexity": Number(told["perplexity"], decimals=1),
        "ceiling": Number(told["ceiling"], decimals=1),
        "blank patches, %": Number(100 * told["blank_share"], decimals=1),
        "bits": Number(told["code_bits"], decimals=4),
        "bits, uniform": Number(told["uniform_bits"], decimals=4),
    }
    return Table([row], "Bits: of the codes under the pair's prior, and under a uniform one, per "
                 "dimension of the image; lower is better.")  # fmt: skip


def _pictures(subject: Subject, data: xr.Dataset) -> list[Picture]:
    path = code_counts(data["count"].values, subject.figures / "codes.png")
    return [Picture(path, "How often each code is used, most used first, on test images.")]
