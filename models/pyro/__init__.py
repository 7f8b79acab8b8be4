"""Generative models in Pyro."""

from models.pyro.hierarchical import HierarchicalVAE
from models.pyro.nvae import NVAE
from models.pyro.vae import VAE
from models.pyro.very_deep import VeryDeepVAE

__all__ = ["NVAE", "VAE", "HierarchicalVAE", "VeryDeepVAE"]
