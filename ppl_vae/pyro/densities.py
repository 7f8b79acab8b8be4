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

__all__ = ["Densities", "Density", "check_moves", "given", "is_discrete", "repeated"]

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor
from torch.distributions import biject_to
from torch.utils import _pytree as pytree

from ppl_vae.errors import UsageError
from ppl_vae.pyro.codes import Codes, CodeView, NearestCode
from ppl_vae.pyro.distributions import unwrapped
from ppl_vae.pyro.guide import Guide, latent_priors
from ppl_vae.pyro.objective import per_datum, traces


class Density(NamedTuple):
    """Log densities of each row, (rows,) nats each; `log_guide` only where `by` is "guide"."""

    log_prior: Tensor
    log_likelihood: Tensor
    log_guide: Tensor | None

    @property
    def log_joint(self) -> Tensor:
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

    def known(self, x: Tensor, repeats: int) -> tuple[Tensor, dict[str, Any]]:
        """(x repeated, keywords for the calls below): each image is encoded once."""
        many = repeated(x, repeats, len(x))
        if not isinstance(self.guide, Guide):
            return many, {}
        features = self.guide.encode(x)
        return many, {"features": pytree.tree_map(lambda t: repeated(t, repeats, len(x)), features)}

    def draw(self, x: Tensor, start: str, **known: Any) -> Tensor:
        """(rows, D): a draw for each row of `x` from `start`, the prior or the guide."""
        if start == "prior":
            return self._vector(_trace(self.model, x), len(x))
        model_trace, guide_trace = traces(self.model, self.guide, x, **known)
        return self._vector(guide_trace if self.by == "guide" else model_trace, len(x))

    def at(self, values: dict[str, Tensor], x: Tensor, **known: Any) -> Tensor:
        """(rows, D): the vectors of latents {site: (rows, …)}."""
        with given(values):
            return self.draw(x, "guide" if self.by == "guide" else "prior", **known)

    def __call__(self, u: Tensor, x: Tensor, **known: Any) -> Density:
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
            with given(placed.values):
                model_trace = _trace(self.model, x)
        prior, likelihood, jacobian = self._sums(model_trace, placed.log_det, n)
        if guide_trace is None:
            return Density(prior + jacobian, likelihood, None)
        q: Any = sum(_log_prob(site, n) for _, site in _latents(guide_trace))
        return Density(prior + jacobian, likelihood, q + jacobian)

    def _sums(self, trace: Any, log_det: dict[str, Tensor], n: int) -> tuple[Any, Any, Any]:
        prior: Any = 0.0
        likelihood: Any = 0.0
        jacobian: Any = 0.0
        for name, site in trace.nodes.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                likelihood = likelihood + _log_prob(site, n)
            else:
                prior = prior + _log_prob(site, n)
                plain = {**site, "scale": 1.0, "mask": None}
                jacobian = jacobian + per_datum(log_det[name], plain, n)
        return prior, likelihood, jacobian

    def _vector(self, trace: Any, n: int) -> Tensor:
        parts = []
        self.normal = self.by != "site"
        for name, site in _latents(trace):
            _check_site(name, site, n)
            u = _coordinates(site["fn"], site["value"], self.by)
            kind = unwrapped(site["fn"])
            self.normal &= isinstance(kind, dist.Normal | dist.MultivariateNormal)
            dims = [f.dim for f in site["cond_indep_stack"] if f.size == n]
            axis = len(site["fn"].batch_shape) + dims[0] if dims else 0
            u = u.movedim(axis, 0)
            self.layout[name] = axis, tuple(u.shape[1:])
            parts.append(u.reshape(n, -1))
        return torch.cat(parts, 1)

    def _split(self, u: Tensor) -> dict[str, Tensor]:
        sizes = [torch.Size(shape).numel() for _, shape in self.layout.values()]
        parts = zip(self.layout.items(), u.split(sizes, 1), strict=True)
        return {
            name: part.reshape(len(u), *shape).movedim(0, axis)
            for (name, (axis, shape)), part in parts
        }


class _Placed(Messenger):
    """Handler: each latent's value comes from its part of u; `values` and `log_det` are kept."""

    def __init__(self, u: dict[str, Tensor], by: str) -> None:
        super().__init__()
        self.u, self.by = u, by
        self.values: dict[str, Tensor] = {}
        self.log_det: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["is_observed"] or name not in self.u:
            return
        fn = msg["fn"] if self.by == "guide" else msg["infer"].get("prior", msg["fn"])
        value, log_det = _place(fn, self.u[name], self.by)
        self.values[name], self.log_det[name] = value, log_det
        msg["value"], msg["done"] = value, True


class given(Messenger):
    """Handler: latents have the values given."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


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
    """A tensor of n rows `repeats` times over, all rows in turn; anything else as it is."""
    if not isinstance(t, Tensor) or t.dim() == 0 or t.shape[0] != n:
        return t
    return t.repeat(repeats, *(1 for _ in t.shape[1:]))


def _place(fn: Any, u: Tensor, by: str) -> tuple[Tensor, Tensor]:
    """(value, log |dz / du| of fn's batch shape)."""
    base = unwrapped(fn)
    if by != "site" and isinstance(base, dist.Normal):
        value = base.loc + base.scale * u
        return value, _sum_events(base.scale.log().expand(u.shape), fn)
    if by != "site" and isinstance(base, dist.MultivariateNormal):
        value = base.loc + (base.scale_tril @ u.unsqueeze(-1)).squeeze(-1)
        log_det = base.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return value, _sum_events(log_det.expand(u.shape[:-1]), fn)
    transform = biject_to(fn.support)
    value = transform(u)
    return value, _sum_events(transform.log_abs_det_jacobian(u, value), fn)


def _coordinates(fn: Any, value: Tensor, by: str) -> Tensor:
    """What `_place` would take for `value`."""
    base = unwrapped(fn)
    if by != "site" and isinstance(base, dist.Normal):
        return (value - base.loc) / base.scale
    if by != "site" and isinstance(base, dist.MultivariateNormal):
        centred = (value - base.loc).unsqueeze(-1)
        return torch.linalg.solve_triangular(base.scale_tril, centred, upper=False).squeeze(-1)
    return biject_to(fn.support).inv(value)


def _sum_events(value: Tensor, fn: Any) -> Tensor:
    missing = value.dim() - len(fn.batch_shape)
    return value.flatten(-missing).sum(-1) if missing else value


def _check_site(name: str, site: Any, n: int) -> None:
    fn = site["fn"]
    if is_discrete(fn):
        raise _refused(name, fn)
    if site["infer"].get("is_auxiliary"):
        raise UsageError(
            f"site {name} is auxiliary: the model has no density for it: start from the prior, or "
            "give a guide of the model's own sites"
        )
    if not per_datum(fn.log_prob(site["value"]), site, n).dim():
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


def _log_prob(site: Any, n: int) -> Tensor:
    found: Tensor = per_datum(site["fn"].log_prob(site["value"]), site, n)
    return found


def _latents(trace: Any) -> Iterator[tuple[str, Any]]:
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site):
            yield name, site


def _trace(program: Any, x: Tensor) -> Any:
    return prune_subsample_sites(poutine.trace(program).get_trace(x))
