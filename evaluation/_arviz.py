"""ArviZ's plots as files, with the parts' versions 0.8 and 1.x alike."""

from __future__ import annotations

__all__ = ["drawn"]

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluation._canvas import _STYLE, save


def drawn(
    path: str | Path,
    plot: Callable[..., Any],
    *args: Any,
    size: tuple[float, float],
    change: Callable[[Any], None] | None = None,
    **kwargs: Any,
) -> Path:
    """A plot of arviz-plots as a PNG of `size` (width, height in inches).

    Args:
        change: applied to the matplotlib figure before it is written.
    """
    from matplotlib import pyplot as plt

    kwargs["figure_kwargs"] = {"figsize": size, **kwargs.get("figure_kwargs", {})}
    style = {**_STYLE, "figure.constrained_layout.use": True, "axes.titlesize": 10}
    with plt.rc_context(style):
        with warnings.catch_warnings():
            for kind in (UserWarning, FutureWarning):  # of layouts, and of ArviZ's own affairs
                warnings.simplefilter("ignore", kind)
            collection = plot(*args, backend="matplotlib", **kwargs)
        figure = collection.viz["figure"].item()
        try:
            figure.set_dpi(110)
            if change is not None:
                change(figure)
            return save(figure, path)
        finally:
            plt.close(figure)
