"""What tests ask of Pyro beside `ppl_vae.pyro`; `numpyro_side` has the same names."""

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
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.infer.autoguide
import torch

from ppl_vae.pyro import DiscretizedLogistic, Guide, Objective, state
from ppl_vae.pyro.data import DeviceImages
from ppl_vae.pyro.nets.mlp import ACTIVATIONS
from ppl_vae.pyro.objective import Means, traces
from ppl_vae.settings import ObjectiveSettings


def build(model_class: Any, guide_class: Any, x_shape: Any, arguments: Any, seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(x_shape, **arguments)
        guide = guide_class(model)
    return model, guide


def activation(name: str, x: Any) -> Any:
    return np.asarray(ACTIVATIONS[name](torch.as_tensor(x)))


def asked_target(model: Any, x: Any) -> Any:
    """What a model scores of images."""
    return model.target(torch.as_tensor(x)).numpy()


def batches(images: Any, count: int) -> list[Any]:
    """All images as a likelihood would score them, several times over, numpy."""
    data = DeviceImages(images, torch.device("cpu"), torch.float32)
    with seeded(0):
        return [data.batch(slice(None)).numpy() for _ in range(count)]


def precision(name: str) -> Any:
    """Context in which float32 or float64 can be had."""
    return nullcontext()


def double(*modules: Any) -> None:
    for module in modules:
        module.double()


def set_training(model: Any, guide: Any, training: bool) -> None:
    model.train(training)
    guide.train(training)


def is_training(model: Any, guide: Any) -> bool:
    return all(part.training for module in (model, guide) for part in module.modules())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def terms(
    model: Any,
    guide: Any,
    x: Any,
    seed: int = 0,
    objective: Any = None,
    **kwargs: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(log likelihood by site, divergence by site), numpy (n,) each."""
    with seeded(seed), torch.no_grad():
        found = (objective or Objective()).terms(model, guide, torch.as_tensor(x), **kwargs)
    return _numpy(found.log_likelihood), _numpy(found.kl)


def densities(
    model: Any, guide: Any, x: Any, seed: int = 0, latents: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """({"log p(x)", "log q(z1)", "kl(z1)", …: (n,)}, latents) of one draw."""
    assert latents is None, "draw in Pyro, substitute in NumPyro"
    with seeded(seed), torch.no_grad():
        model_trace, guide_trace = traces(model, guide, torch.as_tensor(x))
    found, drawn = {}, {}
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        found[f"log p({name})"] = site["fn"].log_prob(site["value"])
        if not site["is_observed"]:
            drawn[name] = site["value"]
            found[f"log q({name})"] = guide_trace.nodes[name]["fn"].log_prob(site["value"])
    likelihood, kl = terms(model, guide, x, seed)
    sampled = terms(model, guide, x, seed, analytic=False)[1]
    extra = {f"log p({name} | z)": value for name, value in likelihood.items()}
    extra |= {f"kl({name})": value for name, value in kl.items()}
    extra |= {f"sampled kl({name})": value for name, value in sampled.items()}
    return {**_numpy(found), **extra}, _numpy(drawn)


def asked(model: Any, guide: Any, x: Any) -> tuple[set[str], dict[str, tuple[int, ...]]]:
    """(names of what `densities` finds, shapes of the latents)."""
    found, drawn = densities(model, guide, x)
    return set(found), shapes(drawn)


def mutated(model: Any, guide: Any, x: Any) -> dict[str, Any]:
    """Weights after one pass of the objective, in whatever mode the modules are."""
    loss(model, guide, x)
    return state(model, guide)


def loss(model: Any, guide: Any, x: Any, seed: int = 0, **settings: Any) -> float:
    """The objective's loss on one batch."""
    objective = Objective(ObjectiveSettings(**settings))
    with seeded(seed), torch.no_grad():
        return float(objective.loss_and_means(model, guide, torch.as_tensor(x))[0])


def loss_of(
    log_likelihood: float, kl: dict[str, float], weight: float, **settings: Any
) -> tuple[float, dict[str, float]]:
    """(loss, its slope by each divergence) of given means."""
    leaves = {site: torch.tensor(value, requires_grad=True) for site, value in kl.items()}
    objective = Objective(ObjectiveSettings(**settings))
    value = objective.loss_of(Means(torch.tensor(log_likelihood), leaves), weight)
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return value.item(), {s: float(g or 0) for s, g in zip(leaves, grads, strict=True)}


def discretized_logistic(
    loc: Any, scale: Any, x: Any, num_levels: int = 256, draws: int = 0
) -> dict[str, Any]:
    """log_prob of `x` and its slopes, the mean, and draws, numpy."""
    loc, scale = (torch.as_tensor(a).requires_grad_() for a in (loc, scale))
    fn = DiscretizedLogistic(loc, scale, num_levels)
    log_prob = fn.log_prob(torch.as_tensor(x).to(loc.dtype))
    slopes = torch.autograd.grad(log_prob.sum(), (loc, scale))
    found = {"log_prob": log_prob, "mean": fn.mean}
    found |= {"slope_loc": slopes[0], "slope_scale": slopes[1]}
    with seeded(0):
        return _numpy({**found, "draws": fn.sample((draws,))})


def gradients(model: Any, guide: Any, x: Any, seed: int = 0, **settings: Any) -> dict[str, Any]:
    """{torch name: gradient of the objective's loss} of every parameter; zeros where None."""
    objective = Objective(ObjectiveSettings(**settings))
    named = {
        f"{prefix}.{name}": p
        for prefix, module in (("model", model), ("guide", guide))
        for name, p in module.named_parameters()
    }
    with seeded(seed):
        value = objective.loss_and_means(model, guide, torch.as_tensor(x))[0]
        grads = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {
        name: np.zeros(p.shape) if g is None else g.numpy()
        for (name, p), g in zip(named.items(), grads, strict=True)
    }


def stock_svi(model: Any, guide: Any, x: Any, elbo: str, steps: int = 2) -> dict[str, Any]:
    """Weights after steps of stock `pyro.infer.SVI` under the stock ELBO of that name."""
    set_training(model, guide, True)
    x = torch.as_tensor(x)
    with seeded(0), pyro.get_param_store().scope(), pyro.validation_enabled(True):
        svi = pyro.infer.SVI(
            model, guide, pyro.optim.Adam({"lr": 0.01}), getattr(pyro.infer, elbo)()
        )
        for _ in range(steps):
            assert np.isfinite(svi.step(x))
    return state(model, guide)


def predictive(
    model: Any, guide: Any, x: Any, num_samples: int, sites: list[str]
) -> dict[str, tuple[int, ...]]:
    """Shapes of what the stock Predictive draws."""
    with seeded(0):
        draw = pyro.infer.Predictive(
            model, guide=guide, num_samples=num_samples, return_sites=sites
        )
        return shapes(draw(torch.as_tensor(x)))


def renyi(model: Any, guide: Any, x: Any, num_particles: int) -> float:
    """The stock Rényi loss, α = 0."""
    loss = pyro.infer.RenyiELBO(alpha=0.0, num_particles=num_particles)
    with seeded(0), pyro.get_param_store().scope():
        return float(loss.loss(model, guide, torch.as_tensor(x)))


def chain(names: tuple[str, ...], total: int | None = None) -> Any:
    """A plain program of scalar sites, each the mean of the next, the last the mean of x.

    `total`: what its plate says that there are data in all.
    """

    def model(x: Any = None, *, n: Any = None) -> Any:
        n = n if x is None else len(x)
        z = torch.zeros(n)
        plate = pyro.plate("data", total or n, subsample=torch.arange(n) if total else None)
        with plate:
            for name in reversed(names):
                z = pyro.sample(name, dist.Normal(z, 1.0))
            return pyro.sample("x", dist.Normal(z[:, None, None, None], 1.0).to_event(3), obs=x)

    return model


def copying(weights: Any, biases: Any) -> tuple[Any, Any]:
    """An autoregressive model of binary pixels as a hierarchy: the image is its latents.

    z_{D-i} ~ Bernoulli(logits b_i + Σ_j<i W_ij z_{D-j}); the guide answers with the pixels.
    """
    weights, biases = torch.as_tensor(weights), torch.as_tensor(biases)

    def model(x: Any = None, *, n: Any = None) -> Any:
        n = n if x is None else len(x)
        pixels: list[Any] = []
        with pyro.plate("data", n):
            for i in range(len(biases)):
                above = torch.stack(pixels, -1) if pixels else torch.zeros(n, 0)
                logits = above @ weights[i, :i] + biases[i]
                pixels.append(pyro.sample(f"z{len(biases) - i}", dist.Bernoulli(logits=logits)))
            image = torch.stack(pixels, -1).reshape(n, 1, 1, -1)
            return pyro.sample("x", dist.Delta(image, event_dim=3), obs=x)

    class Copy(Guide):
        def posterior(self, site: Any, features: Any) -> Any:
            return dist.Delta(features[:, 0, 0, len(biases) - int(site.name[1:])])

    return model, Copy(model)


def independent(names: tuple[str, ...]) -> Any:
    """A plain guide: Normal sites whose one location is learned."""

    def guide(x: Any) -> None:
        loc = pyro.param("loc", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            for name in names:
                pyro.sample(name, dist.Normal(loc.expand(len(x)), 1.0))

    return guide


def shared() -> tuple[Any, Any]:
    """A plain pair whose one latent belongs to all images."""

    def model(x: Any) -> None:
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w * torch.ones_like(x), 1.0).to_event(3), obs=x)

    def guide(x: Any) -> None:
        pyro.sample("w", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))

    return model, guide


