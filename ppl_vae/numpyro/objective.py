r"""The evidence lower bound by sites, and the functions of it that training maximises.

.. math:: ELBO = E_q[\log p(x | z)] - \sum_l E_q[KL_l]

One pass gives, for every datum, the log likelihood and each site's divergence; the loss is a
function of these terms, and the same terms are logged.
"""

from __future__ import annotations

__all__ = ["Means", "Objective", "Terms", "traces"]

import math
import warnings
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from numpyro import handlers
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.util import scale_and_mask
from numpyro.infer import TraceMeanField_ELBO

from ppl_vae.checks import check_cover
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.bind import StateRecorder
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.guide import Guide
from ppl_vae.settings import ObjectiveSettings


class Means(NamedTuple):
    """Terms of the bound as means over a batch, each of shape (), nats per image.

    `penalty` is what the guide adds to the loss beside them (see `Terms.penalties`).
    """

    log_likelihood: Array
    kl: dict[str, Array]
    penalty: Array | float = 0.0


class Terms(NamedTuple):
    """Per-datum terms of the bound, nats.

    Attributes:
        log_likelihood: {observed site: (n,)} of log p(x | z).
        kl: {latent site: (n,)}, closed form or log q - log p of the one draw. A latent shared
            by all data has shape () instead.
        areas: {latent site: height · width} of maps (channels, height, width), else 1; empty
            unless the objective balances sites by them.
        penalties: {name: (n,)} of the guide's factor statements, such as a codebook's loss: they
            count in the loss, and are no part of the bound nor of any weight.
    """

    log_likelihood: dict[str, Array]
    kl: dict[str, Array]
    areas: dict[str, int] = MappingProxyType({})  # type: ignore[assignment]
    penalties: dict[str, Array] = MappingProxyType({})  # type: ignore[assignment]

    def log_weight(self, kl_weight: float | Array = 1.0) -> Array:
        """(n,): log p(x, z) - log q(z | x) where divergences are sampled; divergences weighted."""
        return sum(self.log_likelihood.values()) - kl_weight * sum(self.kl.values())  # type: ignore[return-value]

    def means(self, num_data: int | None = None) -> Means:
        """Means over the batch; a latent shared by all `num_data` data counts a share for each."""
        likelihood: Any = _total(part.mean() for part in self.log_likelihood.values())
        kl = {
            name: part.mean() if part.ndim else part / (num_data or 1)
            for name, part in self.kl.items()
        }
        penalty: Any = _total(part.mean() for part in self.penalties.values())
        return Means(likelihood, kl, penalty)


