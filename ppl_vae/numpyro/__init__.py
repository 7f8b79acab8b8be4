"""What every NumPyro program here stands on; `ppl_vae.pyro` offers the same names."""

from ppl_vae.numpyro import ranks
from ppl_vae.numpyro.annealing import annealed_log_weights, stream_annealed_log_weights
from ppl_vae.numpyro.at_once import together
from ppl_vae.numpyro.autoregressive import Autoregressive
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.build import build
from ppl_vae.numpyro.calibration import calibration_ranks
from ppl_vae.numpyro.coding import codebook_of, codes_of, decode_codes
from ppl_vae.numpyro.compilation import keep_compiled
from ppl_vae.numpyro.densities import check_moves
from ppl_vae.numpyro.distributions import CategoricalLevels, DiscretizedLogistic
from ppl_vae.numpyro.guide import Guide, Site, data_shape, latent_sites
from ppl_vae.numpyro.hidden import infer_missing, known_log_weights, known_only
from ppl_vae.numpyro.inference import posterior_moments, site_terms
from ppl_vae.numpyro.information import cross_log_prob, latent_free_log_prob, unit_kl
from ppl_vae.numpyro.inpainting import complete
from ppl_vae.numpyro.likelihoods import Likelihood
from ppl_vae.numpyro.local import local_elbo
from ppl_vae.numpyro.mixture import DiscretizedLogisticMixture
from ppl_vae.numpyro.nuts import nuts
from ppl_vae.numpyro.objective import Objective, Terms
from ppl_vae.numpyro.optimizers import device_name
from ppl_vae.numpyro.replay import (
    log_densities,
    pixel_log_likelihood,
    replicates,
    simulate,
    weighted_draws,
)
from ppl_vae.numpyro.sampling import posterior_sample, reconstruct, sample, temperature
from ppl_vae.numpyro.training import fit
from ppl_vae.numpyro.walking import interpolate, posterior_means, redraw, traverse
from ppl_vae.numpyro.weighing import log_weights, stream_log_weights
from ppl_vae.numpyro.weights import load_state, state

__all__ = [
    "Autoregressive",
    "CategoricalLevels",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Guide",
    "Likelihood",
    "Objective",
    "Site",
    "Terms",
    "annealed_log_weights",
    "bind",
    "build",
    "calibration_ranks",
    "check_moves",
    "codebook_of",
    "codes_of",
    "cross_log_prob",
    "data_shape",
    "decode_codes",
    "device_name",
    "fit",
    "interpolate",
    "latent_free_log_prob",
    "complete",
    "infer_missing",
    "known_log_weights",
    "known_only",
    "latent_sites",
    "load_state",
    "local_elbo",
    "log_densities",
    "log_weights",
    "nuts",
    "pixel_log_likelihood",
    "posterior_means",
    "posterior_moments",
    "posterior_sample",
    "ranks",
    "reconstruct",
    "redraw",
    "replicates",
    "sample",
    "simulate",
    "site_terms",
    "state",
    "stream_annealed_log_weights",
    "stream_log_weights",
    "temperature",
    "together",
    "traverse",
    "unit_kl",
    "weighted_draws",
]

keep_compiled()
