"""What tests of mixtures, flows and regularisers ask of NumPyro; as `pyro_parts`."""

from __future__ import annotations

__all__ = ["likelihood", "mixture"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_vae.numpyro import DiscretizedLogisticMixture, Likelihood


def mixture(
    parts: list[Any], x: Any, draws: int = 0, expanded: tuple[int, ...] = (), **options: Any
) -> dict[str, Any]:
    """log_prob of `x`, its slopes by each part, the mean, and draws, numpy."""
    parts, x = [jnp.asarray(part) for part in parts], jnp.asarray(x)

    def log_prob(*parts: Any) -> Any:
        return DiscretizedLogisticMixture(*parts, **options).log_prob(x)

    slopes = jax.grad(lambda *a: log_prob(*a).sum(), argnums=tuple(range(len(parts))))(*parts)
    fn = jax.jit(lambda fn: fn)(DiscretizedLogisticMixture(*parts, **options))  # as a pytree
    found = {"log_prob": fn.log_prob(x), "mean": fn.mean}
    found |= {f"slope_{i}": slope for i, slope in enumerate(slopes)}
    if expanded:
        wide = fn.expand(expanded)
        found = {"mean": wide.mean, "log_prob": wide.log_prob(x)}
        return _numpy({**found, "draws": wide.sample(jax.random.key(0))})
    return _numpy({**found, "draws": fn.sample(jax.random.key(0), (draws,))})


def likelihood(h: Any, x: Any, name: str, **options: Any) -> Any:
    """(n,) log p(x | h)."""
    return np.asarray(Likelihood(name, **options)(jnp.asarray(h)).log_prob(jnp.asarray(x)))


def _numpy(values: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in values.items()}
