"""What XLA has compiled, kept on disk: a deep hierarchy takes minutes, and only the first time.

| `PPL_VAE_COMPILATION_CACHE` | compiled programs are kept in |
|---|---|
| not set | `jax/` in the cache folder of `ppl_vae.data` |
| a folder | that folder |
| off, or 0 | memory, for as long as the process lives |

JAX's own setting (`JAX_COMPILATION_CACHE_DIR`, `jax_compilation_cache_dir`) goes before it, and
JAX's other settings hold: programs that compile within a second are not kept.
"""

from __future__ import annotations

__all__ = ["keep_compiled"]

import os
from pathlib import Path

import jax

from ppl_vae.data.fetching import cache_folder

VARIABLE = "PPL_VAE_COMPILATION_CACHE"
OFF = ("off", "0")


def keep_compiled() -> Path | None:
    """Turn JAX's persistent compilation cache on, unless told otherwise; its folder, or None."""
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if chosen:
        return Path(chosen)
    named = os.environ.get(VARIABLE, "")
    if named.lower() in OFF:
        return None
    folder = Path(named).expanduser() if named else cache_folder() / "jax"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder
