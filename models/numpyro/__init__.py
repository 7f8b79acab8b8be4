"""Generative models in NumPyro."""

from models.numpyro.hierarchical import HierarchicalVAE
from models.numpyro.nvae import NVAE
from models.numpyro.vae import VAE
from models.numpyro.very_deep import VeryDeepVAE

__all__ = ["NVAE", "VAE", "HierarchicalVAE", "VeryDeepVAE"]
