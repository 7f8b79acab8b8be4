"""One checked pass through a pair before it is trained: what it has, and what cannot be trained."""

from __future__ import annotations

__all__ = ["FirstPass", "first_pass"]

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer.autoguide import AutoGuide

from ppl_vae.errors import UsageError
from ppl_vae.numpyro.bind import SiteRecorder
from ppl_vae.numpyro.checks import check_pair, check_sites, natural
from ppl_vae.numpyro.data import check_support
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.guide import quiet
from ppl_vae.numpyro.objective import traces


@dataclass(frozen=True)
class FirstPass:
    """What a pass through a pair shows.

    Attributes:
        sites: latent ones, z1 first, and after them the guide's own.
        num_latent: numbers that an image's latents have.
        modules: {name: module} of the pair, under the name of its parameter site.
        transforms: {site: bijection} from what is learned to what the programs ask for.
        params: {site: value} of what is learned, unconstrained.
        mutable: {site: value} of what a pass changes, batch norm's statistics among it.
    """

    sites: tuple[str, ...]
    num_latent: float
    modules: dict[str, Any]
    transforms: dict[str, Any]
    params: dict[str, Any]
    mutable: dict[str, Any]


def first_pass(model: Any, guide: Any, x: Array, rng_key: Any, num_data: int) -> FirstPass:
    """Look at sites and supports; parameters come into being.

    Args:
        x: (b, c, h, w), the images of a step.
        num_data: images that there are to train with.

    Raises:
        UsageError: the guide does not fit the model, data lie outside of the likelihood's
            support, or nothing is there to learn.
    """
    with quiet(model, guide):
        check_pair(model, guide)
        if isinstance(guide, AutoGuide):  # it looks at the model once, outside of any jit
            with handlers.seed(rng_seed=rng_key):
                guide(x)
        seen = _Seen()
        look = jax.jit(seen.look, static_argnums=(0, 1))
        values, inside = look(_Held(model), _Held(guide), x, rng_key)
    for name, site in seen.observed.items():
        check_support(name, type(unwrapped(site["fn"])).__name__, inside[name], x)
    check_sites(guide, seen.guide, len(x), num_data)
    recorder = seen.recorder
    transforms = {
        name: biject_to(site["kwargs"].get("constraint", constraints.real))
        for name, site in recorder.params.items()
    }
    values |= recorder.module_values()
    params = {name: t.inv(values[name]) for name, t in transforms.items()}
    if not params:
        raise UsageError("fit: neither model nor guide has a parameter to train")
    modules = {
        name: module
        for name, module in recorder.modules.items()
        if module is model or module is guide
    }
    return FirstPass(
        (*sorted(seen.latents, key=natural), *seen.auxiliary),
        sum(site["value"].size for site in seen.latents.values()) / len(x),
        modules,
        transforms,
        params,
        {name: values[name] for name in recorder.mutable},
    )


class _Held:
    """A program as a static argument of `jit`, equal to itself alone."""

    def __init__(self, program: Any) -> None:
        self.program = program


class _Seen:
    """What one traced pass of a pair shows."""

    def look(self, model: _Held, guide: _Held, x: Array, rng_key: Any) -> Any:
        """Values of parameters outside of modules, and whether data lie in the support."""
        self.recorder = SiteRecorder()
        with self.recorder, handlers.seed(rng_seed=rng_key):
            model_trace, self.guide = traces(model.program, guide.program, x)
        sites = {n: s for n, s in model_trace.items() if s["type"] == "sample"}
        self.observed = {name: site for name, site in sites.items() if site["is_observed"]}
        self.latents = {name: site for name, site in sites.items() if not site["is_observed"]}
        self.auxiliary = [
            name
            for name, site in self.guide.items()
            if site["type"] == "sample" and not site["is_observed"] and name not in sites
        ]
        inside = {n: jnp.all(s["fn"].support(s["value"])) for n, s in self.observed.items()}
        own = self.recorder.module_values()
        asked = {**self.recorder.params, **self.recorder.mutable}
        return {name: site["value"] for name, site in asked.items() if name not in own}, inside
