"""What every figure shares: colours, type, and a small file written whole."""

from __future__ import annotations

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "MAX_BYTES",
    "ORANGE",
    "PALETTE",
    "PURPLE",
    "drawing",
    "save",
    "site_colours",
    "write_whole",
]

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Okabe & Ito 2008, Color Universal Design: told apart with any common colour blindness.
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000")
GREY = "#5f6670"
MAX_BYTES = 150_000

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#30353b",
    "axes.edgecolor": "#9aa1a9",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "xtick.color": "#9aa1a9",
    "ytick.color": "#9aa1a9",
    "xtick.labelcolor": "#30353b",
    "ytick.labelcolor": "#30353b",
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "image.interpolation": "nearest",
}


@contextmanager
def drawing(
    width: float, height: float, *, dpi: int = 110, constrained: bool = True
) -> Iterator[Figure]:
    """A figure of `width` x `height` inches in the project's style, without pyplot's state."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure((width, height), dpi=dpi, layout="constrained" if constrained else None)
        FigureCanvasAgg(figure)
        yield figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write `figure` to `path` as PNG, whole or not at all.

    A busy picture over `MAX_BYTES` gets fewer colours, then fewer pixels.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    data = buffer.getvalue()
    if len(data) > MAX_BYTES:
        data = _smaller(data)
    return write_whole(Path(path), data)


def write_whole(path: Path, data: bytes) -> Path:
    """Write `data` to `path`, whole or not at all; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def site_colours(sites: int) -> list[Any]:
    """One colour a site, z1 first: the palette while it lasts, then even steps of viridis."""
    if sites <= len(PALETTE):
        return list(PALETTE[:sites])
    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.93, sites)))


def _smaller(data: bytes) -> bytes:
    """The picture with fewer levels a channel; then with a palette; then with fewer pixels."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    for levels in (64, 32):
        rounded = np.round(np.asarray(picture) / 255.0 * (levels - 1)) / (levels - 1) * 255.0
        data = _png(Image.fromarray(rounded.round().astype(np.uint8)))
        if len(data) <= MAX_BYTES:
            return data
    for scale in (1.0, 0.75, 0.5, 0.35):
        size = (round(picture.width * scale), round(picture.height * scale))
        smaller = picture if scale == 1.0 else picture.resize(size, Image.Resampling.LANCZOS)
        data = _png(smaller.quantize(256, Image.Quantize.FASTOCTREE))
        if len(data) <= MAX_BYTES:
            break
    return data


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
