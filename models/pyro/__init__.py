"""Generative models in Pyro."""

from models.pyro.hierarchical import HierarchicalVAE
from models.pyro.pixel_vae import HierarchicalPixelVAE, PixelCNN, PixelVAE
from models.pyro.vae import VAE

__all__ = ["VAE", "HierarchicalPixelVAE", "HierarchicalVAE", "PixelCNN", "PixelVAE"]
