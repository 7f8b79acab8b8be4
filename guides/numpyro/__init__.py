"""Guides in NumPyro."""

from guides.numpyro.bottom_up import BottomUpGuide
from guides.numpyro.gumbel_softmax import GumbelSoftmaxGuide
from guides.numpyro.iaf import IAFGuide
from guides.numpyro.inpainting import InpaintingGuide
from guides.numpyro.ladder import LadderGuide
from guides.numpyro.mean_field import MeanFieldGuide
from guides.numpyro.no_latents import NoLatentsGuide
from guides.numpyro.nvae import NVAEGuide
from guides.numpyro.quantizer_2 import VectorQuantizer2Guide
from guides.numpyro.residual_normal import ResidualNormalGuide
from guides.numpyro.vector_quantizer import VectorQuantizerGuide
from guides.numpyro.very_deep import VeryDeepGuide

__all__ = [
    "BottomUpGuide",
    "GumbelSoftmaxGuide",
    "IAFGuide",
    "InpaintingGuide",
    "LadderGuide",
    "MeanFieldGuide",
    "NVAEGuide",
    "NoLatentsGuide",
    "ResidualNormalGuide",
    "VectorQuantizer2Guide",
    "VectorQuantizerGuide",
    "VeryDeepGuide",
]
