"""Draws: from the prior, at a temperature if wanted, from the posterior, and reconstructions."""

from __future__ import annotations

__all__ = ["posterior_sample", "reconstruct", "sample", "temperature"]

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.codebooks import check_label
from ppl_vae.errors import UsageError
from ppl_vae.pyro.asking import asked
from ppl_vae.pyro.distributions import tempered
from ppl_vae.pyro.guide import latent_sites
from ppl_vae.pyro.objective import traces
from ppl_vae.temperatures import Temperature, check_temperature


def sample(
    model: Any,
    num_samples: int,
    *,
    temperature: Temperature = 1.0,
    batch_norm: str = "running",
    params: dict[str, Any] | None = None,
    seed: int = 0,
    label: Any = None,
) -> dict[str, Tensor]:
    """Latents from the prior, and an image of each.

    Args:
        num_samples: n, at least 1.
        temperature: factor on the scale of every latent's prior; or one for each site, from z1
            up; or {site: factor}, the others staying as they are.
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.
        label: of all images, or one for each, where the model has priors for labels.

    Returns:
        {site: (n, …)}, "x" (n, c, h, w), and "x_mean" (n, c, h, w), the likelihood's mean: a draw
        where it has none in closed form (autoregressive pixels).

    Raises:
        UsageError: num_samples below 1, a factor that is not above 0, or a site or label that the
            model does not have.
        TypeError: a temperature for a prior that is not Normal.
    """
    if num_samples < 1:
        raise UsageError(f"num_samples: expected at least 1, came {num_samples}")
    generate = _cooled(model, temperature)
    if label is not None:
        check_label(label, getattr(model, "num_labels", 0), num_samples)
        generate = partial(generate, label=label)
    with asked(model, None, None, params, seed, batch_norm, lambda: generate(n=100)):
        return _values(poutine.trace(generate).get_trace(n=num_samples))


def posterior_sample(
    model: Any,
    guide: Any,
    x: Any,
    num_samples: int = 1,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> dict[str, Tensor]:
    """Draws from the guide, and the mean image of each.

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`; dynamic ones are binarised once, by `seed`.
        num_samples: S, at least 1.
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.

    Returns:
        {site: (S, n, …)}, and "x_mean" (S, n, c, h, w), the likelihood's mean: a draw where it has
        none in closed form (autoregressive pixels).

    Raises:
        UsageError: num_samples below 1.
    """
    if num_samples < 1:
        raise UsageError(f"num_samples: expected at least 1, came {num_samples}")
    with asked(model, guide, x, params, seed, batch_norm) as data:
        images = data.batch(slice(None))
        draws = [_values(traces(model, guide, images)[0]) for _ in range(num_samples)]
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0] if name != "x"}


def reconstruct(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> Tensor:
    """Mean of p(x | z) for one draw z ~ q(z | x) an image.

    Args:
        x, params, seed, batch_norm: see `posterior_sample`.

    Returns:
        (n, c, h, w), "x_mean" of `posterior_sample`.
    """
    return posterior_sample(model, guide, x, params=params, seed=seed, batch_norm=batch_norm)[
        "x_mean"
    ][0]


class temperature(Messenger):
    """Handler: the scale of each latent's prior times `factor`; the data's site "x" stays as it is.

    `temperature(0.7)(model)(n=16)` draws 16 images; `temperature({"z2": 0.7})` leaves the others.
    """

    def __init__(self, factor: float | Mapping[str, float]) -> None:
        super().__init__()
        self.factor = factor

    def of(self, site: str) -> float:
        """The factor of one site."""
        return self.factor.get(site, 1.0) if isinstance(self.factor, Mapping) else self.factor

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] == "x" or site_is_subsample(msg):
            return
        factor = self.of(msg["name"])
        if factor != 1.0:
            msg["fn"] = tempered(msg["fn"], factor)


def _cooled(model: Any, given: Temperature) -> Any:
    factor = check_temperature(given, lambda: latent_sites(model))
    return model if factor == 1.0 else temperature(factor)(model)


def _values(trace: Any) -> dict[str, Tensor]:
    found = {
        name: site["value"].cpu()
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }
    if "x" in found:
        found["x_mean"] = _mean(trace.nodes["x"]).cpu()
    return found


def _mean(site: Any) -> Tensor:
    """The likelihood's mean, or a draw where it has none in closed form (autoregressive pixels)."""
    try:
        return site["fn"].mean
    except NotImplementedError:
        return site["fn"].sample() if site["is_observed"] else site["value"]
