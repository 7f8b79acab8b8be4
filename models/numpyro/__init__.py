"""Generative models in NumPyro."""

from models.numpyro.hierarchical import HierarchicalVAE
from models.numpyro.pixel_vae import HierarchicalPixelVAE, PixelCNN, PixelVAE
from models.numpyro.vae import VAE

__all__ = ["VAE", "HierarchicalPixelVAE", "HierarchicalVAE", "PixelCNN", "PixelVAE"]
