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

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flax import nnx
from numpyro import handlers
from numpyro.primitives import Messenger

from ppl_vae.errors import UsageError
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.nets.modes import Moded


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


class Guide(nnx.Module):
    """Base of every guide that composes with any model; write `posterior`, and `encode` if needed.

    `guide(x)` runs the model under the guide and returns its latent values. It is a stock NumPyro
    guide too: SVI, Predictive, RenyiELBO and TraceMeanField_ELBO take the pair.

    Args:
        model: a program called as `model(x=None, *, n=None)`. Held by reference, outside the
            guide's own parameters; copying the guide does not copy it.
        name: of the guide's parameters among the program's sites.

    Attributes:
        sites: {name: event shape} of the model's latents, in the model's order (top first).
    """

    def __init__(self, model: Callable[..., Any], *, name: str = "guide") -> None:
        # A function is a leaf without parameters to NNX, so the model stays outside the pytree.
        self._model = lambda: model
        self.name = name
        self.sites = nnx.static(latent_sites(model))

    @property
    def model(self) -> Callable[..., Any]:
        return self._model()

    def encode(self, x: Any) -> Any:
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
        sites = self.answer(x, *args, features=features, **kwargs)
        return {name: site["value"] for name, site in sites.items() if name in self.sites}

    def answer(self, x: Any = None, *args: Any, features: Any = None, **kwargs: Any) -> Any:
        """One pass: the model's sites and plates, a latent's `fn` its posterior, `prior` beside."""
        with bind(self.name, self) as guide:
            known = features(guide) if callable(features) else features
            known = guide.encode(x) if known is None else known
            answer = Answer(guide, known)
            with answer:
                self.model(x, *args, **kwargs)
        return answer.recorded


class Answer(Messenger):
    """The handler: puts a guide's posterior in the place of each latent site's prior."""

    def __init__(self, guide: Guide, features: Any) -> None:
        super().__init__()
        self.guide = guide
        self.features = features
        self.recorded: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample":
            return
        if msg["is_observed"]:
            # It belongs to the model alone: a tracing handler around the guide must not count it.
            # What the guide itself adds to its objective (`numpyro.factor`) is the guide's.
            msg["stop"] = not msg["infer"].get("is_auxiliary")
            return
        prior, infer = msg["fn"], msg["infer"]
        site = Site(msg["name"], unwrapped(prior), prior.event_shape, infer.get("context"))
        posterior = self.guide.posterior(site, self.features)
        missing = prior.event_dim - posterior.event_dim
        if missing:
            posterior = posterior.to_event(missing)
        if posterior.batch_shape != prior.batch_shape:
            posterior = posterior.expand(prior.batch_shape)
        msg["infer"] = {**infer, "prior": prior}
        msg["fn"] = posterior

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] in ("sample", "plate"):  # a plate says what its sites are scaled by
            self.recorded[msg["name"]] = msg.copy()


def check_normal(guide: Guide, site: Site) -> None:
    """UsageError where a site's prior is not Normal, and so has no loc and scale to begin from."""
    if not isinstance(site.prior, dist.Normal):
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
        for name, site in _generate_one(model).items()
        if site["type"] == "sample" and name != "x"
    }


def hidden_sites(model: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the latent sites that the model does not observe when it is given data."""
    nodes = _shaped(model, jnp.zeros((1, *data_shape(model))))
    return tuple(name for name in latent_sites(model) if not nodes[name]["is_observed"])


def data_shape(model: Callable[..., Any]) -> tuple[int, ...]:
    """Shape of one datum, the site "x" without its batch: (channels, height, width) of an image."""
    shape = getattr(model, "x_shape", None)
    return tuple(shape or _generate_one(model)["x"]["value"].shape[1:])


def _generate_one(model: Callable[..., Any]) -> Any:
    return _shaped(model, n=1)


def _shaped(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    found: dict[str, Any] = {}

    def generate(key: Any) -> int:
        found.update(handlers.trace(handlers.seed(model, key)).get_trace(*args, **kwargs))
        return 0

    with quiet(model):
        jax.eval_shape(generate, jax.random.key(0))  # shapes alone: nothing is computed
    return found


@contextmanager
def quiet(*modules: Any) -> Iterator[None]:
    """The modules among the arguments in evaluation mode, put back as they were afterwards."""
    modes = [(part, name, getattr(part, name)) for m in modules for part, name in _switches(m)]
    for part, name, _ in modes:
        setattr(part, name, True)
    try:
        yield
    finally:
        for part, name, mode in modes:
            setattr(part, name, mode)


def set_mode(module: Any, *, training: bool) -> None:
    """Training or evaluation mode of a module's batch norm and dropout."""
    for part, name in _switches(module):
        setattr(part, name, not training)


def _switches(module: Any) -> list[tuple[Any, str]]:
    if not isinstance(module, nnx.Module):
        return []
    return [
        (part, name)
        for _, part in nnx.iter_graph(module)
        if isinstance(part, nnx.BatchNorm | nnx.Dropout | Moded)
        for name in ("use_running_average", "deterministic")
        if hasattr(part, name)
    ]
