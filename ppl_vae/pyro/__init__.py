"""What every Pyro program here stands on; `ppl_vae.numpyro` offers the same names."""

from ppl_vae.pyro import ranks
from ppl_vae.pyro.annealing import annealed_log_weights, stream_annealed_log_weights
from ppl_vae.pyro.at_once import together
from ppl_vae.pyro.autoregressive import Autoregressive
from ppl_vae.pyro.bind import bind
from ppl_vae.pyro.build import build
from ppl_vae.pyro.calibration import calibration_ranks
from ppl_vae.pyro.coding import codebook_of, codes_of, decode_codes
from ppl_vae.pyro.densities import check_moves
from ppl_vae.pyro.distributions import CategoricalLevels, DiscretizedLogistic
from ppl_vae.pyro.guide import Guide, Site, data_shape, latent_sites
from ppl_vae.pyro.hidden import infer_missing, known_log_weights, known_only
from ppl_vae.pyro.inference import posterior_moments, site_terms
from ppl_vae.pyro.information import cross_log_prob, latent_free_log_prob, unit_kl
from ppl_vae.pyro.inpainting import complete
from ppl_vae.pyro.likelihoods import Likelihood
from ppl_vae.pyro.local import local_elbo
from ppl_vae.pyro.mixture import DiscretizedLogisticMixture
from ppl_vae.pyro.nuts import nuts
from ppl_vae.pyro.objective import Objective, Terms
from ppl_vae.pyro.optimizers import device_name
from ppl_vae.pyro.replay import (
    log_densities,
    pixel_log_likelihood,
    replicates,
    simulate,
    weighted_draws,
)
from ppl_vae.pyro.sampling import posterior_sample, reconstruct, sample, temperature
from ppl_vae.pyro.training import fit
from ppl_vae.pyro.walking import interpolate, posterior_means, redraw, traverse
from ppl_vae.pyro.weighing import log_weights, stream_log_weights
from ppl_vae.pyro.weights import load_state, state

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
    "complete",
    "check_moves",
    "codebook_of",
    "codes_of",
    "cross_log_prob",
    "data_shape",
    "decode_codes",
    "device_name",
    "fit",
    "infer_missing",
    "interpolate",
    "known_log_weights",
    "known_only",
    "latent_free_log_prob",
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
