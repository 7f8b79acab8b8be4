r"""A model whose likelihood is known, in both PPLs: x = W z + b + noise, so x ~ N(b, W Wᵀ + s² I).

The posterior is N(M⁻¹ Wᵀ (x - b) / s², M⁻¹) with M = I + Wᵀ W / s².
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal

D, Q, NOISE = 6, 3, 0.7
RNG = np.random.default_rng(0)
W = RNG.standard_normal((D, Q)) / np.sqrt(Q)
B = RNG.standard_normal(D)
X = RNG.multivariate_normal(B, W @ W.T + NOISE**2 * np.eye(D), 25)
EXACT = multivariate_normal(B, W @ W.T + NOISE**2 * np.eye(D)).logpdf(X)
COVARIANCE = np.linalg.inv(np.eye(Q) + W.T @ W / NOISE**2)
MEAN = COVARIANCE @ W.T / NOISE**2
SCALE = np.linalg.cholesky(COVARIANCE)


def float64(ppl: str) -> AbstractContextManager[Any]:
    if ppl == "pyro":
        return nullcontext()
    import jax

    return jax.enable_x64(True)


def programs(ppl: str, width: float) -> tuple[Any, Any]:
    """(model, guide): the exact posterior with its deviations times `width`."""
    if ppl == "pyro":
        import pyro as library
        import pyro.distributions as dist
        import torch

        as_array: Any = torch.as_tensor
    else:
        import jax.numpy as jnp
        import numpyro as library  # type: ignore[no-redef]
        import numpyro.distributions as dist  # type: ignore[no-redef]

        as_array = jnp.asarray

    def model(x: Any = None, *, n: int | None = None) -> Any:
        n = n if x is None else len(x)
        with library.plate("data", n):
            z = library.sample("z1", dist.Normal(as_array(np.zeros((n, Q))), 1.0).to_event(1))
            mean = z @ as_array(W.T) + as_array(B)
            return library.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)

    def guide(x: Any = None, *, n: int | None = None) -> None:
        mean = (x - as_array(B)) @ as_array(MEAN.T)
        with library.plate("data", len(x)):
            q = dist.MultivariateNormal(mean, scale_tril=as_array(width * SCALE))
            library.sample("z1", q)

    return model, guide


def weights(ppl: str, width: float, num_samples: int, **kwargs: Any) -> np.ndarray:
    with float64(ppl):
        room = importlib.import_module(f"ppl_vae.{ppl}")
        return np.asarray(room.log_weights(*programs(ppl, width), X, num_samples, **kwargs))


def test_exact_posterior_gives_the_likelihood_with_one_sample(ppl: str) -> None:
    found = weights(ppl, 1.0, 1)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[0], EXACT, atol=1e-4)


def test_bound_of_a_too_wide_guide_rises_to_the_likelihood(ppl: str) -> None:
    """E[L_K] grows with K, from L_1 = log p(x) - KL(q, p(z | x)), towards log p(x)."""
    width, repeats = 1.5, 200
    w = weights(ppl, width, 64 * repeats)
    bounds, errors = [], []
    for k in (1, 4, 16, 64):
        blocks = w.reshape(-1, k, len(X))
        bound = np.logaddexp.reduce(blocks, axis=1) - np.log(k)
        bounds.append(bound.mean())
        errors.append(bound.mean(1).std(ddof=1) / np.sqrt(len(bound)))
    divergence = Q * (0.5 * (width**2 - 1) - np.log(width))
    assert abs(bounds[0] - (EXACT.mean() - divergence)) < 4 * errors[0]
    assert bounds == sorted(bounds)
    assert bounds[-1] < EXACT.mean() + 4 * errors[-1]
    assert EXACT.mean() - bounds[-1] < 0.02 * divergence + 4 * errors[-1]


def test_blocks_see_every_image_and_sample_once(ppl: str) -> None:
    """With the exact posterior each weight is the likelihood, whatever the blocks: odd ones too."""
    for block in (1, 7, 100):
        found = weights(ppl, 1.0, 5, block=block)
        assert found.shape == (5, len(X))
        np.testing.assert_allclose(found, np.tile(EXACT, (5, 1)), atol=1e-4)


def test_objective_is_the_likelihood_under_the_exact_posterior(ppl: str) -> None:
    """k = 1 with the sampled divergence, and k = 5: both are - log p(x) where q is exact."""
    from ppl_vae.settings import ObjectiveSettings

    room = importlib.import_module(f"ppl_vae.{ppl}")
    for settings in (ObjectiveSettings(analytic=False), ObjectiveSettings(num_samples=5)):
        with float64(ppl):
            objective, pair = room.Objective(settings), programs(ppl, 1.0)
            if ppl == "pyro":
                import torch

                loss = objective.loss_and_means(*pair, torch.as_tensor(X))[0]
            else:
                import jax
                from numpyro import handlers

                seeded = handlers.seed(objective.loss_and_means, rng_seed=0)
                loss = jax.jit(lambda x, run=seeded, pair=pair: run(*pair, x)[0])(X)
            assert float(loss) == pytest.approx(-EXACT.mean(), abs=1e-4)
