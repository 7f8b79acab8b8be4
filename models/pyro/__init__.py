"""Generative models in Pyro."""

from models.pyro.code_prior_2 import CodePrior2
from models.pyro.hierarchical import HierarchicalVAE
from models.pyro.inpainting import InpaintingVAE
from models.pyro.nvae import NVAE
from models.pyro.pixel_vae import HierarchicalPixelVAE, PixelCNN, PixelVAE
from models.pyro.vae import VAE
from models.pyro.very_deep import VeryDeepVAE
from models.pyro.vq_vae import VQVAE, CodePrior
from models.pyro.vq_vae_2 import VQVAE2

__all__ = [
    "CodePrior",
    "CodePrior2",
    "HierarchicalPixelVAE",
    "HierarchicalVAE",
    "InpaintingVAE",
    "NVAE",
    "PixelCNN",
    "PixelVAE",
    "VAE",
    "VQVAE",
    "VQVAE2",
    "VeryDeepVAE",
]
