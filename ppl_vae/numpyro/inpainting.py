"""Completions of images of which a part is missing, by a program that takes `known` images."""

from __future__ import annotations

__all__ = ["complete"]

from typing import Any

import jax
import numpy as np
from jax import Array, random
from numpyro import handlers

from ppl_vae.errors import UsageError
from ppl_vae.numpyro.asking import asked, running
from ppl_vae.numpyro.sampling import _mean
from ppl_vae.numpyro.sampling import temperature as cooled
from ppl_vae.temperatures import check_factor


def complete(
    model: Any,
    x: Any,
    count: int = 8,
    *,
    temperature: float = 1.0,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    mean: bool = True,
) -> np.ndarray:
    """Draws of what is missing: (count, n, c, h, w), known pixels to the bit as they came.

    Args:
        model: called as `model(known=x)`, such as `InpaintingVAE`.
        x: images with their mask as last channel, 1 where known (`Images.with_masks`), or
            an array (n, c + 1, h, w); with maps of a condition before the mask, where the
            model takes one.
        count: completions an image.
        temperature: factor on the scale of every latent's prior.
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.
        mean: the likelihood's mean for each draw of the latents, where it has one (autoregressive
            pixels have none); False draws pixels too.

    Raises:
        UsageError: count below 1, or a temperature that is not above 0.
    """
    check_factor(temperature)
    if count < 1:
        raise UsageError(f"complete: expected count of at least 1, came {count}")
    generate = model if temperature == 1.0 else cooled(temperature)(model)

    def program(x: Any = None, *, n: Any = None) -> Any:
        return generate(known=x)

    with asked(program, program, x, params, seed, batch_norm, model) as (data, values, key):
        binarise, noise = random.split(key)
        channels = data.shape[1] - 1 - getattr(model, "condition", 0)

        @jax.jit
        def draw(values: Any, known: Array, rng_key: Any) -> Array:
            with running(values, rng_key):
                site = handlers.trace(generate).get_trace(known=known)["x"]
                return (_mean(site) if mean else site["value"])[:, :channels]

        known = data.prepared(data.values, binarise)
        draws = [draw(values, known, one) for one in random.split(noise, count)]
    return np.stack([np.asarray(one) for one in draws])
