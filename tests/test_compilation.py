"""Where compiled programs are kept: the user's choice, JAX's, or the cache folder; or nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from ppl_vae.numpyro.compilation import keep_compiled

KEEP = """
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
import ppl_vae.numpyro
jax.jit(lambda x: jnp.sin(x) + 1)(1.0)
"""


@pytest.mark.parametrize(
    ("variables", "own", "expected"),
    [
        ({"PPL_VAE_CACHE": "/a"}, None, "/a/jax"),
        ({"PPL_VAE_CACHE": "/a", "PPL_VAE_COMPILATION_CACHE": "/b"}, None, "/b"),
        ({"PPL_VAE_COMPILATION_CACHE": "off"}, None, None),
        ({"PPL_VAE_COMPILATION_CACHE": "/b"}, "/c", "/c"),
    ],
    ids=["default", "chosen", "off", "JAX's own"],
)
def test_the_folder(
    variables: dict[str, str],
    own: str | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"PPL_VAE_COMPILATION_CACHE": "", **variables}.items():
        monkeypatch.setenv(name, value)
    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        jax.config.update("jax_compilation_cache_dir", own)
        found = keep_compiled()
        told = jax.config.values["jax_compilation_cache_dir"]
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found == (expected and Path(expected))
    assert told == expected


def test_what_was_compiled_is_there(tmp_path: Path) -> None:
    """In a process of its own, where JAX has been told nothing."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "PPL_VAE_C"))}
    chosen = {"PPL_VAE_COMPILATION_CACHE": str(tmp_path / "kept")}
    subprocess.run([sys.executable, "-c", KEEP], env={**inherited, **chosen}, check=True)
    assert any((tmp_path / "kept").iterdir())
