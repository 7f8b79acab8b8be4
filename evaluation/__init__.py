"""How good a model and its guide are: likelihood, latents, disentanglement, figures.

Works on log weights and posterior draws as numpy and xarray, with neither torch nor jax, so that
both PPLs are judged by the same code.
"""

from __future__ import annotations

__all__ = [
    "active_units",
    "bits_back",
    "choose_beta",
    "compare",
    "dci",
    "disentanglement_scores",
    "factor_vae_score",
    "figures",
    "higgins_score",
    "importance_weighted_nll",
    "linear_probe",
    "modularity",
    "mutual_information",
    "mutual_information_gap",
    "principal_components",
    "purity",
    "sampled",
    "sap_score",
    "summary",
    "table",
    "two_dimensional",
]

from evaluation import figures
from evaluation.beta_choice import choose_beta
from evaluation.disentanglement import disentanglement_scores, sampled
from evaluation.factor_information import modularity, mutual_information_gap
from evaluation.factor_regression import dci, sap_score
from evaluation.fixed_factor import factor_vae_score, higgins_score
from evaluation.information import bits_back, mutual_information
from evaluation.latents import active_units
from evaluation.likelihood import importance_weighted_nll
from evaluation.report import compare, summary, table
from evaluation.representation import linear_probe, principal_components, purity, two_dimensional
