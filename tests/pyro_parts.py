"""What tests of mixtures, flows and regularisers ask of Pyro; as `numpyro_parts`."""

from __future__ import annotations

__all__ = [
    "balanced", "calls", "flow", "flows_on", "iterated", "likelihood", "log_normal", "loss_at",
    "made", "mixture", "penalty", "residual", "sharpness",
]  # fmt: skip

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch.distributions import kl_divergence

from guides.pyro.iaf import IAFGuide, InverseAutoregressive
from guides.pyro.residual_normal import ResidualNormal
from ppl_vae.pyro import DiscretizedLogisticMixture, Likelihood, Objective, Terms
from ppl_vae.pyro.distributions import tempered, unwrapped
from ppl_vae.pyro.nets.made import MADE
from ppl_vae.pyro.regularizers import Penalty, power_iterations, singular_values
from ppl_vae.settings import ObjectiveSettings


def mixture(
    parts: list[Any], x: Any, draws: int = 0, expanded: tuple[int, ...] = (), **options: Any
) -> dict[str, Any]:
    """log_prob of `x`, its slopes by each part, the mean, and draws, numpy."""
    parts = [torch.as_tensor(part).requires_grad_() for part in parts]
    fn = DiscretizedLogisticMixture(*parts, **options)
    log_prob = fn.log_prob(torch.as_tensor(x).to(parts[0].dtype))
    slopes = torch.autograd.grad(log_prob.sum(), parts)
    found = {"log_prob": log_prob, "mean": fn.mean}
    found |= {f"slope_{i}": slope for i, slope in enumerate(slopes)}
    if expanded:
        wide = fn.expand(expanded)
        found = {"mean": wide.mean, "log_prob": wide.log_prob(torch.as_tensor(x))}
        return _numpy({**found, "draws": wide.sample()})
    torch.manual_seed(0)
    return _numpy({**found, "draws": fn.sample((draws,))})


def likelihood(h: Any, x: Any, name: str, **options: Any) -> Any:
    """(n,) log p(x | h)."""
    return Likelihood(name, **options)(torch.as_tensor(h)).log_prob(torch.as_tensor(x)).numpy()


def residual(
    prior: tuple[Any, Any], shift: Any, factor: Any, other: Any = None, draws: int = 0
) -> dict[str, Any]:
    """Divergence from the prior or another Normal, its slopes, and draws of log q - log p."""
    leaves = [torch.as_tensor(part).requires_grad_() for part in (*prior, shift, factor)]
    p = dist.Normal(*leaves[:2])
    q = ResidualNormal(p, *leaves[2:])
    base = p if other is None else dist.Normal(*(torch.as_tensor(part) for part in other))
    kl = kl_divergence(q.to_event(1), base.to_event(1))
    wide = kl_divergence(q.expand((2, *q.batch_shape)), base)
    slopes = torch.autograd.grad(kl.sum(), leaves, allow_unused=True)
    torch.manual_seed(0)
    z = q.sample((draws,))
    ratio = (q.log_prob(z) - base.log_prob(z)).sum(-1)
    cool: Any = unwrapped(tempered(q.to_event(1), 0.5))
    found = {"kl": kl, "ratio": ratio, "expanded": wide.sum(-1), "cool": cool.scale / q.scale}
    return _numpy({**found, **{f"slope_{i}": g for i, g in enumerate(slopes) if g is not None}})


def log_normal() -> Any:
    """A plain model of a Normal map above a LogNormal one, which has a loc and a scale as well."""

    def model(x: Any = None, *, n: Any = None) -> Any:
        n = n if x is None else len(x)
        zero = torch.zeros(n, 2, 1, 1)
        with pyro.plate("data", n):
            for name, prior in (("z2", dist.Normal), ("z1", dist.LogNormal)):
                shown = {"context": zero}
                z = pyro.sample(name, prior(zero, 1.0).to_event(3), infer=shown)
            logits = z.sum(1, keepdims=True)
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    model.context_channels = {"z1": 2, "z2": 2}  # type: ignore[attr-defined]
    return model


def made(size: int, num_context: int, seed: int, reverse: bool) -> Any:
    """A masked net in float64 and its weights, as a function of arrays."""
    torch.manual_seed(seed)
    net = MADE(size, num_context, (16, 16), reverse=reverse).double()
    return lambda z, h: net(torch.as_tensor(z), torch.as_tensor(h)).detach().numpy()


