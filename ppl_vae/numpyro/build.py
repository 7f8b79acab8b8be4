"""From a recipe to its model and guide, with the recipe's seed."""

from __future__ import annotations

__all__ = ["build"]

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ppl_vae.numpyro.guide import set_mode
from ppl_vae.recipes import Recipe


def build(recipe: Recipe, x_shape: Sequence[int]) -> tuple[Any, Any]:
    """(model, guide) with fresh weights, in evaluation mode.

    Args:
        recipe: classes, their arguments, training.seed and training.precision.
        x_shape: (channels, height, width) of its data.
    """
    model_class, model_args = recipe.model.resolve("model", "numpyro")
    guide_class, guide_args = recipe.guide.resolve("guide", "numpyro")
    rngs = nnx.Rngs(recipe.training.seed)
    model = model_class(tuple(x_shape), **model_args, rngs=rngs)
    guide = guide_class(model, **guide_args, rngs=rngs)
    for part in (model, guide):
        if isinstance(part, nnx.Module):
            set_mode(part, training=False)
            if recipe.training.precision == "float64":
                as_dtype(part, jnp.float64)
    return model, guide


def as_dtype(module: nnx.Module, dtype: Any) -> None:
    """Cast a module's floating-point variables in place."""
    state = nnx.state(module)
    # On the host: XLA would compile a program for each shape.
    cast = jax.tree.map(
        lambda v: jnp.asarray(np.asarray(v), dtype) if jnp.issubdtype(v.dtype, jnp.floating) else v,
        state,
    )
    nnx.update(module, cast)
