"""What a pair with discrete latents makes of images, and images of its codes."""

from __future__ import annotations

__all__ = ["code_counts", "codebook_of", "codes_of", "decode_codes"]

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ppl_vae.codebooks import check_codes
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.codes import embed
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.inference import _in_blocks
from ppl_vae.numpyro.objective import traces
from ppl_vae.numpyro.walking import redraw


def codebook_of(model: Any) -> np.ndarray:
    """(K, d): vectors of the model's codes; UsageError where it has none."""
    codebook = getattr(model, "codebook", None)
    if codebook is None:
        raise UsageError(
            f"model: expected one with a codebook, came {type(model).__name__}, which has none: "
            "take VQVAE"
        )
    return np.asarray(codebook.vectors)


def codes_of(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int = 1000,
) -> dict[str, np.ndarray]:
    """{site: (n, h, w)}: indices of the codes that the guide answers images `x` with.

    The most probable ones where it gives several a chance.

    Raises:
        UsageError: a pair without discrete latents.
    """
    codebook_of(model)

    def indices(x: Array) -> dict[str, Array]:
        _, guide_trace = traces(model, guide, x)
        of_sites = {
            name: getattr(unwrapped(site["fn"]), "indices", None)
            for name, site in guide_trace.items()
        }
        return {name: found for name, found in of_sites.items() if found is not None}

    found: dict[str, np.ndarray] = _in_blocks(
        indices, model, guide, x, params, seed, batch_norm, block
    )
    return found


def code_counts(guide_trace: Any) -> dict[str, Array]:
    """{site: (K,)}: how many positions have each code, of a guide's trace, of discrete sites."""
    found = {}
    for name, site in guide_trace.items():
        fn: Any = unwrapped(site["fn"]) if site["type"] == "sample" else None
        if hasattr(fn, "indices"):
            found[name] = jnp.bincount(fn.indices.reshape(-1), length=len(fn.vectors))
    return found


def decode_codes(model: Any, indices: Any, *, seed: int = 0) -> np.ndarray:
    """Mean images (n, c, h, w) of maps of codes (n, h', w').

    Raises:
        UsageError: indices that the codebook does not have, or maps of other sides.
    """
    indices = np.asarray(indices)
    check_codes(indices, len(codebook_of(model)), model.sides)
    held = np.asarray(embed(indices, model.codebook.vectors))
    return np.asarray(redraw(model, {"z1": held}, seed=seed)["x_mean"])
