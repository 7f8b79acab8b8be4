"""How good a model and its guide are: likelihood, latents, figures and tables.

Works on log weights and posterior draws as numpy and xarray, with neither torch nor jax, so that
both PPLs are judged by the same code.
"""

from __future__ import annotations

__all__ = [
    "active_units",
    "compare",
    "figures",
    "importance_weighted_nll",
    "summary",
    "table",
]

from evaluation import figures
from evaluation.latents import active_units
from evaluation.likelihood import importance_weighted_nll
from evaluation.report import compare, summary, table
