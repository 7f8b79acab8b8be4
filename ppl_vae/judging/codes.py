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
    programs.codebook_of(subject.model)  # refuses models without one
    codes = programs.codes_of(*subject.pair, images, **subject.drawn)
    terms = programs.site_terms(*subject.pair, images, **subject.drawn)["kl"]
    found = {}
    for site, indices in sorted(codes.items()):
        num_codes = len(programs.codebook_of(subject.model, site))
        found[site] = _of_site(subject, indices, num_codes, terms[site])
    told = {site: _numbers(data) for site, data in found.items()}
    pictures = [
        Picture(
            code_counts(data["count"].values, subject.figures / f"codes{_suffix(site)}.png"),
            f"How often each code of {site} is used, most used first, on test images.",
        )
        for site, data in found.items()
    ]
    chapter = Chapter("Codes", _text(found["z1"]), [_table(told)], pictures)
    merged = xr.merge([data.rename(_renamed(data, site)) for site, data in found.items()],
                      combine_attrs="override")  # fmt: skip
    numbers = {f"{name}{_suffix(site)}": value for site, row in told.items()
               for name, value in row.items()}  # fmt: skip
    return Finding(NAME, merged, chapter, numbers)


def _of_site(subject: Subject, indices: Any, num_codes: int, nats: Any) -> xr.Dataset:
    """Counts, perplexity and bits of one site's codes; `nats` (n,) under the pair's prior."""
    scale = math.log(2) * math.prod(subject.images.x_shape)
    bits = {"units": "bits per dimension of the image"}
    uniform = math.prod(indices.shape[1:]) * math.log(num_codes)
    return code_usage(indices, num_codes, subject.images.images).assign(
        code_bits=((), float(np.mean(nats)) / scale, bits),
        uniform_bits=((), uniform / scale, bits),
    )


def _numbers(data: xr.Dataset) -> dict[str, Any]:
    told = {str(name): data[name].item() for name in data if not data[name].dims}
    return {**told, "num_codes": data.attrs["num_codes"]}


def _suffix(site: str) -> str:
    """What a number's name has after it: nothing for z1, the only site of most models."""
    return "" if site == "z1" else f"_{site}"


def _renamed(data: xr.Dataset, site: str) -> dict[Any, str]:
    return {name: f"{name}{_suffix(site)}" for name in (*data.variables, *data.dims)}


def _text(data: xr.Dataset) -> list[str]:
    return [
        "Perplexity is the number of codes that, evenly used, would say as much as these do, on "
        f"{data.attrs['num_images']} test images. The ceiling is what it could be at most if all "
        "blank patches went to one code. Codes cost log K a position under a uniform prior; a "
        "learned prior (ppl-vae prior RUN) makes them cheaper."
    ]


def _table(told: dict[str, dict[str, Any]]) -> Table:
    rows: list[Row] = [
        {
            "site": site,
            "codes": row["num_codes"],
            "used": row["used"],
            "perplexity": Number(row["perplexity"], decimals=1),
            "ceiling": Number(row["ceiling"], decimals=1),
            "blank patches, %": Number(100 * row["blank_share"], decimals=1),
            "bits": Number(row["code_bits"], decimals=4),
            "bits, uniform": Number(row["uniform_bits"], decimals=4),
        }
        for site, row in told.items()
    ]
    return Table(rows, "Bits: of the codes under the pair's prior, and under a uniform one, per "
                 "dimension of the image; lower is better.")  # fmt: skip
