"""Guides in NumPyro."""

from guides.numpyro.bottom_up import BottomUpGuide
from guides.numpyro.ladder import LadderGuide
from guides.numpyro.mean_field import MeanFieldGuide
from guides.numpyro.no_latents import NoLatentsGuide

__all__ = ["BottomUpGuide", "LadderGuide", "MeanFieldGuide", "NoLatentsGuide"]
