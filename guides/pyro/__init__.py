"""Guides in Pyro."""

from guides.pyro.bottom_up import BottomUpGuide
from guides.pyro.inpainting import InpaintingGuide
from guides.pyro.ladder import LadderGuide
from guides.pyro.mean_field import MeanFieldGuide

__all__ = ["BottomUpGuide", "InpaintingGuide", "LadderGuide", "MeanFieldGuide"]
