"""ArviZ's plots as files, with the parts' versions 0.8 and 1.x alike."""

from __future__ import annotations

__all__ = ["drawn", "keyword"]

import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evaluation._canvas import save


def keyword(
    function: Callable[..., Any], *, old: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments in `new` where the function takes all of them, else those in `old`."""
    known = inspect.signature(function).parameters
    return dict(new if all(name in known for name in new) else old)


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
    with plt.rc_context({"font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of layouts that give up room
            collection = plot(*args, backend="matplotlib", **kwargs)
        figure = collection.viz["figure"].item()
        try:
            figure.set_dpi(110)
            if change is not None:
                change(figure)
            return save(figure, path)
        finally:
            plt.close(figure)
