r"""Densities of a pair at latents laid out as one vector a row, for moves that need gradients.

A row's vector u holds every latent site. How a site's value comes from it is said by `by`:

- "prior": the prior's own noise, :math:`z_l = \mu_p(z_{>l}) + \sigma_p(z_{>l})\, u_l`;
- "guide": the guide's own noise, :math:`z_l = \mu_q(\cdot, x) + \sigma_q(\cdot, x)\, u_l`;
- "site": the value itself.

That is for Normal sites, in a hierarchy each given the latents that it depends on; a site with any
other distribution is itself where it is real, else the unconstrained number behind it (log of a
positive one). Densities are those of u: the Jacobian is in each of them, and in no ratio.
"""

from __future__ import annotations

__all__ = ["Densities", "Density", "check_moves", "is_discrete", "repeated"]

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.primitives import Messenger

from ppl_vae.errors import UsageError
from ppl_vae.numpyro.bind import bind
from ppl_vae.numpyro.codes import Codes, CodeView, NearestCode
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.guide import Guide, latent_priors
from ppl_vae.numpyro.objective import per_datum, traces


class Density(NamedTuple):
    """Log densities of each row, (rows,) nats each; `log_guide` only where `by` is "guide"."""

    log_prior: Array
    log_likelihood: Array
    log_guide: Array | None

    @property
    def log_joint(self) -> Array:
        """log p(x, z)."""
        return self.log_prior + self.log_likelihood


class Densities:
    """A pair's densities at vectors u (rows, D).

    Args:
        model, guide: as `log_weights` takes them; the guide may be None if `by` is "prior".
        by: what u means, see the module's docstring.

    Attributes:
        layout: {site: (axis of the rows in its value, shape without it)}, known after a draw.
        normal: whether u is standard normal noise at every site, known after a draw.
    """

    def __init__(self, model: Any, guide: Any = None, by: str = "prior") -> None:
        self.model, self.guide, self.by = model, guide, by
        self.layout: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.normal = False

    def known(self, x: Array, repeats: int) -> tuple[Array, dict[str, Any]]:
        """(x repeated, keywords for the calls below): each image is encoded once."""
        many = repeated(x, repeats, len(x))
        if not isinstance(self.guide, Guide):
            return many, {}
        with bind(self.guide.name, self.guide) as bound:
            features = bound.encode(x)
        return many, {"features": jax.tree.map(lambda t: repeated(t, repeats, len(x)), features)}

    def draw(self, x: Array, start: str, **known: Any) -> Array:
        """(rows, D): a draw for each row of `x` from `start`, the prior or the guide."""
        if start == "prior":
            return self._vector(_trace(self.model, x), len(x))
        model_trace, guide_trace = traces(self.model, self.guide, x, **known)
        return self._vector(guide_trace if self.by == "guide" else model_trace, len(x))

    def at(self, values: dict[str, Array], x: Array, **known: Any) -> Array:
        """(rows, D): the vectors of latents {site: (rows, …)}."""
        with _Given(values):
            return self.draw(x, "guide" if self.by == "guide" else "prior", **known)

    def __call__(self, u: Array, x: Array, **known: Any) -> Density:
        n = len(x)
        placed = _Placed(self._split(u), self.by)
        guide_trace = None
        if self.by != "guide":
            with placed:
                model_trace = _trace(self.model, x)
        elif isinstance(self.guide, Guide):
            with placed:
                model_trace, guide_trace = traces(self.model, self.guide, x, **known)
        else:
            with placed:
                guide_trace = _trace(self.guide, x)
            with _Given(placed.values):
                model_trace = _trace(self.model, x)
        prior, likelihood, jacobian = self._sums(model_trace, placed.log_det, n)
        if guide_trace is None:
            return Density(prior + jacobian, likelihood, None)
        q: Any = sum(_log_prob(site, n, guide_trace) for _, site in _latents(guide_trace))
        return Density(prior + jacobian, likelihood, q + jacobian)

    def _sums(self, trace: Any, log_det: dict[str, Array], n: int) -> tuple[Any, Any, Any]:
        prior: Any = 0.0
        likelihood: Any = 0.0
        jacobian: Any = 0.0
        for name, site in trace.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                likelihood = likelihood + _log_prob(site, n, trace)
            else:
                prior = prior + _log_prob(site, n, trace)
                plain = {**site, "scale": None}
                jacobian = jacobian + per_datum(log_det[name], plain, n, trace)
        return prior, likelihood, jacobian

    def _vector(self, trace: Any, n: int) -> Array:
        parts = []
        self.normal = self.by != "site"
        for name, site in _latents(trace):
            _check_site(name, site, n, trace)
            u = _coordinates(site["fn"], site["value"], self.by)
            kind = unwrapped(site["fn"])
            self.normal &= isinstance(kind, dist.Normal | dist.MultivariateNormal)
            dims = [f.dim for f in site["cond_indep_stack"] if f.size == n]
            axis = len(site["fn"].batch_shape) + dims[0] if dims else 0
            u = jnp.moveaxis(u, axis, 0)
            self.layout[name] = axis, tuple(u.shape[1:])
            parts.append(u.reshape(n, -1))
        return jnp.concatenate(parts, 1)

    def _split(self, u: Array) -> dict[str, Array]:
        sizes = [math.prod(shape) for _, shape in self.layout.values()]
        ends = list(itertools.accumulate(sizes))[:-1]
        parts = zip(self.layout.items(), jnp.split(u, ends, 1), strict=True)
        return {
            name: jnp.moveaxis(part.reshape(len(u), *shape), 0, axis)
            for (name, (axis, shape)), part in parts
        }


