"""Generative models in Pyro."""

from models.pyro.hierarchical import HierarchicalVAE
from models.pyro.vae import VAE

__all__ = ["VAE", "HierarchicalVAE"]
