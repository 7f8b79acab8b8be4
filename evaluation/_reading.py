"""How named axes are read: a DataArray by the names of its dims, anything else by their order."""

from __future__ import annotations

__all__ = ["in_order"]

from typing import Any

import xarray as xr

from ppl_vae.errors import UsageError


def in_order(value: Any, dims: tuple[str, ...], argument: str) -> Any:
    """`value` with its dims in this order, whichever they came in.

    What is no DataArray, or has dims without names (dim_0, …), is left as it is.

    Raises:
        UsageError: a DataArray that has some of the dims, or others besides.
    """
    if not isinstance(value, xr.DataArray) or not set(dims) & set(value.dims):
        return value
    if set(value.dims) != set(dims):
        raise UsageError(
            f"{argument}: expected dims {' and '.join(dims)}, "
            f"came {', '.join(map(str, value.dims))}: rename or stack them"
        )
    return value.transpose(*dims)
