"""What tests ask of NumPyro beside `ppl_vae.numpyro`; `pyro_side` has the same names."""

from __future__ import annotations

__all__ = [
    "build", "chain", "densities", "double", "eager", "gradients", "guide_of", "hasty",
    "independent", "is_guide", "loss", "precision", "predictive", "prior_guide", "program", "renyi",
    "set_training", "shapes", "stock_svi", "terms",
]  # fmt: skip

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import numpyro.infer
from flax import nnx
from numpyro import handlers

from ppl_vae.numpyro import Guide, Objective, state
from ppl_vae.numpyro.bind import write_back
from ppl_vae.numpyro.build import as_dtype
from ppl_vae.numpyro.guide import set_mode
from ppl_vae.numpyro.objective import traces
from ppl_vae.settings import ObjectiveSettings


def build(model_class: Any, guide_class: Any, x_shape: Any, arguments: Any, seed: int) -> Any:
    rngs = nnx.Rngs(seed)
    model = model_class(x_shape, **arguments, rngs=rngs)
    return model, guide_class(model, rngs=rngs)


def eager() -> Any:
    """Run without compilation: many small cases share the compiled operations."""
    return jax.disable_jit()


@contextmanager
def hasty() -> Iterator[None]:
    """Compile in haste, for what runs but once."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def precision(name: str) -> Any:
    """Context in which float32 or float64 can be had."""
    return jax.enable_x64(True) if name == "float64" else nullcontext()


def double(*modules: Any) -> None:
    for module in modules:
        as_dtype(module, jnp.float64)


def set_training(model: Any, guide: Any, training: bool) -> None:
    set_mode(model, training=training)
    set_mode(guide, training=training)


def terms(
    model: Any, guide: Any, x: Any, seed: int = 0, objective: Any = None, **kwargs: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(log likelihood by site, divergence by site), numpy (n,) each."""
    with handlers.seed(rng_seed=seed):
        found = (objective or Objective()).terms(model, guide, jnp.asarray(x), **kwargs)
    return _numpy(found.log_likelihood), _numpy(found.kl)


def densities(
    model: Any, guide: Any, x: Any, seed: int = 0, latents: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"log p(x)", "log q(z1)", "kl(z1)", …: (n,)}, latents), at the `latents` given or a draw."""
    values = {name: jnp.asarray(value) for name, value in (latents or {}).items()}
    with handlers.substitute(data=values):
        with handlers.seed(rng_seed=seed):
            model_trace, guide_trace = traces(model, guide, jnp.asarray(x))
        found, drawn = {}, {}
        for name, site in model_trace.items():
            if site["type"] != "sample":
                continue
            found[f"log p({name})"] = site["fn"].log_prob(site["value"])
            if not site["is_observed"]:
                drawn[name] = site["value"]
                found[f"log q({name})"] = guide_trace[name]["fn"].log_prob(site["value"])
        likelihood, kl = terms(model, guide, x, seed)
        sampled = terms(model, guide, x, seed, analytic=False)[1]
    extra = {f"log p({name} | z)": value for name, value in likelihood.items()}
    extra |= {f"kl({name})": value for name, value in kl.items()}
    extra |= {f"sampled kl({name})": value for name, value in sampled.items()}
    return {**_numpy(found), **extra}, _numpy(drawn)


def loss(model: Any, guide: Any, x: Any, seed: int = 0, **settings: Any) -> float:
    """The objective's loss on one batch."""
    objective = Objective(ObjectiveSettings(**settings))
    with handlers.seed(rng_seed=seed):
        return float(objective.loss_and_means(model, guide, jnp.asarray(x))[0])