@contextmanager
def calls() -> Iterator[list[Any]]:
    """A list that grows with each pass of a masked net."""
    seen: list[Any] = []
    forward = MADE.forward

    def counted(self: Any, z: Any, context: Any) -> Any:
        seen.append(z.shape)
        return forward(self, z, context)

    with mock.patch.object(MADE, "forward", counted):
        yield seen


def flow(event_shape: tuple[int, ...], steps: int, seed: int) -> dict[str, Any]:
    """A draw of a flow over N(0, 1): its log density with and without what it has kept.

    And the input that is found for it, and log |det| by autodiff's Jacobian.
    """
    torch.manual_seed(seed)
    size = int(np.prod(event_shape))
    nets = [MADE(size, 3, (16, 16), reverse=bool(t % 2)).double() for t in range(steps)]
    h = torch.randn(4, 3, dtype=torch.float64)

    def transforms(rows: slice = slice(None)) -> list[Any]:
        return [
            InverseAutoregressive(net, h[rows], event_shape, bool(t % 2))
            for t, net in enumerate(nets)
        ]

    zero = torch.zeros(4, *event_shape, dtype=torch.float64)
    base = dist.Normal(zero, 1.0).to_event(len(event_shape))
    fn = dist.TransformedDistribution(base, transforms())
    with calls() as seen:
        y = fn.rsample()
        kept = fn.log_prob(y)
    passes = len(seen)
    anew = dist.TransformedDistribution(base, transforms()).log_prob(y.detach().clone())
    x = y.detach().clone()
    for step in reversed(transforms()):
        x = step.inv(x)
    dets = []
    for i in range(4):

        def through(flat: Any, i: int = i) -> Any:
            value = flat.reshape(1, *event_shape)
            for step in transforms(slice(i, i + 1)):
                value = step(value)
            return value.reshape(-1)

        jacobian = torch.autograd.functional.jacobian(through, x[i].detach().reshape(-1))
        dets.append(torch.linalg.slogdet(jacobian.reshape(size, size))[1])
    again = x
    for step in transforms():
        again = step(again)
    found = {"kept": kept, "anew": anew, "draw": y, "again": again, "log_det": torch.stack(dets)}
    return _numpy({**found, "base": base.log_prob(x)}) | {"passes": passes}


def flows_on(model: Any, **arguments: Any) -> Any:
    """The guide of flows."""
    torch.manual_seed(0)
    return IAFGuide(model, **arguments)


def sharpness(model: Any, guide: Any) -> dict[str, float]:
    """{convolution: largest singular value}."""
    return singular_values(model, guide, "conv")


def loss_at(model: Any, guide: Any, x: Any, weight: float, **settings: Any) -> float:
    """The objective's loss under a weight of the divergences, of 1 in full."""
    objective = Objective(ObjectiveSettings(**settings))
    objective.kl_weight = weight
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return float(objective.loss_and_means(model, guide, torch.as_tensor(x))[0])


def iterated(w: Any, u: Any, v: Any, iterations: int) -> tuple[Any, Any]:
    """Vectors after power iterations."""
    u, v = power_iterations(*(torch.as_tensor(a) for a in (w, u, v)), iterations)
    return u.numpy(), v.numpy()


def penalty(
    model: Any, guide: Any, kl_weight: float, times: int = 1, **settings: Any
) -> tuple[float, dict[str, Any], dict[str, Any]]:
    """(what is added to the loss at the last of some steps, its gradients, the vectors)."""
    asked = Penalty(model, guide, ObjectiveSettings(**settings), full_weight=2.0, seed=0)
    for _ in range(times):
        value = asked(kl_weight)
    named = {
        f"{prefix}.{name}": p
        for prefix, module in (("model", model), ("guide", guide))
        for name, p in module.named_parameters()
    }
    grads = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    found = {name: g.numpy() for name, g in zip(named, grads, strict=True) if g is not None}
    return value.item(), found, _numpy(asked.vectors)


def balanced(kl: dict[str, Any], areas: dict[str, int], weight: float) -> dict[str, float]:
    """Weights of the sites under a full weight of 2."""
    objective = Objective(ObjectiveSettings(balance=True), full_weight=2.0)
    parts = {name: torch.as_tensor(value) for name, value in kl.items()}
    found = objective.balance(Terms({}, parts, areas), weight)
    assert found is not None
    return {name: value.item() for name, value in found.items()}


def _numpy(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.detach().numpy() for name, value in values.items()}
