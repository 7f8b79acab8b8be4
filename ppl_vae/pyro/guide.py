r"""A guide is an effect handler over its model: it answers each latent site with a posterior.

.. math:: q(z | x) = \prod_l q(z_l | z_{>l}, x)

The sites come in the model's own order, so the divergence of each site may be taken in closed form
(the mean-field condition of TraceMeanField_ELBO), and one pass gives the model's and the guide's
traces alike.
"""

from __future__ import annotations

__all__ = [
    "Guide", "Site", "check_normal", "data_shape", "hidden_sites", "latent_priors", "latent_sites",
]  # fmt: skip

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.runtime import get_plates
from pyro.poutine.util import site_is_subsample
from torch import nn
from torch.distributions import Normal

from ppl_vae.errors import UsageError
from ppl_vae.pyro.bind import bind
from ppl_vae.pyro.distributions import unwrapped
from ppl_vae.pyro.streams import kept_streams


@dataclass(frozen=True, slots=True)
class Site:
    """A latent site as a guide sees it.

    Attributes:
        name: "z1" (nearest the data) to "zL" (top).
        prior: the model's distribution given the latents above, unwrapped: `site.prior.loc` works.
        event_shape: of one draw.
        context: what the program lets a posterior look at (`infer={"context": h}`), or None.
    """

    name: str
    prior: Any
    event_shape: tuple[int, ...]
    context: Any


class Guide(GuideMessenger, nn.Module):
    """Base of every guide that composes with any model; write `posterior`, and `encode` if needed.

    `guide(x)` runs the model under the guide and returns its latent values. It is a stock Pyro
    guide too: SVI, Predictive, RenyiELBO and TraceMeanField_ELBO take the pair.

    Args:
        model: a program called as `model(x=None, *, n=None)`. Held by reference, outside the
            guide's own parameters; copying the guide does not copy it.
        name: under which stock SVI registers the guide's parameters.

    Attributes:
        sites: {name: event shape} of the model's latents, in the model's order (top first).
    """

    def __init__(self, model: Callable[..., Any], *, name: str = "guide") -> None:
        nn.Module.__init__(self)
        GuideMessenger.__init__(self, model)
        self.name = name
        self.sites = latent_sites(model)
        self._features: Any = None
        self._hides_observed = True

    def encode(self, x: torch.Tensor) -> Any:
        """What the data says, read once for all sites; handed to `posterior` as `features`."""
        return x

    @abstractmethod
    def posterior(self, site: Site, features: Any) -> Any:
        """Distribution of `site` given the data and the latents above it, batch shape (n, …)."""

    def __call__(self, x: Any = None, *args: Any, features: Any = None, **kwargs: Any) -> Any:
        """Latent values {site: (n, …)} drawn from the posterior of images `x`.

        `features`: what `encode(x)` gave, where it is known already, or a function of the guide
        that gives it.
        """
        # An observed site belongs to the model alone: a tracing handler around the guide must
        # not count it. Under an outer plate it has to be seen all the same, to be checked.
        self._hides_observed = not get_plates()
        with bind(self.name, self):
            known = features(self) if callable(features) else features
            self._features = self.encode(x) if known is None else known
            try:
                values = super().__call__(x, *args, **kwargs)
            finally:
                self._features = None
        return {name: value for name, value in values.items() if name in self.sites}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        if msg["is_observed"]:
            # What the guide itself adds to its objective (`pyro.factor`) is the guide's.
            msg["stop"] = self._hides_observed and not msg["infer"].get("is_auxiliary")
            return
        prior, infer = msg["fn"], msg["infer"]
        site = Site(msg["name"], unwrapped(prior), prior.event_shape, infer.get("context"))
        posterior = self.posterior(site, self._features)
        missing = prior.event_dim - posterior.event_dim
        if missing:
            posterior = posterior.to_event(missing)
        if posterior.batch_shape != prior.batch_shape:
            posterior = posterior.expand(prior.batch_shape)
        infer["prior"] = prior
        msg["fn"] = posterior

    def get_posterior(self, name: str, prior: Any) -> Any:
        """Pyro's hook for guides without context; `posterior` takes its place here."""
        return self.posterior(Site(name, unwrapped(prior), prior.event_shape, None), self._features)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("trace", None)
        state["_features"] = None
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        memo.setdefault(id(self.model), self.model)
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return twin


def check_normal(guide: Guide, site: Site) -> None:
    """UsageError where a site's prior is not Normal, and so has no loc and scale to begin from."""
    if not isinstance(site.prior, Normal):
        raise UsageError(
            f"{type(guide).__name__}: expected a Normal prior at site {site.name}, came "
            f"{type(site.prior).__name__}: take MeanFieldGuide, or write a posterior for it"
        )


def latent_sites(model: Callable[..., Any]) -> dict[str, tuple[int, ...]]:
    """{name: event shape} of the model's latent sites, in its own order: top first, z1 last."""
    return {name: tuple(prior.event_shape) for name, prior in latent_priors(model).items()}


def latent_priors(model: Callable[..., Any]) -> dict[str, Any]:
    """{name: distribution} of the model's latent sites in one draw, top first, z1 last."""
    return {
        name: site["fn"]
        for name, site in _generate_one(model).nodes.items()
        if site["type"] == "sample" and name != "x" and not site_is_subsample(site)
    }


def hidden_sites(model: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the latent sites that the model does not observe when it is given data."""
    x = _generate_one(model).nodes["x"]["value"].new_zeros(1, *data_shape(model))
    nodes = _quietly_traced(model, x).nodes
    return tuple(name for name in latent_sites(model) if not nodes[name]["is_observed"])


def data_shape(model: Callable[..., Any]) -> tuple[int, ...]:
    """Shape of one datum, the site "x" without its batch: (channels, height, width) of an image."""
    shape = getattr(model, "x_shape", None)
    return tuple(shape or _generate_one(model).nodes["x"]["value"].shape[1:])


def _generate_one(model: Callable[..., Any]) -> Any:
    return _quietly_traced(model, n=1)


def _quietly_traced(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    device = next((parameter.device for parameter in parameters), None)
    with quiet(model), torch.no_grad(), kept_streams(device):
        return poutine.trace(model).get_trace(*args, **kwargs)


@contextmanager
def quiet(*modules: Any) -> Iterator[None]:
    """The modules among the arguments in evaluation mode, put back as they were afterwards."""
    parts = [part for m in modules if isinstance(m, nn.Module) for part in m.modules()]
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