def slope(breaks: str = "", above: float = math.inf, latent: bool = True) -> tuple[Any, Any]:
    """A plain pair: x ~ Laplace(theta, 1), theta learned; z1 ~ N(0, 1), with N(1/2, 1) for it.

    The site `breaks` is NaN once theta is above `above`.
    """

    def spoiled(site: str, theta: Any) -> Any:
        return torch.where(theta > above, math.nan, 0.0) if site == breaks else 0.0

    def model(x: Any) -> None:
        theta = pyro.param("theta", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            if latent:
                pyro.sample("z1", dist.Normal(torch.zeros(len(x)) + spoiled("z1", theta), 1.0))
            loc = (theta + spoiled("x", theta)).expand(x.shape)
            pyro.sample("x", dist.Laplace(loc, 1.0).to_event(3), obs=x)

    def guide(x: Any) -> None:
        with pyro.plate("data", len(x)):
            if latent:
                pyro.sample("z1", dist.Normal(torch.full((len(x),), 0.5), 1.0))

    return model, guide


def blind(logit: float) -> tuple[Any, Any]:
    """A plain model whose pixels do not look at z1, and its prior for a guide."""

    def guide(x: Any) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(torch.zeros(len(x)), 1.0))

    def model(x: Any) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(torch.zeros(len(x)), 1.0))
            logits = torch.full_like(x, logit)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    return model, guide