def gradients(model: Any, guide: Any, x: Any, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """{torch name: gradient of the objective's loss} of every parameter."""
    objective = Objective(ObjectiveSettings(**settings))
    parts = {f"{name}$params": nnx.split(m, nnx.Param, ...)[1] for name, m in _named(model, guide)}

    def value(params: Any) -> Any:
        with handlers.seed(rng_seed=seed), handlers.substitute(data=params):
            return objective.loss_and_means(model, guide, jnp.asarray(x))[0]

    grads = jax.grad(value)({name: nnx.to_pure_dict(part) for name, part in parts.items()})
    held = [nnx.clone(module) for module in (model, guide)]  # to carry the gradients' names
    for (name, _), module in zip(_named(model, guide), held, strict=True):
        nnx.replace_by_pure_dict(parts[f"{name}$params"], grads[f"{name}$params"])
        nnx.update(module, parts[f"{name}$params"])
    return {k: v for k, v in state(*held).items() if "running_" not in k}


def stock_svi(model: Any, guide: Any, x: Any, elbo: str, steps: int = 2) -> dict[str, Any]:
    """Weights after steps of stock `numpyro.infer.SVI` under the stock ELBO of that name."""
    set_training(model, guide, True)
    x = jnp.asarray(x)
    optimizer = numpyro.optim.Adam(0.01)
    svi = numpyro.infer.SVI(model, guide, optimizer, getattr(numpyro.infer, elbo)())
    now = svi.init(jax.random.key(0), x)
    for _ in range(steps):
        now, value = svi.update(now, x)
        assert np.isfinite(value)
    write_back(dict(_named(model, guide)), {**svi.get_params(now), **(now.mutable_state or {})})
    return state(model, guide)


def predictive(
    model: Any, guide: Any, x: Any, num_samples: int, sites: list[str]
) -> dict[str, tuple[int, ...]]:
    """Shapes of what the stock Predictive draws."""
    draw = numpyro.infer.Predictive(
        model,
        guide=guide,
        params=_params(model, guide, x),
        num_samples=num_samples,
        return_sites=sites,
    )
    return shapes(jax.jit(draw)(jax.random.key(0), jnp.asarray(x)))


def renyi(model: Any, guide: Any, x: Any, num_particles: int) -> float:
    """The stock Rényi loss, α = 0."""
    loss = numpyro.infer.RenyiELBO(alpha=0.0, num_particles=num_particles)
    params = _params(model, guide, x)

    def value(key: Any) -> Any:
        return loss.loss(key, params, model, guide, jnp.asarray(x))

    return float(jax.jit(value)(jax.random.key(0)))


def _params(model: Any, guide: Any, x: Any) -> Any:
    """Site values as stock SVI would have them, but not trained."""
    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(0.0), numpyro.infer.Trace_ELBO())
    now = jax.jit(lambda key: svi.init(key, jnp.asarray(x)))(jax.random.key(0))
    return {**svi.get_params(now), **(now.mutable_state or {})}


def chain(names: tuple[str, ...]) -> Any:
    """A plain program of scalar sites, each the mean of the next, the last the mean of x."""

    def model(x: Any = None, *, n: int | None = None) -> Any:
        n = n if x is None else len(x)
        z = jnp.zeros(n)
        with numpyro.plate("data", n):
            for name in reversed(names):
                z = numpyro.sample(name, dist.Normal(z, 1.0))
            return numpyro.sample("x", dist.Normal(z[:, None, None, None], 1.0).to_event(3), obs=x)

    return model


def independent(names: tuple[str, ...]) -> Any:
    """A plain guide: Normal sites whose one location is learned."""

    def guide(x: Any) -> None:
        loc = numpyro.param("loc", jnp.asarray(0.5))
        with numpyro.plate("data", len(x)):
            for name in names:
                numpyro.sample(name, dist.Normal(jnp.broadcast_to(loc, len(x)), 1.0))

    return guide


def program(events: dict[str, tuple[int, ...]], x_shape: tuple[int, ...]) -> Any:
    """A plain program of standard normal sites, whose sum is every pixel's logit."""

    def model(x: Any = None, *, n: int | None = None) -> Any:
        n = n if x is None else len(x)
        logits = jnp.zeros(n)
        with numpyro.plate("data", n):
            for name, event in events.items():
                prior = dist.Normal(jnp.zeros((n, *event)), 1.0).to_event(len(event))
                logits = logits + numpyro.sample(name, prior).reshape(n, -1).sum(1)
            pixels = jnp.broadcast_to(logits.reshape(n, 1, 1, 1), (n, *x_shape))
            return numpyro.sample("x", dist.Bernoulli(logits=pixels).to_event(3), obs=x)

    return model


def guide_of(case: Any, model: Any) -> Any:
    """The case's guide for another model."""
    kind = getattr(importlib.import_module("guides.numpyro"), case.guide_class)
    return kind(model, rngs=nnx.Rngs(0))


def prior_guide(model: Any) -> tuple[Any, list[Any]]:
    """A user's guide that answers each site with its prior; and the sites that it was shown."""
    seen: list[Any] = []

    class PriorGuide(Guide):
        def posterior(self, site: Any, features: Any) -> Any:
            seen.append(site)
            return site.prior

    return PriorGuide(model), seen


def shapes(values: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in values.items()}


def is_guide(guide: Any) -> bool:
    """Whether it answers the model's sites, top down."""
    return isinstance(guide, Guide)


def _named(model: Any, guide: Any) -> list[tuple[str, Any]]:
    return [("model", model), ("guide", guide)]


def _numpy(values: Any) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in values.items()}
