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

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine.guide import GuideMessenger
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence
from torch.utils import _pytree as pytree

from ppl_vae.checks import check_cover
from ppl_vae.errors import UsageError
from ppl_vae.pyro.distributions import unwrapped
from ppl_vae.pyro.guide import Guide
from ppl_vae.settings import ObjectiveSettings


class Means(NamedTuple):
    """Terms of the bound as means over a batch, each of shape (), nats per image.

    `penalty` is what the guide adds to the loss beside them (see `Terms.penalties`).
    """

    log_likelihood: Tensor
    kl: dict[str, Tensor]
    penalty: Tensor | float = 0.0


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

    log_likelihood: dict[str, Tensor]
    kl: dict[str, Tensor]
    areas: dict[str, int] = MappingProxyType({})  # type: ignore[assignment]
    penalties: dict[str, Tensor] = MappingProxyType({})  # type: ignore[assignment]

    def log_weight(self, kl_weight: float | Tensor = 1.0) -> Tensor:
        """(n,): log p(x, z) - log q(z | x) where divergences are sampled; divergences weighted."""
        return sum(self.log_likelihood.values()) - kl_weight * sum(self.kl.values())  # type: ignore[return-value]

    def means(self, num_data: int | None = None) -> Means:
        """Means over the batch; a latent shared by all `num_data` data counts a share for each."""
        likelihood: Any = _total(part.mean() for part in self.log_likelihood.values())
        kl = {
            name: part.mean() if part.dim() else part / (num_data or 1)
            for name, part in self.kl.items()
        }
        penalty: Any = _total(part.mean() for part in self.penalties.values())
        return Means(likelihood, kl, penalty)


