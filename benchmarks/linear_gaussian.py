r"""A model whose likelihood is known, as plain programs in both PPLs, float64.

.. math:: z \sim N(0, I_Q), \quad x | z \sim N(W z, s^2 I_D), \quad x \sim N(0, W W^T + s^2 I)

The guide has the exact posterior's mean, and its deviations times `width`.
"""

from __future__ import annotations

__all__ = ["LinearGaussian"]

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from scipy import stats


class LinearGaussian:
    """Simulated points with their latents.

    Args:
        num_data, num_observed, num_latents: points, D and Q.
        noise: s.
        seed: of weights and points.

    Attributes:
        x: (num_data, 1, 1, D).
        latents: {"z1": (num_data, Q)} that each was simulated from.
        log_evidence: (num_data,), exact log p(x), nats.
    """

    def __init__(
        self,
        num_data: int = 100,
        num_observed: int = 20,
        num_latents: int = 5,
        noise: float = 1.0,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.noise = noise
        self.weight = rng.standard_normal((num_observed, num_latents)) / np.sqrt(num_latents)
        z = rng.standard_normal((num_data, num_latents))
        x = z @ self.weight.T + noise * rng.standard_normal((num_data, num_observed))
        self.x, self.latents = x[:, None, None], {"z1": z}
        covariance = self.weight @ self.weight.T + noise**2 * np.eye(num_observed)
        self.log_evidence = stats.multivariate_normal(cov=covariance).logpdf(x)
        precision = np.eye(num_latents) + self.weight.T @ self.weight / noise**2
        self.covariance = np.linalg.inv(precision)
        self.gain = self.covariance @ self.weight.T / noise**2

    def precision(self, ppl: str) -> AbstractContextManager[Any]:
        """Context in which float64 can be had."""
        if ppl == "pyro":
            return nullcontext()
        import jax

        return jax.enable_x64(True)

    def programs(self, ppl: str, width: float = 1.0, diagonal: bool = False) -> tuple[Any, Any]:
        """(model, guide).

        Args:
            ppl: "pyro" or "numpyro".
            width: factor on the exact posterior's deviations.
            diagonal: the guide has their marginals alone, as independent Normals.
        """
        tril = width * np.linalg.cholesky(self.covariance)
        scale = width * np.sqrt(np.diag(self.covariance))
        return (self._pyro if ppl == "pyro" else self._numpyro)(scale if diagonal else tril)

    def _pyro(self, spread: np.ndarray) -> tuple[Any, Any]:
        import pyro
        import pyro.distributions as dist
        import torch

        weight, gain, spread = (torch.as_tensor(a) for a in (self.weight, self.gain, spread))  # type: ignore[assignment]

        def model(x: Any = None, *, n: Any = None) -> Any:
            n = n if x is None else len(x)
            with pyro.plate("data", n):
                zero = weight.new_zeros(n, weight.shape[1])
                z = pyro.sample("z1", dist.Normal(zero, 1.0).to_event(1))
                mean = (z @ weight.T)[:, None, None]
                return pyro.sample("x", dist.Normal(mean, self.noise).to_event(3), obs=x)

        def guide(x: Any) -> None:
            mean: Any = x[:, 0, 0] @ gain.T
            with pyro.plate("data", len(x)):
                if spread.ndim == 1:
                    pyro.sample("z1", dist.Normal(mean, spread).to_event(1))
                else:
                    pyro.sample("z1", dist.MultivariateNormal(mean, scale_tril=spread))

        return model, guide

    def _numpyro(self, spread: np.ndarray) -> tuple[Any, Any]:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        def model(x: Any = None, *, n: Any = None) -> Any:
            n = n if x is None else len(x)
            with numpyro.plate("data", n):
                zero = jnp.zeros((n, self.weight.shape[1]))
                z = numpyro.sample("z1", dist.Normal(zero, 1.0).to_event(1))
                mean = (z @ self.weight.T)[:, None, None]
                return numpyro.sample("x", dist.Normal(mean, self.noise).to_event(3), obs=x)

        def guide(x: Any) -> None:
            mean = x[:, 0, 0] @ self.gain.T
            with numpyro.plate("data", len(x)):
                if spread.ndim == 1:
                    numpyro.sample("z1", dist.Normal(mean, spread).to_event(1))
                else:
                    tril = jnp.asarray(spread)
                    numpyro.sample("z1", dist.MultivariateNormal(mean, scale_tril=tril))

        return model, guide
