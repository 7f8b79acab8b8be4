"""What tests of mixtures, flows and regularisers ask of NumPyro; as `pyro_parts`."""

from __future__ import annotations

__all__ = [
    "balanced", "calls", "flow", "flows_on", "iterated", "likelihood", "log_normal", "loss_at",
    "made", "mixture", "penalty", "residual", "sharpness",
]  # fmt: skip

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from numpyro import handlers
from numpyro.distributions.kl import kl_divergence
from numpyro_whole import whole

from guides.numpyro.iaf import IAFGuide, InverseAutoregressive
from guides.numpyro.residual_normal import ResidualNormal
from ppl_vae.numpyro import DiscretizedLogisticMixture, Likelihood, Objective, Terms
from ppl_vae.numpyro.bind import with_params
from ppl_vae.numpyro.build import as_dtype
from ppl_vae.numpyro.distributions import tempered, unwrapped
from ppl_vae.numpyro.nets.made import MADE
from ppl_vae.numpyro.regularizers import Penalty, power_iterations, singular_values
from ppl_vae.numpyro.weights import _variables
from ppl_vae.settings import ObjectiveSettings


def mixture(
    parts: list[Any], x: Any, draws: int = 0, expanded: tuple[int, ...] = (), **options: Any
) -> dict[str, Any]:
    """log_prob of `x`, its slopes by each part, the mean, and draws, numpy."""
    parts, x = [jnp.asarray(part) for part in parts], jnp.asarray(x)

    @jax.jit
    def everything(*parts: Any) -> Any:
        def log_prob(*parts: Any) -> Any:
            return DiscretizedLogisticMixture(*parts, **options).log_prob(x)

        fn = DiscretizedLogisticMixture(*parts, **options)
        wide = fn.expand(expanded or fn.batch_shape)
        slopes = jax.grad(lambda *a: log_prob(*a).sum(), argnums=tuple(range(len(parts))))(*parts)
        found = {"log_prob": wide.log_prob(x), "mean": wide.mean}
        found |= {f"slope_{i}": slope for i, slope in enumerate(slopes)}
        shape = () if expanded else (draws,)
        return {**found, "draws": wide.sample(jax.random.key(0), shape)}, fn  # fn as a pytree

    found, fn = everything(*parts)
    assert isinstance(fn, DiscretizedLogisticMixture)
    return _numpy(found)


def likelihood(h: Any, x: Any, name: str, **options: Any) -> Any:
    """(n,) log p(x | h)."""
    return whole(lambda h, x: Likelihood(name, **options)(h).log_prob(x))(h, x)


@whole
def residual(
    prior: tuple[Any, Any], shift: Any, factor: Any, other: Any = None, draws: int = 0
) -> dict[str, Any]:
    """Divergence from the prior or another Normal, its slopes, and draws of log q - log p."""
    leaves = [jnp.asarray(part) for part in (*prior, shift, factor)]

    def pair(*leaves: Any) -> Any:
        p = dist.Normal(*leaves[:2])
        base = p if other is None else dist.Normal(*(jnp.asarray(part) for part in other))
        return ResidualNormal(p, *leaves[2:]), base

    def divergence(*leaves: Any) -> Any:
        q, base = pair(*leaves)
        return kl_divergence(q.to_event(1), base.to_event(1))

    q, base = pair(*leaves)
    slopes = jax.grad(lambda *a: divergence(*a).sum(), argnums=(0, 1, 2, 3))(*leaves)
    z = jax.jit(lambda fn: fn)(q).sample(jax.random.key(0), (draws,))  # as a pytree
    ratio = (q.log_prob(z) - base.log_prob(z)).sum(-1)
    wide = kl_divergence(q.expand((2, *q.batch_shape)), base).sum(-1)
    cool: Any = unwrapped(tempered(q.to_event(1), 0.5))
    found = {"kl": divergence(*leaves), "ratio": ratio, "expanded": wide}
    found["cool"] = cool.scale / q.scale
    return {**found, **{f"slope_{i}": slope for i, slope in enumerate(slopes)}}


def log_normal() -> Any:
    """A plain model of a Normal map above a LogNormal one, which has a loc and a scale as well."""

    def model(x: Any = None, *, n: Any = None) -> Any:
        n = n if x is None else len(x)
        zero = jnp.zeros((n, 2, 1, 1))
        with numpyro.plate("data", n):
            for name, prior in (("z2", dist.Normal), ("z1", dist.LogNormal)):
                shown = {"context": zero}
                z = numpyro.sample(name, prior(zero, 1.0).to_event(3), infer=shown)
            logits = z.sum(1, keepdims=True)
            return numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    model.context_channels = {"z1": 2, "z2": 2}  # type: ignore[attr-defined]
    return model


def made(size: int, num_context: int, seed: int, reverse: bool) -> Any:
    """A masked net in float64, as a function of arrays."""
    net = MADE(size, num_context, (16, 16), reverse=reverse, rngs=nnx.Rngs(seed))
    as_dtype(net, jnp.float64)
    return whole(lambda z, h: net(z, h))


