"""From a recipe to its model and guide, with the recipe's seed."""

from __future__ import annotations

__all__ = ["build"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ppl_vae.pyro.optimizers import device_of
from ppl_vae.pyro.streams import kept_streams
from ppl_vae.recipes import Recipe


def build(recipe: Recipe, x_shape: Sequence[int]) -> tuple[Any, Any]:
    """(model, guide) with fresh weights, in evaluation mode, on the recipe's device.

    Args:
        recipe: classes, their arguments, training.seed, training.precision and training.device;
            a run of a machine with an accelerator is built where there is none as well.
        x_shape: (channels, height, width) of its data.
    """
    model_class, model_args = recipe.model.resolve("model", "pyro")
    guide_class, guide_args = recipe.guide.resolve("guide", "pyro")
    chosen = recipe.training.device
    device = device_of(chosen if chosen == "cpu" or torch.cuda.is_available() else None)
    with kept_streams(device):
        torch.manual_seed(recipe.training.seed)
        model = model_class(tuple(x_shape), **model_args)
        guide = guide_class(model, **guide_args)
    for part in (model, guide):
        if isinstance(part, nn.Module):
            part.eval().to(device)
            if recipe.training.precision == "float64":
                part.double()
    return model, guide
