"""Generative models in NumPyro."""

from models.numpyro.hierarchical import HierarchicalVAE
from models.numpyro.nvae import NVAE
from models.numpyro.vae import VAE

__all__ = ["NVAE", "VAE", "HierarchicalVAE"]
