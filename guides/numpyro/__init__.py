"""Guides in NumPyro."""

from guides.numpyro.bottom_up import BottomUpGuide
from guides.numpyro.inpainting import InpaintingGuide
from guides.numpyro.ladder import LadderGuide
from guides.numpyro.mean_field import MeanFieldGuide

__all__ = ["BottomUpGuide", "InpaintingGuide", "LadderGuide", "MeanFieldGuide"]
