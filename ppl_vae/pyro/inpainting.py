"""Completions of images of which a part is missing, by a program that takes `known` images."""

from __future__ import annotations

__all__ = ["complete"]

from typing import Any

import numpy as np
import torch
from pyro import poutine

from ppl_vae.errors import UsageError
from ppl_vae.pyro.asking import asked
from ppl_vae.pyro.sampling import _mean
from ppl_vae.pyro.sampling import temperature as cooled
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
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.
        mean: the likelihood's mean for each draw of the latents, where it has one (autoregressive
            pixels have none); False draws pixels too.

    Raises:
        UsageError: count below 1, or a temperature that is not above 0.
    """
    check_factor(temperature)
    if count < 1:
        raise UsageError(f"complete: expected count of at least 1, came {count}")
    generate = model if temperature == 1.0 else cooled(temperature)(model)

    def as_guide(x: Any) -> Any:  # a pass over the images, for recomputed statistics
        return generate(known=x)

    with asked(model, as_guide, x, params, seed, batch_norm) as data:
        known = data.batch(slice(None))
        sites = [poutine.trace(generate).get_trace(known=known).nodes["x"] for _ in range(count)]
        draws = torch.stack([_mean(site) if mean else site["value"] for site in sites])
    return draws[:, :, : -1 - getattr(model, "condition", 0)].cpu().numpy()