class _Placed(Messenger):
    """Handler: each latent's value comes from its part of u; `values` and `log_det` are kept."""

    def __init__(self, u: dict[str, Array], by: str) -> None:
        super().__init__()
        self.u, self.by = u, by
        self.values: dict[str, Array] = {}
        self.log_det: dict[str, Array] = {}

    def process_message(self, msg: Any) -> None:
        name = msg["name"]
        if msg["type"] != "sample" or msg["is_observed"] or name not in self.u:
            return
        fn = msg["fn"] if self.by == "guide" else msg["infer"].get("prior", msg["fn"])
        value, log_det = _place(fn, self.u[name], self.by)
        self.values[name], self.log_det[name] = value, log_det
        msg["value"] = value


class _Given(Messenger):
    """Handler: latents have the values given."""

    def __init__(self, values: dict[str, Array]) -> None:
        super().__init__()
        self.values = values

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and not msg["is_observed"] and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


def is_discrete(fn: Any) -> bool:
    """Whether draws of `fn` are discrete, as vectors of a codebook are too."""
    base = unwrapped(fn)
    coded = isinstance(base, Codes | NearestCode) or isinstance(
        getattr(base, "net", None), CodeView
    )
    return coded or bool(fn.support.is_discrete)


def check_moves(model: Any) -> None:
    """UsageError where gradients cannot move a latent site of the model: it is discrete."""
    for name, prior in latent_priors(model).items():
        if is_discrete(prior):
            raise _refused(name, prior)


def repeated(t: Any, repeats: int, n: int) -> Any:
    """An array of n rows `repeats` times over, all rows in turn; anything else as it is."""
    if not hasattr(t, "ndim") or t.ndim == 0 or t.shape[0] != n:
        return t
    return jnp.tile(t, (repeats, *(1 for _ in t.shape[1:])))


def _place(fn: Any, u: Array, by: str) -> tuple[Array, Array]:
    """(value, log |dz / du| of fn's batch shape)."""
    base = unwrapped(fn)
    if by != "site" and isinstance(base, dist.Normal):
        value = base.loc + base.scale * u
        return value, _sum_events(jnp.broadcast_to(jnp.log(base.scale), u.shape), fn)
    if by != "site" and isinstance(base, dist.MultivariateNormal):
        value = base.loc + jnp.squeeze(base.scale_tril @ u[..., None], -1)
        log_det = jnp.log(jnp.diagonal(base.scale_tril, axis1=-2, axis2=-1)).sum(-1)
        return value, _sum_events(jnp.broadcast_to(log_det, u.shape[:-1]), fn)
    transform = biject_to(fn.support)
    value = transform(u)
    return value, _sum_events(transform.log_abs_det_jacobian(u, value), fn)


def _coordinates(fn: Any, value: Array, by: str) -> Array:
    """What `_place` would take for `value`."""
    base = unwrapped(fn)
    if by != "site" and isinstance(base, dist.Normal):
        return (value - base.loc) / base.scale
    if by != "site" and isinstance(base, dist.MultivariateNormal):
        centred = (value - base.loc)[..., None]
        tril = jnp.broadcast_to(base.scale_tril, (*centred.shape[:-1], centred.shape[-2]))
        return jax.scipy.linalg.solve_triangular(tril, centred, lower=True)[..., 0]
    return biject_to(fn.support).inv(value)


def _sum_events(value: Array, fn: Any) -> Array:
    return value.sum(tuple(range(len(fn.batch_shape), value.ndim)))


def _check_site(name: str, site: Any, n: int, trace: Any) -> None:
    fn = site["fn"]
    if is_discrete(fn):
        raise _refused(name, fn)
    if site["infer"].get("is_auxiliary"):
        raise UsageError(
            f"site {name} is auxiliary: the model has no density for it: start from the prior, or "
            "give a guide of the model's own sites"
        )
    if not per_datum(fn.log_prob(site["value"]), site, n, trace).ndim:
        raise UsageError(
            f"site {name} is shared between images, so no image has a likelihood of its own: "
            "put it into the data plate, or condition the model on its value"
        )


def _refused(name: str, fn: Any) -> UsageError:
    return UsageError(
        f"site {name} is discrete ({type(unwrapped(fn)).__name__}), where Hamiltonian moves and "
        "gradients cannot go: sum it out of the model, or judge by the importance-weighted bound "
        "and calibration"
    )


def _log_prob(site: Any, n: int, trace: Any) -> Array:
    found: Array = per_datum(site["fn"].log_prob(site["value"]), site, n, trace)
    return found


def _latents(trace: Any) -> Iterator[tuple[str, Any]]:
    for name, site in trace.items():
        if site["type"] == "sample" and not site["is_observed"]:
            yield name, site


def _trace(program: Any, x: Array) -> Any:
    return handlers.trace(program).get_trace(x)
