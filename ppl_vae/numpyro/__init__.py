"""What every NumPyro program here stands on; `ppl_vae.pyro` offers the same names."""

from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.build import build
from ppl_vae.numpyro.distributions import DiscretizedLogistic
from ppl_vae.numpyro.guide import Guide, Site, data_shape, latent_sites
from ppl_vae.numpyro.hidden import infer_missing, known_only
from ppl_vae.numpyro.inference import (
    log_weights,
    posterior_moments,
    site_terms,
    stream_log_weights,
)
from ppl_vae.numpyro.inpainting import complete
from ppl_vae.numpyro.likelihoods import Likelihood
from ppl_vae.numpyro.objective import Objective, Terms
from ppl_vae.numpyro.sampling import posterior_sample, reconstruct, sample, temperature
from ppl_vae.numpyro.training import fit
from ppl_vae.numpyro.weights import load_state, state

__all__ = [
    "DiscretizedLogistic",
    "Guide",
    "Likelihood",
    "Objective",
    "Site",
    "Terms",
    "bind",
    "build",
    "complete",
    "data_shape",
    "fit",
    "infer_missing",
    "known_only",
    "latent_sites",
    "load_state",
    "log_weights",
    "posterior_moments",
    "posterior_sample",
    "reconstruct",
    "sample",
    "site_terms",
    "state",
    "stream_log_weights",
    "temperature",
]
