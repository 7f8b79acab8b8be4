"""Guides in Pyro."""

from guides.pyro.bottom_up import BottomUpGuide
from guides.pyro.ladder import LadderGuide
from guides.pyro.mean_field import MeanFieldGuide
from guides.pyro.no_latents import NoLatentsGuide

__all__ = ["BottomUpGuide", "LadderGuide", "MeanFieldGuide", "NoLatentsGuide"]