class Objective(TraceMeanField_ELBO):
    """TraceMeanField_ELBO that keeps its terms apart.

    `objective(model, guide)` is a torch module whose forward is the loss, a mean over the batch:
    nats per image, lower is better. Where the guide's sites do not come in the model's order the
    closed form would be wrong: log q - log p of the draw takes its place, and a warning says so.

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
        self.kl_weight: float | Tensor = self.settings.beta if full_weight is None else full_weight
        self.full_weight = self.kl_weight
        self.num_data = num_data
        self._warned = False

    def terms(
        self, model: Any, guide: Any, x: Tensor, *args: Any, analytic: bool | None = None, **kw: Any
    ) -> Terms:
        """Terms of each image of `x` (n, c, h, w) from one draw of the guide.

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
        log_likelihood: dict[str, Tensor] = {}
        kl: dict[str, Tensor] = {}
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                log_prob = site["fn"].log_prob(site["value"])
                log_likelihood[name] = per_datum(log_prob, site, n)
            else:
                posterior = guide_trace.nodes[name]["fn"]
                kl[name] = per_datum(_divergence(posterior, site, analytic), site, n)
        penalties: dict[str, Tensor] = {}
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and name not in model_trace.nodes:  # auxiliary
                found = penalties if site["is_observed"] else kl
                found[name] = per_datum(site["fn"].log_prob(site["value"]), site, n)
        areas: dict[str, int] = {}
        if self.settings.balance:
            areas = {name: _area(guide_trace.nodes[name]["fn"].event_shape) for name in kl}
        return Terms(log_likelihood, kl, areas, penalties)

    def means(self, terms: Terms) -> Means:
        """Means of the terms over the batch."""
        return terms.means(self.num_data)

    def batch_means(self, values: list[Tensor]) -> list[Tensor]:
        """Mean over the batch of each of the values by datum."""
        return [value.mean() for value in values]

    def loss_of(
        self, means: Means, kl_weight: float | Tensor, balance: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Loss of a batch: nats per image, lower is better; `balance` weights the sites."""
        parts = []
        for name, kl in means.kl.items():
            if self.settings.free_bits:
                kl = kl.clamp(min=self.settings.free_bits)
            parts.append(kl if balance is None else balance[name] * kl)
        loss: Any = kl_weight * _total(parts) - means.log_likelihood
        return loss if isinstance(means.penalty, float) else loss + means.penalty

    def balance(self, terms: Terms, kl_weight: float | Tensor) -> dict[str, Tensor] | None:
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
        means = self.batch_means([kl.detach().abs() for kl in terms.kl.values()])
        sizes = {
            name: (mean + 0.01) * (least / alphas[name])
            for name, mean in zip(terms.kl, means, strict=True)
        }
        total = torch.stack(list(sizes.values())).mean()
        warming: Any = kl_weight < self.full_weight
        if not isinstance(warming, Tensor):  # filled in on the device: a copy would wait for it
            warming = total.new_full((), warming, dtype=torch.bool)
        return {name: torch.where(warming, size / total, 1.0) for name, size in sizes.items()}

    def loss_and_means(
        self,
        model: Any,
        guide: Any,
        x: Tensor,
        *args: Any,
        kl_weight: float | Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Means]:
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
        many = x if k == 1 else x.repeat_interleave(k, 0)
        if k > 1 and isinstance(guide, Guide):  # each image is encoded once
            kwargs["features"] = lambda guide: pytree.tree_map(
                lambda t: _each(t, k, len(x)), guide.encode(x)
            )
        if not self.settings.importance_weighted:
            terms = self.terms(model, guide, many, *args, **kwargs)
            means = self.means(terms)
            return self.loss_of(means, weight, self.balance(terms, weight)), means
        terms = self.terms(model, guide, many, *args, analytic=False, **kwargs)
        shared = [name for name, part in terms.kl.items() if not part.dim()]
        if shared:
            raise UsageError(
                f"objective.num_samples: expected 1 with site {shared[0]}, which all images share "
                f"and which so has no weight for each image, came {k}: set it to 1"
            )
        log_weights = terms.log_weight(weight).unflatten(0, (-1, k))
        means = self.means(terms)
        (bound,) = self.batch_means([log_weights.logsumexp(1)])
        loss = math.log(k) - bound + means.penalty
        return loss, means

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of `loss_and_means`, as stock `pyro.infer` asks for it."""
        return self.loss_and_means(model, guide, *args, **kwargs)[0]

    def _same_order(self, model_trace: Any, guide_trace: Any, guide: Any) -> bool:
        if isinstance(guide, GuideMessenger):
            return True
        latents = [name for name in model_trace.nodes if name in guide_trace.nodes]
        order = [name for name in guide_trace.nodes if name in model_trace.nodes]
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
    if isinstance(guide, GuideMessenger):
        guide(*args, **kwargs)
        model_trace, guide_trace = guide.get_traces()
        guide.trace = poutine.Trace()  # the activations are the pair's now, not the guide's
        for name in [name for name, site in model_trace.nodes.items() if _is_penalty(site)]:
            guide_trace.nodes[name] = model_trace.nodes.pop(name)
        return model_trace, guide_trace
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    replayed = poutine.replay(model, trace=guide_trace)
    model_trace = poutine.trace(replayed).get_trace(*args, **kwargs)
    model_trace, guide_trace = (prune_subsample_sites(t) for t in (model_trace, guide_trace))
    check_cover(_latents(guide_trace), _latents(model_trace))
    return model_trace, guide_trace


def per_datum(value: Any, site: Any, n: int) -> Any:
    """Log probabilities of a site summed over all but the data's axis: (n,), or () if shared."""
    scale = site["scale"]
    if site["mask"] is not None or not (isinstance(scale, float) and scale == 1.0):
        for frame in site["cond_indep_stack"]:
            # Subsampling is the batch mean's affair, only other scales stay.
            scale = scale * frame.size / (frame.full_size or frame.size)
        value = scale_and_mask(value, scale=scale, mask=site["mask"])
    if value.shape == (n,):
        return value
    dims = [frame.dim for frame in site["cond_indep_stack"] if frame.size == n]
    if not dims:
        leading = value.dim() and value.shape[0] == n
        return value.reshape(n, -1).sum(-1) if leading else value.sum()
    return value.movedim(dims[0], 0).reshape(n, -1).sum(-1)


def _divergence(posterior: Any, site: Any, analytic: bool) -> Any:
    if analytic and not isinstance(unwrapped(posterior), dist.Delta):
        try:
            return kl_divergence(posterior, site["fn"])
        except NotImplementedError:
            pass
    return posterior.log_prob(site["value"]) - site["fn"].log_prob(site["value"])


def _each(t: Any, k: int, n: int) -> Any:
    """A tensor of n rows with each of them `k` times in a row; anything else as it is."""
    if not isinstance(t, Tensor) or not t.dim() or len(t) != n:
        return t
    return t.repeat_interleave(k, 0)


def _is_penalty(site: Any) -> bool:
    """Whether a site is a factor statement of the guide's."""
    return bool(
        site["type"] == "sample" and site["is_observed"] and site["infer"].get("is_auxiliary")
    )


def _total(parts: Iterable[Any]) -> Any:
    """Their sum, without an operation for the zero that Python begins with; 0.0 of none."""
    first, *others = list(parts) or [0.0]
    return sum(others, first)


def _area(event_shape: Any) -> int:
    return math.prod(event_shape[1:]) if len(event_shape) == 3 else 1


def _sample_sites(trace: Any, names: list[str]) -> list[str]:
    return [name for name in names if trace.nodes[name]["type"] == "sample"]


def _latents(trace: Any) -> dict[str, None]:
    """Latent sites of a trace, but for the auxiliary ones of automatic guides."""
    return {
        name: None
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site["infer"].get("is_auxiliary")
    }
