"""One checked pass through a pair before it is trained: what it has, and what cannot be trained."""

from __future__ import annotations

__all__ = ["FirstPass", "first_pass"]

from dataclasses import dataclass
from typing import Any

import pyro
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.errors import UsageError
from ppl_vae.pyro.checks import check_pair, check_sites, natural
from ppl_vae.pyro.data import check_support
from ppl_vae.pyro.guide import quiet
from ppl_vae.pyro.objective import traces
from ppl_vae.pyro.streams import kept_streams


@dataclass(frozen=True)
class FirstPass:
    """What a pass through a pair shows.

    Attributes:
        sites: latent ones, z1 first, and after them the guide's own.
        num_latent: numbers that an image's latents have.
        plain: {name: parameter}, unconstrained, that plain functions asked for.
        parameters: {name: parameter} of all that is learned, those of modules first.
    """

    sites: tuple[str, ...]
    num_latent: float
    plain: dict[str, Tensor]
    parameters: dict[str, Tensor]


def first_pass(model: Any, guide: Any, x: Tensor, num_data: int) -> FirstPass:
    """Look at sites and supports; lazy parameters come into being.

    Args:
        x: (b, c, h, w), the images of a step.
        num_data: images that there are to train with.

    Raises:
        UsageError: the guide does not fit the model, data lie outside of the likelihood's
            support, or nothing is there to learn.
    """
    with pyro.validation_enabled(True), quiet(model, guide), kept_streams(x.device):
        check_pair(model, guide)
        with poutine.trace(param_only=True) as asked:
            model_trace, guide_trace = traces(model, guide, x)
    sites, extra = _samples(model_trace.nodes), _samples(guide_trace.nodes)
    latents = [name for name, site in sites.items() if not site["is_observed"]]
    for name, site in sites.items():
        if site["is_observed"]:
            check_support(name, site["fn"], site["value"])
    check_sites(guide, dict(guide_trace.nodes), len(x), num_data)
    auxiliary = [
        name for name, site in extra.items() if not site["is_observed"] and name not in model_trace
    ]
    plain, parameters = _parameters(model, guide, asked.trace.nodes)
    return FirstPass(
        (*sorted(latents, key=natural), *auxiliary),
        sum(sites[name]["value"].numel() for name in latents) / len(x),
        plain,
        parameters,
    )


def _samples(nodes: Any) -> dict[str, Any]:
    return {name: site for name, site in nodes.items() if site["type"] == "sample"}


def _parameters(model: Any, guide: Any, nodes: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(those that no module has, all of them)."""
    own: dict[str, Tensor] = {
        f"{prefix}.{name}": parameter
        for prefix, module in (("model", model), ("guide", guide))
        if isinstance(module, nn.Module)
        for name, parameter in module.named_parameters()
    }
    known = {id(parameter) for parameter in own.values()}
    asked = {
        name: site["value"].unconstrained()
        for name, site in nodes.items()
        if site["type"] == "param"
    }
    plain = {name: parameter for name, parameter in asked.items() if id(parameter) not in known}
    parameters = {**own, **{f"params.{name}": parameter for name, parameter in plain.items()}}
    if not parameters:
        raise UsageError("fit: neither model nor guide has a parameter to train")
    return plain, parameters