class Objective(TraceMeanField_ELBO):
    """TraceMeanField_ELBO that keeps its terms apart.

    Losses are means over the batch: nats per image, lower is better. Where the guide's sites do
    not come in the model's order the closed form would be wrong: log q - log p of the draw takes
    its place, and a warning says so.

    Args:
        settings: weights, free bits, samples.
        full_weight: the divergence's weight β when warm-up is over; `kl_weight` starts there.
        num_data: size of the training set, over which a latent shared by all data is spread.
    """

    def __init__(
        self,
        settings: ObjectiveSettings | None = None,
        *,
        full_weight: float | None = None,
        num_data: int | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or ObjectiveSettings()
        self.kl_weight: float | Array = self.settings.beta if full_weight is None else full_weight
        self.full_weight = self.kl_weight
        self.num_data = num_data
        self._warned = False

    def terms(
        self, model: Any, guide: Any, x: Array, *args: Any, analytic: bool | None = None, **kw: Any
    ) -> Terms:
        """Terms of each image of `x` (n, c, h, w) from one draw of the guide.

        Runs under the caller's `seed` and `substitute` handlers.

        Args:
            analytic: closed-form divergences where there are any; None as the settings have it.
            args, kw: of model and guide, after the images.

        Returns:
            Terms, (n,) each, nats: a log likelihood is better if higher, a divergence is what its
            site costs.

        Raises:
            UsageError: see `traces`.
        """
        analytic = self.settings.analytic if analytic is None else analytic
        model_trace, guide_trace = traces(model, guide, x, *args, **kw)
        analytic = analytic and self._same_order(model_trace, guide_trace, guide)
        n = len(x)
        log_likelihood: dict[str, Array] = {}
        kl: dict[str, Array] = {}
        for name, site in model_trace.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                log_prob = site["fn"].log_prob(site["value"])
                log_likelihood[name] = per_datum(log_prob, site, n, model_trace)
            else:
                divergence = _divergence(guide_trace[name], site, analytic)
                kl[name] = per_datum(divergence, site, n, model_trace)
        penalties: dict[str, Array] = {}
        for name, site in guide_trace.items():
            if site["type"] == "sample" and name not in model_trace:  # auxiliary
                found = penalties if site["is_observed"] else kl
                found[name] = per_datum(_log_prob(site), site, n, guide_trace)
        areas: dict[str, int] = {}
        if self.settings.balance:
            areas = {name: _area(guide_trace[name]["fn"].event_shape) for name in kl}
        return Terms(log_likelihood, kl, areas, penalties)

    def loss_of(
        self, means: Means, kl_weight: float | Array, balance: dict[str, Array] | None = None
    ) -> Array:
        """Loss of a batch: nats per image, lower is better; `balance` weights the sites."""
        parts = []
        for name, kl in means.kl.items():
            if self.settings.free_bits:
                kl = jnp.maximum(kl, self.settings.free_bits)
            parts.append(kl if balance is None else balance[name] * kl)
        loss: Any = kl_weight * _total(parts) - means.log_likelihood
        return loss if isinstance(means.penalty, float) else loss + means.penalty

    def balance(self, terms: Terms, kl_weight: float | Array) -> dict[str, Array] | None:
        r"""Weights of the sites' divergences while they warm up, 1 on average; 1 afterwards.

        .. math:: c_l \propto (E_x |KL_l| + 0.01) / \alpha_l, \qquad
            \alpha_l = \frac{h_l w_l}{G_l} / \min_m \frac{h_m w_m}{G_m}

        where G_l sites have maps as large as site l's (Vahdat & Kautz 2020, appendix A).
        """
        if not (self.settings.balance and terms.kl):
            return None
        areas = list(terms.areas.values())
        alphas = {name: area / areas.count(area) for name, area in terms.areas.items()}
        least = min(alphas.values())
        sizes = {
            name: (jnp.abs(lax.stop_gradient(kl)).mean() + 0.01) * (least / alphas[name])
            for name, kl in terms.kl.items()
        }
        total = jnp.stack(list(sizes.values())).mean()
        warming = jnp.asarray(kl_weight) < self.full_weight
        return {name: jnp.where(warming, size / total, 1.0) for name, size in sizes.items()}

    def loss_and_means(
        self,
        model: Any,
        guide: Any,
        x: Array,
        *args: Any,
        kl_weight: float | Array | None = None,
        **kwargs: Any,
    ) -> tuple[Array, Means]:
        """The loss under `kl_weight`, and the means that it was made of.

        Args:
            x: (n, c, h, w); the settings say how many draws of each image.
            kl_weight: of the divergences; None takes the objective's own.
            args, kwargs: of model and guide, after the images.

        Returns:
            (loss (), nats per image, lower is better; Means of all draws).

        Raises:
            UsageError: several weighted draws, where images share a site; and see `traces`.
        """
        weight = self.kl_weight if kl_weight is None else kl_weight
        k = self.settings.num_samples
        many = x if k == 1 else jnp.repeat(x, k, axis=0)
        if k > 1 and isinstance(guide, Guide):  # each image is encoded once
            kwargs["features"] = lambda guide: jax.tree.map(
                lambda t: _each(t, k, len(x)), guide.encode(x)
            )
        if not self.settings.importance_weighted:
            terms = self.terms(model, guide, many, *args, **kwargs)
            means = terms.means(self.num_data)
            return self.loss_of(means, weight, self.balance(terms, weight)), means
        terms = self.terms(model, guide, many, *args, analytic=False, **kwargs)
        shared = [name for name, part in terms.kl.items() if not part.ndim]
        if shared:
            raise UsageError(
                f"objective.num_samples: expected 1 with site {shared[0]}, which all images share "
                f"and which so has no weight for each image, came {k}: set it to 1"
            )
        log_weights = terms.log_weight(weight).reshape(-1, k)
        means = terms.means(self.num_data)
        loss = math.log(k) - jax.nn.logsumexp(log_weights, axis=1).mean() + means.penalty
        return loss, means

    def loss_with_mutable_state(
        self, rng_key: Any, param_map: Any, model: Any, guide: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The loss as stock `numpyro.infer.SVI` asks for it."""
        state = StateRecorder()
        with state, handlers.substitute(data=param_map), handlers.seed(rng_seed=rng_key):
            loss, _ = self.loss_and_means(model, guide, *args, **kwargs)
        return {"loss": loss, "mutable_state": state.values or None}

    def _same_order(self, model_trace: Any, guide_trace: Any, guide: Any) -> bool:
        if isinstance(guide, Guide):
            return True
        latents = [name for name in model_trace if name in guide_trace]
        order = [name for name in guide_trace if name in model_trace]
        same = _sample_sites(model_trace, latents) == _sample_sites(guide_trace, order)
        if not same and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(guide).__name__} samples its sites in another order than the model, where "
                "closed-form divergences would be wrong: sampled log q - log p takes their place",
                stacklevel=2,
            )
        return same


def traces(model: Any, guide: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """(model trace, guide trace) of one draw: a single pass where the guide is a handler.

    What the guide adds by factor statements stands in its own trace alone.

    Args:
        args, kwargs: of both programs, images first.

    Raises:
        UsageError: a guide that is a program of its own, over other latent sites than the model's.
    """
    if isinstance(guide, Guide):
        answered = guide.answer(*args, **kwargs)
        sites = {name: site for name, site in answered.items() if site["type"] == "sample"}
        priors = {
            name: {**site, "fn": site["infer"].get("prior", site["fn"])}
            for name, site in sites.items()
        }
        own = {
            name: site
            for name, site in sites.items()
            if not site["is_observed"] or site["infer"].get("is_auxiliary")  # a factor statement
        }
        penalties = {name for name, site in own.items() if site["is_observed"]}
        model_trace = {**answered, **priors}
        return {n: site for n, site in model_trace.items() if n not in penalties}, own
    guide_trace = handlers.trace(guide).get_trace(*args, **kwargs)
    replayed = handlers.replay(model, trace=guide_trace)
    model_trace = handlers.trace(replayed).get_trace(*args, **kwargs)
    check_cover(_latents(guide_trace), _latents(model_trace))
    return model_trace, guide_trace


def per_datum(value: Any, site: Any, n: int, trace: Any) -> Any:
    """Log probabilities of a site summed over all but the data's axis: (n,), or () if shared."""
    scale = site["scale"]
    if scale is not None:
        for frame in site["cond_indep_stack"]:
            # Subsampling is the batch mean's affair, only other scales stay.
            plate = trace.get(frame.name)
            full_size = plate["args"][0] if plate is not None else frame.size
            scale = scale * frame.size / full_size
        value = scale_and_mask(value, scale)
    if value.shape == (n,):
        return value
    dims = [frame.dim for frame in site["cond_indep_stack"] if frame.size == n]
    if not dims:
        leading = value.ndim and value.shape[0] == n
        return value.reshape(n, -1).sum(-1) if leading else value.sum()
    return jnp.moveaxis(value, dims[0], 0).reshape(n, -1).sum(-1)


def _each(t: Any, k: int, n: int) -> Any:
    """An array of n rows with each of them `k` times in a row; anything else as it is."""
    if not hasattr(t, "ndim") or not t.ndim or len(t) != n:
        return t
    return jnp.repeat(t, k, axis=0)


def _divergence(guide_site: Any, site: Any, analytic: bool) -> Any:
    if analytic and not isinstance(unwrapped(guide_site["fn"]), dist.Delta):
        try:
            return kl_divergence(guide_site["fn"], site["fn"])
        except NotImplementedError:
            pass
    return _log_prob(guide_site) - site["fn"].log_prob(site["value"])


def _log_prob(site: Any) -> Array:
    """Log density of the drawn value; a flow's draw has kept what it came from."""
    kept = site.get("intermediates")
    return site["fn"].log_prob(site["value"], *([kept] if kept else []))


def _total(parts: Iterable[Any]) -> Any:
    """Their sum, without an operation for the zero that Python begins with; 0.0 of none."""
    first, *others = list(parts) or [0.0]
    return sum(others, first)


def _area(event_shape: Any) -> int:
    return math.prod(event_shape[1:]) if len(event_shape) == 3 else 1


def _sample_sites(trace: Any, names: list[str]) -> list[str]:
    return [name for name in names if trace[name]["type"] == "sample"]


def _latents(trace: Any) -> dict[str, None]:
    """Latent sites of a trace, but for the auxiliary ones of automatic guides."""
    return {
        name: None
        for name, site in trace.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site["infer"].get("is_auxiliary")
    }
