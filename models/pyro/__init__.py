"""Generative models in Pyro."""

from models.pyro.hierarchical import HierarchicalVAE
from models.pyro.nvae import NVAE
from models.pyro.vae import VAE

__all__ = ["NVAE", "VAE", "HierarchicalVAE"]
