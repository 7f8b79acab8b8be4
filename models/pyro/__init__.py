"""Generative models in Pyro."""

from models.pyro.hierarchical import HierarchicalVAE
from models.pyro.inpainting import InpaintingVAE
from models.pyro.vae import VAE

__all__ = ["VAE", "HierarchicalVAE", "InpaintingVAE"]
