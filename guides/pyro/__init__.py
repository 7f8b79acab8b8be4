"""Guides in Pyro."""

from guides.pyro.bottom_up import BottomUpGuide
from guides.pyro.gumbel_softmax import GumbelSoftmaxGuide
from guides.pyro.iaf import IAFGuide
from guides.pyro.inpainting import InpaintingGuide
from guides.pyro.ladder import LadderGuide
from guides.pyro.mean_field import MeanFieldGuide
from guides.pyro.no_latents import NoLatentsGuide
from guides.pyro.nvae import NVAEGuide
from guides.pyro.quantizer_2 import VectorQuantizer2Guide
from guides.pyro.residual_normal import ResidualNormalGuide
from guides.pyro.vector_quantizer import VectorQuantizerGuide
from guides.pyro.very_deep import VeryDeepGuide

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