def program(events: dict[str, tuple[int, ...]], x_shape: tuple[int, ...]) -> Any:
    """A plain program of standard normal sites, whose sum is every pixel's logit."""

    def model(x: Any = None, *, n: Any = None) -> Any:
        n = n if x is None else len(x)
        logits = torch.zeros(n)
        with pyro.plate("data", n):
            for name, event in events.items():
                prior = dist.Normal(torch.zeros(n, *event), 1.0).to_event(len(event))
                logits = logits + pyro.sample(name, prior).reshape(n, -1).sum(1)
            pixels = logits.reshape(n, 1, 1, 1).expand(n, *x_shape)
            return pyro.sample("x", dist.Bernoulli(logits=pixels).to_event(3), obs=x)

    return model


def guide_of(case: Any, model: Any) -> Any:
    """The case's guide for another model."""
    with seeded(0):
        return getattr(importlib.import_module("guides.pyro"), case.guide_class)(model)


def posterior_of_one_step(model: Any) -> Any:
    """A user's guide with the exact posterior of chain(("z1",)): N(x/2, 1/2)."""

    class Exact(Guide):
        def posterior(self, site: Any, features: Any) -> Any:
            return dist.Normal(features.reshape(-1) / 2, 0.5**0.5)

    return Exact(model)


def automatic(model: Any) -> Any:
    """The stock AutoNormal."""
    return pyro.infer.autoguide.AutoNormal(model)


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


def _numpy(values: Any) -> dict[str, Any]:
    return {name: value.detach().numpy() for name, value in values.items()}
