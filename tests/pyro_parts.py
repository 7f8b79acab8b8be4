"""What tests of mixtures, flows and regularisers ask of Pyro; as `numpyro_parts`."""

from __future__ import annotations

__all__ = ["likelihood", "mixture"]

from typing import Any

import torch

from ppl_vae.pyro import DiscretizedLogisticMixture, Likelihood


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


def _numpy(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.detach().numpy() for name, value in values.items()}
