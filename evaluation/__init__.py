"""How good a model and its guide are: likelihood, posterior, latents, disentanglement, figures.

Works on log weights and posterior draws as numpy and xarray, with neither torch nor jax, so that
both PPLs are judged by the same code.
"""

from __future__ import annotations

__all__ = [
    "Chapter",
    "Code",
    "Picture",
    "Table",
    "active_units",
    "agreement",
    "annealed_bounds",
    "bits_back",
    "calibration",
    "choose_beta",
    "code_usage",
    "compare",
    "compare_checks",
    "comparison_page",
    "convergence",
    "dci",
    "disentanglement_scores",
    "factor_vae_score",
    "figures",
    "gap_parts",
    "higgins_score",
    "image_statistics",
    "importance_weighted_nll",
    "leave_one_image_out",
    "leave_one_pixel_out",
    "likelihood_ladder",
    "linear_probe",
    "modularity",
    "mutual_information",
    "mutual_information_gap",
    "plot_calibration",
    "plot_forests",
    "plot_predictive",
    "posterior_tree",
    "predictive_p_values",
    "predictive_tree",
    "principal_components",
    "published_numbers",
    "purity",
    "sampled",
    "sap_score",
    "summary",
    "table",
    "two_dimensional",
    "write_page",
]

from evaluation import figures
from evaluation.annealing import annealed_bounds
from evaluation.beta_choice import choose_beta
from evaluation.calibration import calibration, plot_calibration
from evaluation.check_tables import compare_checks
from evaluation.codes import code_usage
from evaluation.disentanglement import disentanglement_scores, sampled
from evaluation.factor_information import modularity, mutual_information_gap
from evaluation.factor_regression import dci, sap_score
from evaluation.fixed_factor import factor_vae_score, higgins_score
from evaluation.gaps import gap_parts
from evaluation.information import bits_back, mutual_information
from evaluation.ladder import likelihood_ladder
from evaluation.latents import active_units
from evaluation.likelihood import importance_weighted_nll
from evaluation.page import Chapter, Code, Picture, Table, write_page
from evaluation.pixelwise import leave_one_image_out, leave_one_pixel_out
from evaluation.posterior import agreement, convergence, plot_forests, posterior_tree
from evaluation.predictive import (
    image_statistics,
    plot_predictive,
    predictive_p_values,
    predictive_tree,
)
from evaluation.published import published_numbers
from evaluation.report import compare, summary, table
from evaluation.representation import linear_probe, principal_components, purity, two_dimensional
from evaluation.side_by_side import comparison_page