@contextmanager
def calls() -> Iterator[list[Any]]:
    """A list that grows with each pass of a masked net."""
    seen: list[Any] = []
    forward = MADE.__call__

    def counted(self: Any, z: Any, context: Any) -> Any:
        seen.append(z.shape)
        return forward(self, z, context)

    with mock.patch.object(MADE, "__call__", counted):
        yield seen


def flow(event_shape: tuple[int, ...], steps: int, seed: int) -> dict[str, Any]:
    """A draw of a flow over N(0, 1): its log density with and without what it has kept.

    And the input that is found for it, and log |det| by autodiff's Jacobian.
    """
    size, rngs = int(np.prod(event_shape)), nnx.Rngs(seed)
    nets = [MADE(size, 3, (16, 16), reverse=bool(t % 2), rngs=rngs) for t in range(steps)]
    for net in nets:
        as_dtype(net, jnp.float64)
    h = jax.random.normal(jax.random.key(seed), (4, 3), jnp.float64)

    def transforms(rows: slice = slice(None)) -> list[Any]:
        return [
            InverseAutoregressive(net, h[rows], event_shape, bool(t % 2))
            for t, net in enumerate(nets)
        ]

    def through(flat: Any, i: int) -> Any:
        value = flat.reshape(1, *event_shape)
        for step in transforms(slice(i, i + 1)):
            value = step(value)
        return value.reshape(-1)

    @whole
    def everything() -> Any:
        base = dist.Normal(jnp.zeros((4, *event_shape)), 1.0).to_event(len(event_shape))
        fn = dist.TransformedDistribution(base, transforms())
        with calls() as seen:
            y, known = fn.sample_with_intermediates(jax.random.key(1))
            kept = fn.log_prob(y, known)
        x = y
        for step in reversed(transforms()):
            x = step.inv(x)
        again = x
        for step in transforms():
            again = step(again)
        jacobians = [jax.jacobian(through)(x[i].reshape(-1), i) for i in range(4)]
        found = {"kept": kept, "anew": fn.log_prob(y), "draw": y, "again": again}
        found["log_det"] = jnp.linalg.slogdet(jnp.stack(jacobians))[1]
        return {**found, "base": base.log_prob(x), "passes": len(seen)}

    found: dict[str, Any] = everything()
    return found


def flows_on(model: Any, **arguments: Any) -> Any:
    """The guide of flows."""
    return IAFGuide(model, **arguments, rngs=nnx.Rngs(0))


def sharpness(model: Any, guide: Any) -> dict[str, float]:
    """{convolution: largest singular value}."""
    return singular_values(model, guide, "conv")


@whole
def loss_at(model: Any, guide: Any, x: Any, weight: float, **settings: Any) -> Any:
    """The objective's loss under a weight of the divergences, of 1 in full."""
    objective = Objective(ObjectiveSettings(**settings))
    with handlers.seed(rng_seed=0):
        return objective.loss_and_means(model, guide, x, kl_weight=jnp.array(weight))[0]


@whole
def iterated(w: Any, u: Any, v: Any, iterations: int) -> tuple[Any, Any]:
    """Vectors after power iterations."""
    u, v = power_iterations(w, u, v, iterations)
    return u, v


def penalty(
    model: Any, guide: Any, kl_weight: float, times: int = 1, **settings: Any
) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """(what is added to the loss at the last of some steps, its gradients, the vectors)."""
    asked = Penalty(model, guide, ObjectiveSettings(**settings), full_weight=2.0, seed=0)
    params = [nnx.to_pure_dict(nnx.state(part, nnx.Param)) for part in (model, guide)]

    def added(params: Any, vectors: Any) -> Any:
        twins = [with_params(m, p) for m, p in zip((model, guide), params, strict=True)]
        return asked(*twins, vectors, kl_weight)

    step = jax.jit(jax.value_and_grad(added, has_aux=True))
    vectors = asked.vectors
    for _ in range(times):
        (value, vectors), grads = step(params, vectors)
    slopes = [with_params(m, g) for m, g in zip((model, guide), grads, strict=True)]
    found = {
        name: np.asarray(variable[...].transpose(order))
        for name, (variable, order) in _variables(*slopes).items()
        if isinstance(variable, nnx.Param) and jnp.any(variable[...])
    }
    return float(value), found, _numpy(vectors)


def balanced(kl: dict[str, Any], areas: dict[str, int], weight: float) -> dict[str, float]:
    """Weights of the sites under a full weight of 2."""
    objective = Objective(ObjectiveSettings(balance=True), full_weight=2.0)
    parts = {name: jnp.asarray(value) for name, value in kl.items()}
    found = objective.balance(Terms({}, parts, areas), weight)
    assert found is not None
    return {name: float(value) for name, value in found.items()}


def _numpy(values: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in values.items()}
