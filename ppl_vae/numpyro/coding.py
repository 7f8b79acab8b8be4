"""What a pair with discrete latents makes of images, and images of its codes."""

from __future__ import annotations

__all__ = ["code_counts", "codebook_of", "codes_of", "decode_codes"]

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from ppl_vae.checks import natural
from ppl_vae.codebooks import check_codes
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.guide import latent_sites
from ppl_vae.numpyro.inference import _in_blocks
from ppl_vae.numpyro.objective import traces
from ppl_vae.numpyro.walking import redraw


def codebook_of(model: Any, site: str = "z1") -> np.ndarray:
    """(K, d): vectors of the codes of one site; UsageError where the model has no codebook."""
    one = getattr(model, "codebook", None)
    books = getattr(model, "codebooks", None) if one is None else [one]
    if books is None:
        raise UsageError(
            f"model: expected one with a codebook, came {type(model).__name__}, which has none: "
            "take VQVAE"
        )
    level = natural(site)[1] - 1
    return np.asarray(books[level].vectors)


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

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`.
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.
        block: images that pass through the nets at once.

    Raises:
        UsageError: a pair without discrete latents.
    """
    codebook_of(model)

    def indices(x: Array) -> dict[str, Array]:
        _, guide_trace = traces(model, guide, x)
        of_sites = {
            name: getattr(unwrapped(site["fn"]), "indices", None)
            for name, site in guide_trace.items()
            if site["type"] == "sample"
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
    """Mean images of maps of codes.

    Args:
        indices: (n, h', w') of z1, or {site: (n, h', w')}.
        seed: of the sites that are not given, drawn from their priors.

    Returns:
        (n, c, h, w), the likelihood's mean.

    Raises:
        UsageError: indices that the codebook does not have, or maps of other sides.
    """
    given = indices if isinstance(indices, Mapping) else {"z1": indices}
    sites, held = latent_sites(model), {}
    for site, maps in given.items():
        vectors = codebook_of(model, site)
        check_codes(np.asarray(maps), len(vectors), sites[site][1:])
        held[site] = np.moveaxis(vectors[np.asarray(maps)], -1, -3)
    return np.asarray(redraw(model, held, seed=seed)["x_mean"])
