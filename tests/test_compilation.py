"""Where compiled programs are kept: the user's choice, JAX's, or the cache folder; or nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = "import ppl_vae.numpyro, jax; print(jax.config.jax_compilation_cache_dir)"
KEEP = """
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
import ppl_vae.numpyro
jax.jit(lambda x: jnp.sin(x) + 1)(1.0)
"""


def run(code: str, **environment: str) -> str:
    """What `code` prints in a process of its own, where JAX has been told nothing."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "PPL_VAE_C"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**inherited, **environment}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PPL_VAE_CACHE": "/a"}, "/a/jax"),
        ({"PPL_VAE_CACHE": "/a", "PPL_VAE_COMPILATION_CACHE": "/b"}, "/b"),
        ({"PPL_VAE_COMPILATION_CACHE": "off"}, "None"),
        ({"PPL_VAE_COMPILATION_CACHE": "/b", "JAX_COMPILATION_CACHE_DIR": "/c"}, "/c"),
    ],
    ids=["default", "chosen", "off", "JAX's own"],
)
def test_the_folder(environment: dict[str, str], expected: str) -> None:
    assert run(FOLDER, **environment) == expected


def test_what_was_compiled_is_there(tmp_path: Path) -> None:
    run(KEEP, PPL_VAE_COMPILATION_CACHE=str(tmp_path / "kept"))
    assert any((tmp_path / "kept").iterdir())
    run(KEEP, PPL_VAE_COMPILATION_CACHE="off", HOME=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
