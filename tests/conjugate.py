"""Programs with answers in closed form, float64, as plain functions in each PPL.

`LINEAR`: x = W z + b + noise. `STAIRS`: z2 ~ N(0, 1), z1 ~ N(z2, 1), x ~ N(z1, 1). Their guides
hold the exact posterior, or one as much too wide as asked.
"""

from __future__ import annotations

__all__ = ["LINEAR", "STAIRS", "LinearGaussian", "Programs", "Stairs"]

from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Programs(NamedTuple):
    """A plain model and a plain guide."""

    model: Any
    guide: Any


class LinearGaussian:
    r"""p(z) = N(0, I), p(x | z) = N(W z + b, s²), images of 1 × 2 × 2.

    .. math:: p(x) = N(b, W W^T + s^2 I), \qquad
        p(z | x) = N(S W^T (x - b) / s^2, S), \quad S = (I + W^T W / s^2)^{-1}
    """

    def __init__(self, num_latents: int = 3, noise: float = 0.7, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.noise, self.num_latents = noise, num_latents
        self.weight, self.bias = rng.standard_normal((4, num_latents)), rng.standard_normal(4)
        z = rng.standard_normal((5, num_latents))
        x = z @ self.weight.T + self.bias + noise * rng.standard_normal((5, 4))
        self.x = x.reshape(5, 1, 2, 2)
        precision = np.eye(num_latents) + self.weight.T @ self.weight / noise**2
        self.covariance = np.linalg.inv(precision)
        self.gain = self.covariance @ self.weight.T / noise**2

    @property
    def log_evidence(self) -> Any:
        """(5,): log p(x)."""
        covariance = self.weight @ self.weight.T + self.noise**2 * np.eye(4)
        return stats.multivariate_normal(self.bias, covariance).logpdf(self.x.reshape(5, 4))

    def gap(self, widen: float) -> float:
        """KL from a guide of `widen` times the posterior's deviation to the posterior, nats."""
        return 0.5 * self.num_latents * (widen**2 - 1 - 2 * np.log(widen))

    def log_ratios(self, widen: float, shape: tuple[int, ...], seed: int = 0) -> Any:
        """Draws of log p(x, z) - log q(z) - log p(x): M log c - (c² - 1) |e|² / 2, e ~ N(0, I)."""
        squares = np.random.default_rng(seed).chisquare(self.num_latents, shape)
        return self.num_latents * np.log(widen) - (widen**2 - 1) * squares / 2

    def programs(self, ppl: str, widen: float = 1.0, factor: float = 0.0) -> Programs:
        """`factor`: what the guide adds to its objective for each image, nats."""
        return self._pyro(widen, factor) if ppl == "pyro" else self._numpyro(widen, factor)

    def _pyro(self, widen: float, factor: float) -> Programs:
        import pyro
        import pyro.distributions as dist
        import torch

        weight, bias, gain, covariance = (
            torch.as_tensor(a) for a in (self.weight, self.bias, self.gain, self.covariance)
        )
        tril = widen * torch.linalg.cholesky(covariance)

        def model(x: Any = None, *, n: Any = None) -> Any:
            n = n if x is None else len(x)
            zero = torch.zeros(n, self.num_latents, dtype=torch.float64)
            with pyro.plate("data", n):
                z = pyro.sample("z1", dist.Normal(zero, 1.0).to_event(1))
                mean = (z @ weight.T + bias).reshape(-1, 1, 2, 2)
                return pyro.sample("x", dist.Normal(mean, self.noise).to_event(3), obs=x)

        def guide(x: Any) -> None:
            with pyro.plate("data", len(x)):
                mean = (x.reshape(-1, 4) - bias) @ gain.T
                pyro.sample("z1", dist.MultivariateNormal(mean, scale_tril=tril))
                if factor:
                    pyro.factor("penalty", torch.full((len(x),), factor), has_rsample=True)

        return Programs(model, guide)

    def _numpyro(self, widen: float, factor: float) -> Programs:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        tril = widen * np.linalg.cholesky(self.covariance)

        def model(x: Any = None, *, n: Any = None) -> Any:
            n = n if x is None else len(x)
            with numpyro.plate("data", n):
                zero = jnp.zeros((n, self.num_latents))
                z = numpyro.sample("z1", dist.Normal(zero, 1.0).to_event(1))
                mean = (z @ self.weight.T + self.bias).reshape(-1, 1, 2, 2)
                return numpyro.sample("x", dist.Normal(mean, self.noise).to_event(3), obs=x)

        def guide(x: Any) -> None:
            with numpyro.plate("data", len(x)):
                mean = (x.reshape(-1, 4) - self.bias) @ self.gain.T
                numpyro.sample("z1", dist.MultivariateNormal(mean, scale_tril=jnp.asarray(tril)))
                if factor:
                    numpyro.factor("penalty", jnp.full(len(x), factor))

        return Programs(model, guide)


class Stairs:
    """p(x) = N(0, 3), and a posterior that can be walked either way.

    From the data up: z1 | x ~ N(2x/3, 2/3), z2 | z1 ~ N(z1/2, 1/2).
    From the top down: z2 | x ~ N(x/3, 2/3), z1 | z2, x ~ N((z2 + x)/2, 1/2).
    """

    x = np.array([-2.0, 0.3, 1.5]).reshape(3, 1, 1, 1)

    @property
    def log_evidence(self) -> Any:
        return stats.norm(0, np.sqrt(3)).logpdf(self.x.ravel())

    def programs(self, ppl: str, up: bool) -> Programs:
        """The guide's sites come from the data up, or from the top down."""
        return self._pyro(up) if ppl == "pyro" else self._numpyro(up)

    def _pyro(self, up: bool) -> Programs:
        import pyro
        import pyro.distributions as dist
        import torch

        def model(x: Any = None, *, n: Any = None) -> Any:
            n = n if x is None else len(x)
            with pyro.plate("data", n):
                zero = torch.zeros(n, dtype=torch.float64)
                z2 = pyro.sample("z2", dist.Normal(zero, 1.0))
                z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
                pixel = dist.Normal(z1[:, None, None, None], 1.0).to_event(3)
                return pyro.sample("x", pixel, obs=x)

        def guide(x: Any) -> None:
            x = x.reshape(-1)
            with pyro.plate("data", len(x)):
                if up:
                    z1 = pyro.sample("z1", dist.Normal(2 * x / 3, (2 / 3) ** 0.5))
                    pyro.sample("z2", dist.Normal(z1 / 2, 0.5**0.5))
                else:
                    z2 = pyro.sample("z2", dist.Normal(x / 3, (2 / 3) ** 0.5))
                    pyro.sample("z1", dist.Normal((z2 + x) / 2, 0.5**0.5))

        return Programs(model, guide)

    def _numpyro(self, up: bool) -> Programs:
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        def model(x: Any = None, *, n: Any = None) -> Any:
            n = n if x is None else len(x)
            with numpyro.plate("data", n):
                z2 = numpyro.sample("z2", dist.Normal(jnp.zeros(n), 1.0))
                z1 = numpyro.sample("z1", dist.Normal(z2, 1.0))
                pixel = dist.Normal(z1[:, None, None, None], 1.0).to_event(3)
                return numpyro.sample("x", pixel, obs=x)

        def guide(x: Any) -> None:
            x = x.reshape(-1)
            with numpyro.plate("data", len(x)):
                if up:
                    z1 = numpyro.sample("z1", dist.Normal(2 * x / 3, (2 / 3) ** 0.5))
                    numpyro.sample("z2", dist.Normal(z1 / 2, 0.5**0.5))
                else:
                    z2 = numpyro.sample("z2", dist.Normal(x / 3, (2 / 3) ** 0.5))
                    numpyro.sample("z1", dist.Normal((z2 + x) / 2, 0.5**0.5))

        return Programs(model, guide)


LINEAR, STAIRS = LinearGaussian(), Stairs()
