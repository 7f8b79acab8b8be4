"""A hierarchy of Normal numbers in NumPyro; `benchmarks.chain_pyro` has the same (see there)."""

from __future__ import annotations

__all__ = ["Chain", "Conditional", "Copy"]

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array

from ppl_vae.checks import check_batch
from ppl_vae.numpyro import Guide, Site, bind


class Conditional(nnx.Module):
    """Location and log scale: V h + c + W2 σ(W1 h + b)."""

    def __init__(self, num_inputs: int, num_outputs: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.bias = nnx.Param(jnp.zeros(2 * num_outputs))
        self.inside = nnx.data(None)
        if num_inputs:
            self.inside = nnx.Linear(num_inputs, hidden, rngs=rngs)
            self.outside = nnx.Linear(hidden, 2 * num_outputs, use_bias=False, rngs=rngs)
            self.skip = nnx.Linear(num_inputs, 2 * num_outputs, use_bias=False, rngs=rngs)

    def __call__(self, h: Array) -> dist.Distribution:
        found = jnp.broadcast_to(self.bias[...], (len(h), len(self.bias)))
        if self.inside is not None:
            found = found + self.outside(jax.nn.sigmoid(self.inside(h))) + self.skip(h)
        loc, log_scale = jnp.split(found, 2, axis=-1)
        return dist.Normal(loc, jnp.exp(log_scale)).to_event(1)


class Chain(nnx.Module):
    """Layers of one Normal number each, the lowest two shown; see `benchmarks.chain_pyro`."""

    def __init__(self, layers: int, hidden: int = 64, *, rngs: nnx.Rngs) -> None:
        self.x_shape = (1, 1, 2)
        self.sizes = (2,) if layers == 1 else (1,) * layers
        self.nets = nnx.List(
            [Conditional(i, size, hidden, rngs=rngs) for i, size in enumerate(self.sizes)]
        )

    def __call__(self, x: Array | None = None, *, n: int | None = None) -> Array:
        n = check_batch(x, n, self.x_shape)
        with bind("model", self) as net, numpyro.plate("data", n):
            h = jnp.zeros((n, 0), net.nets[0].bias.dtype)
            for i, conditional in enumerate(net.nets):
                z = numpyro.sample(f"z{len(net.sizes) - i}", conditional(h))
                h = jnp.concatenate([h, z], axis=-1)
            shown = h[:, -2:].reshape(n, 1, 1, 2)
            return numpyro.sample("x", dist.Delta(shown, event_dim=3), obs=x)


class Copy(Guide):
    """The shown numbers as they are; Normal posteriors above; see `benchmarks.chain_pyro`."""

    def __init__(self, model: Chain, hidden: int = 64, *, rngs: nnx.Rngs) -> None:
        super().__init__(model)
        self.above = nnx.static(tuple(self.sites)[: max(0, len(model.sizes) - 2)])
        self.nets = nnx.List([nnx.Linear(4, hidden, rngs=rngs) for _ in self.above])
        self.more = nnx.List([nnx.Linear(hidden, hidden, rngs=rngs) for _ in self.above])
        self.heads = nnx.List([nnx.Linear(hidden, 2, rngs=rngs) for _ in self.above])

    def posterior(self, site: Site, features: Any) -> Any:
        numbers = features[:, 0, 0]
        if site.name not in self.above:
            own = numbers[:, -int(site.name[1:])][:, None] if len(self.sites) > 1 else numbers
            return dist.Delta(own, event_dim=1)
        i = self.above.index(site.name)
        h = jnp.concatenate([numbers, site.prior.loc, jnp.log(site.prior.scale)], axis=-1)
        h = jnp.tanh(self.more[i](jnp.tanh(self.nets[i](h))))
        loc, log_scale = jnp.split(self.heads[i](h), 2, axis=-1)
        return dist.Normal(loc, jnp.exp(log_scale))
