"""What tests ask of NumPyro beside `ppl_vae.numpyro`; `pyro_side` has the same names."""

from __future__ import annotations

__all__ = [
    "activation", "asked_target", "automatic", "batches", "blind", "build", "chain", "copying",
    "asked", "densities", "discretized_logistic",
    "double", "gradients", "guide_of", "independent", "is_guide",
    "is_training", "loss", "loss_of", "mutated", "posterior_of_one_step", "precision",
    "predictive", "prior_guide", "program", "renyi", "set_training", "shapes", "shared",
    "slope", "stock_svi", "terms",
]  # fmt: skip

import importlib
import math
from contextlib import nullcontext
from functools import lru_cache
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import numpyro.infer
import numpyro.infer.autoguide
from flax import nnx
from numpyro import handlers
from numpyro_whole import whole

from ppl_vae.numpyro import DiscretizedLogistic, Guide, Objective, state
from ppl_vae.numpyro.asking import batch_norms
from ppl_vae.numpyro.bind import SiteRecorder, StateRecorder, fresh, holders, write_back
from ppl_vae.numpyro.build import as_dtype
from ppl_vae.numpyro.data import DeviceImages
from ppl_vae.numpyro.guide import set_mode
from ppl_vae.numpyro.nets.mlp import ACTIVATIONS
from ppl_vae.numpyro.objective import Means, traces
from ppl_vae.settings import ObjectiveSettings


def build(model_class: Any, guide_class: Any, x_shape: Any, arguments: Any, seed: int) -> Any:
    rngs = nnx.Rngs(seed)
    model = model_class(x_shape, **arguments, rngs=rngs)
    return model, guide_class(model, rngs=rngs)


def activation(name: str, x: Any) -> Any:
    return np.asarray(ACTIVATIONS[name](jnp.asarray(x)))


def asked_target(model: Any, x: Any) -> Any:
    """What a model scores of images."""
    return np.asarray(model.target(jnp.asarray(x)))


def batches(images: Any, count: int) -> list[Any]:
    """All images as a likelihood would score them, several times over, numpy."""
    data = DeviceImages(images, None, jnp.float32)
    return [np.asarray(data.batch(slice(None), jax.random.key(i))) for i in range(count)]


def precision(name: str) -> Any:
    """Context in which float32 or float64 can be had."""
    return jax.enable_x64(True) if name == "float64" else nullcontext()


def double(*modules: Any) -> None:
    for module in modules:
        as_dtype(module, jnp.float64)


def set_training(model: Any, guide: Any, training: bool) -> None:
    set_mode(model, training=training)
    set_mode(guide, training=training)


def is_training(model: Any, guide: Any) -> bool:
    return not any(norm.use_running_average for norm in batch_norms(model, guide))


