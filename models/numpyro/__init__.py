"""Generative models in NumPyro."""

from models.numpyro.code_prior_2 import CodePrior2
from models.numpyro.hierarchical import HierarchicalVAE
from models.numpyro.inpainting import InpaintingVAE
from models.numpyro.nvae import NVAE
from models.numpyro.pixel_vae import HierarchicalPixelVAE, PixelCNN, PixelVAE
from models.numpyro.vae import VAE
from models.numpyro.very_deep import VeryDeepVAE
from models.numpyro.vq_vae import VQVAE, CodePrior
from models.numpyro.vq_vae_2 import VQVAE2

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
