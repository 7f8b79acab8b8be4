"""Generative models in NumPyro."""

from models.numpyro.hierarchical import HierarchicalVAE
from models.numpyro.inpainting import InpaintingVAE
from models.numpyro.vae import VAE

__all__ = ["VAE", "HierarchicalVAE", "InpaintingVAE"]