def terms(
    model: Any,
    guide: Any,
    x: Any,
    seed: int = 0,
    objective: Any = None,
    **kwargs: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(log likelihood by site, divergence by site), numpy (n,) each."""

    @jax.jit
    def run(x: Any) -> Any:
        with handlers.seed(rng_seed=seed):
            found = (objective or Objective()).terms(model, guide, x, **kwargs)
        return found.log_likelihood, found.kl

    likelihood, kl = run(jnp.asarray(x))
    return _numpy(likelihood), _numpy(kl)


def densities(
    model: Any, guide: Any, x: Any, seed: int = 0, latents: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"log p(x)", "log q(z1)", "kl(z1)", …: (n,)}, latents), at the `latents` given or a draw."""
    values = {name: jnp.asarray(value) for name, value in (latents or {}).items()}
    run = jax.jit(_densities(model, guide, seed, is_training(model, guide)))
    found, drawn = run(_weights(model, guide), jnp.asarray(x), values)
    return _numpy(found), _numpy(drawn)


def asked(model: Any, guide: Any, x: Any) -> tuple[set[str], dict[str, tuple[int, ...]]]:
    """(names of what `densities` finds, shapes of the latents); traced alone, not compiled."""
    run = _densities(model, guide, 0, is_training(model, guide))
    found, drawn = jax.eval_shape(run, _weights(model, guide), jnp.asarray(x), {})
    return set(found), shapes(drawn)


@lru_cache(maxsize=2)
def _densities(model: Any, guide: Any, seed: int, training: bool) -> Any:
    """What `densities` compiles. Other weights are the same program: they are arguments."""
    objective = Objective()

    def run(weights: Any, x: Any, values: Any) -> Any:
        held = handlers.substitute(data={**fresh(weights), **values})
        with held, handlers.seed(rng_seed=seed):
            model_trace, guide_trace = both = traces(model, guide, x)
        found, drawn = {}, {}
        for name, site in model_trace.items():
            if site["type"] != "sample":
                continue
            found[f"log p({name})"] = site["fn"].log_prob(site["value"])
            if not site["is_observed"]:
                drawn[name] = site["value"]
                found[f"log q({name})"] = guide_trace[name]["fn"].log_prob(site["value"])
        with mock.patch("ppl_vae.numpyro.objective.traces", return_value=both):  # one pass for all
            for title, analytic in {"kl": True, "sampled kl": False}.items():
                answer = objective.terms(model, guide, x, analytic=analytic)
                found |= {f"{title}({name})": value for name, value in answer.kl.items()}
        found |= {f"log p({name} | z)": value for name, value in answer.log_likelihood.items()}
        return found, drawn

    return run


def _weights(model: Any, guide: Any) -> Any:
    """Values of the sites that modules bind."""
    recorder = SiteRecorder()
    recorder.modules = {k: m for k, m in _named(model, guide) if isinstance(m, nnx.Module)}
    return recorder.module_values()


def mutated(model: Any, guide: Any, x: Any) -> dict[str, Any]:
    """Weights after one pass of the objective, in whatever mode the modules are."""
    recorder, objective = SiteRecorder(), Objective()

    @jax.jit
    def run(x: Any) -> Any:
        state_of = StateRecorder()
        with recorder, state_of, handlers.seed(rng_seed=0):
            objective.loss_and_means(model, guide, x)
        return state_of.values

    values = run(jnp.asarray(x))
    write_back(holders(recorder.modules), {**recorder.module_values(), **values})
    return state(model, guide)


def loss(model: Any, guide: Any, x: Any, seed: int = 0, **settings: Any) -> float:
    """The objective's loss on one batch."""
    objective = Objective(ObjectiveSettings(**settings))

    @jax.jit
    def run(x: Any) -> Any:
        with handlers.seed(rng_seed=seed):
            return objective.loss_and_means(model, guide, x)[0]

    return float(run(jnp.asarray(x)))


def loss_of(
    log_likelihood: float, kl: dict[str, float], weight: float, **settings: Any
) -> tuple[float, dict[str, float]]:
    """(loss, its slope by each divergence) of given means."""
    objective = Objective(ObjectiveSettings(**settings))

    def value(kl: Any) -> Any:
        return objective.loss_of(Means(jnp.asarray(log_likelihood), kl), weight)

    found, slopes = jax.value_and_grad(value)(kl)
    return float(found), {site: float(slope) for site, slope in slopes.items()}


@whole
def discretized_logistic(
    loc: Any, scale: Any, x: Any, num_levels: int = 256, draws: int = 0
) -> dict[str, Any]:
    """log_prob of `x` and its slopes, the mean, and draws, numpy."""

    def log_prob(loc: Any, scale: Any) -> Any:
        return DiscretizedLogistic(loc, scale, num_levels).log_prob(x)

    slopes = jax.grad(lambda *args: log_prob(*args).sum(), argnums=(0, 1))(loc, scale)
    fn = DiscretizedLogistic(loc, scale, num_levels)
    found = {"log_prob": log_prob(loc, scale), "mean": fn.mean}
    found |= {"slope_loc": slopes[0], "slope_scale": slopes[1]}
    return {**found, "draws": fn.sample(jax.random.key(0), (draws,))}


def gradients(model: Any, guide: Any, x: Any, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """{torch name: gradient of the objective's loss} of every parameter."""
    objective = Objective(ObjectiveSettings(**settings))
    parts = {f"{name}$params": nnx.split(m, nnx.Param, ...)[1] for name, m in _named(model, guide)}

    @jax.jit
    @jax.grad
    def slope(params: Any) -> Any:
        with handlers.seed(rng_seed=seed), handlers.substitute(data=params):
            return objective.loss_and_means(model, guide, jnp.asarray(x))[0]

    grads = slope({name: nnx.to_pure_dict(part) for name, part in parts.items()})
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
    now, update = jax.jit(svi.init)(jax.random.key(0), x), jax.jit(svi.update)
    for _ in range(steps):
        now, value = update(now, x)
        assert np.isfinite(value)
    values = {**svi.get_params(now), **(now.mutable_state or {})}
    write_back(holders(dict(_named(model, guide))), values)
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


def chain(names: tuple[str, ...], total: int | None = None) -> Any:
    """A plain program of scalar sites, each the mean of the next, the last the mean of x.

    `total`: what its plate says that there are data in all.
    """

    def model(x: Any = None, *, n: Any = None) -> Any:
        n = n if x is None else len(x)
        z = jnp.zeros(n)
        with numpyro.plate("data", total or n, subsample_size=n):
            for name in reversed(names):
                z = numpyro.sample(name, dist.Normal(z, 1.0))
            return numpyro.sample("x", dist.Normal(z[:, None, None, None], 1.0).to_event(3), obs=x)

    return model


def copying(weights: Any, biases: Any) -> tuple[Any, Any]:
    """An autoregressive model of binary pixels as a hierarchy: the image is its latents.

    z_{D-i} ~ Bernoulli(logits b_i + Σ_j<i W_ij z_{D-j}); the guide answers with the pixels.
    """
    weights, biases = jnp.asarray(weights), jnp.asarray(biases)

    def model(x: Any = None, *, n: Any = None) -> Any:
        n = n if x is None else len(x)
        pixels: list[Any] = []
        with numpyro.plate("data", n):
            for i in range(len(biases)):
                above = jnp.stack(pixels, -1) if pixels else jnp.zeros((n, 0))
                logits = above @ weights[i, :i] + biases[i]
                name = f"z{len(biases) - i}"
                pixels.append(numpyro.sample(name, dist.Bernoulli(logits=logits)))
            image = jnp.stack(pixels, -1).reshape(n, 1, 1, -1)
            return numpyro.sample("x", dist.Delta(image, event_dim=3), obs=x)

    class Copy(Guide):
        def posterior(self, site: Any, features: Any) -> Any:
            return dist.Delta(features[:, 0, 0, len(biases) - int(site.name[1:])])

    return model, Copy(model)


def independent(names: tuple[str, ...]) -> Any:
    """A plain guide: Normal sites whose one location is learned."""

    def guide(x: Any) -> None:
        loc = numpyro.param("loc", jnp.asarray(0.5))
        with numpyro.plate("data", len(x)):
            for name in names:
                numpyro.sample(name, dist.Normal(jnp.broadcast_to(loc, len(x)), 1.0))

    return guide


def shared() -> tuple[Any, Any]:
    """A plain pair whose one latent belongs to all images."""

    def model(x: Any) -> None:
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", dist.Normal(w * jnp.ones_like(x), 1.0).to_event(3), obs=x)

    def guide(x: Any) -> None:
        numpyro.sample("w", dist.Normal(numpyro.param("loc", 0.5), 1.0))

    return model, guide


def slope(breaks: str = "", above: float = math.inf, latent: bool = True) -> tuple[Any, Any]:
    """A plain pair: x ~ Laplace(theta, 1), theta learned; z1 ~ N(0, 1), with N(1/2, 1) for it.

    The site `breaks` is NaN once theta is above `above`.
    """

    def spoiled(site: str, theta: Any) -> Any:
        return jnp.where(theta > above, jnp.nan, 0.0) if site == breaks else 0.0

    def model(x: Any) -> None:
        theta = numpyro.param("theta", 0.0)
        with numpyro.plate("data", len(x)):
            if latent:
                numpyro.sample("z1", dist.Normal(jnp.zeros(len(x)) + spoiled("z1", theta), 1.0))
            loc = jnp.broadcast_to(theta + spoiled("x", theta), x.shape)
            numpyro.sample("x", dist.Laplace(loc, 1.0).to_event(3), obs=x)

    def guide(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            if latent:
                numpyro.sample("z1", dist.Normal(jnp.full(len(x), 0.5), 1.0))

    return model, guide


def blind(logit: float) -> tuple[Any, Any]:
    """A plain model whose pixels do not look at z1, and its prior for a guide."""

    def guide(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample("z1", dist.Normal(jnp.zeros(len(x)), 1.0))

    def model(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            numpyro.sample("z1", dist.Normal(jnp.zeros(len(x)), 1.0))
            logits = jnp.full_like(x, logit)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    return model, guide


def program(events: dict[str, tuple[int, ...]], x_shape: tuple[int, ...]) -> Any:
    """A plain program of standard normal sites, whose sum is every pixel's logit."""

    def model(x: Any = None, *, n: Any = None) -> Any:
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


def posterior_of_one_step(model: Any) -> Any:
    """A user's guide with the exact posterior of chain(("z1",)): N(x/2, 1/2)."""

    class Exact(Guide):
        def posterior(self, site: Any, features: Any) -> Any:
            return dist.Normal(features.reshape(-1) / 2, 0.5**0.5)

    return Exact(model)


def automatic(model: Any) -> Any:
    """The stock AutoNormal."""
    return numpyro.infer.autoguide.AutoNormal(model)


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
