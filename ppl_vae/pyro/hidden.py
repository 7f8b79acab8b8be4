r"""Filling in by inference: any trained model, whose latents are drawn given the known pixels.

.. math:: p(z \mid k) \propto p(z) \prod_{i:\, m_i = 1} p(x_i \mid z)

Chains begin at the guide's answer to the image, what is missing filled in a few times by its own
reconstruction (Rezende, Mohamed & Wierstra 2014, appendix F), and go on by Hamiltonian moves on the
model under a masked likelihood (Pyro's own HMC, which adapts its step size while it warms up).

Their images give log p(k) too, by importance weighting from the even mixture of the guide's answers
to J of them (Veach & Guibas 1995, the balance heuristic):

.. math:: w = p(k, z) \Big/ \frac1J \sum_{j=1}^J q(z \mid x^{(j)}), \qquad E[w] = p(k)
"""

from __future__ import annotations

__all__ = ["infer_missing", "known_log_weights", "known_only"]

import math
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import HMC, MCMC
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor

from ppl_vae.checks import check_chain, check_shares
from ppl_vae.data.images import Images
from ppl_vae.errors import UsageError
from ppl_vae.pyro.asking import asked
from ppl_vae.pyro.data import DeviceImages
from ppl_vae.pyro.densities import check_moves, given, repeated
from ppl_vae.pyro.distributions import unwrapped
from ppl_vae.pyro.replay import at, densities
from ppl_vae.pyro.weighing import ROWS

ROUNDS = 10  # of filling in before the chain begins


class known_only(Messenger):
    """Handler: the data's site "x" scores its pixels where `known` (n, 1, h, w) is true, alone.

    `known_only(known)(model)(x)` is the program whose posterior is p(z | known pixels).
    """

    def __init__(self, known: Any) -> None:
        super().__init__()
        self.known = known

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] != "x" or not msg["is_observed"]:
            return
        base = unwrapped(msg["fn"])
        if len(base.batch_shape) != 4:
            raise UsageError(
                f"likelihood: expected one that scores each pixel by itself, came "
                f"{type(base).__name__}: take bernoulli, discretized_logistic or normal"
            )
        msg["fn"] = base.mask(self.known.expand(base.batch_shape)).to_event(3)


def infer_missing(
    model: Any,
    guide: Any,
    x: Any,
    count: int = 8,
    *,
    warmup: int = 100,
    thin: int = 10,
    trajectory: float = math.pi / 2,
    block: int = 32,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> np.ndarray:
    """Draws of what is missing: (count, n, c, h, w), known pixels to the bit as they came.

    Args:
        model, guide: a trained pair of any kind with continuous latents, which need know nothing
            of masks.
        x: images with their mask as last channel, 1 where known (`Images.with_masks`).
        count: completions an image: the likelihood's means at so many draws of the latents.
        warmup: moves before the first draw; thin: moves from one draw to the next.
        trajectory: length of a move, in deviations as the warm-up finds them; at π/2, a quarter of
            a Normal's period, one move leads from any place to an independent one.
        block: images that share a chain; each still has latents of its own.
        params, seed: see `ppl_vae.pyro.asking`.
        batch_norm: "running" alone, so that an image's chain is its own.

    Raises:
        UsageError: a discrete site, a likelihood of whole images, a number of draws or moves below
            1, a trajectory that is not above 0, or another `batch_norm`.
    """
    check_chain(count, warmup, thin, trajectory, batch_norm)
    found = []
    plain = x.without_masks() if isinstance(x, Images) else x[:, :-1]
    with asked(model, guide, plain, params, seed, batch_norm) as data:
        check_moves(model)
        images = DeviceImages(x, data.device, data.dtype).batch(slice(None))
        for part in images.split(block):
            found.append(_chain(model, guide, part, count, warmup, thin, trajectory))
    return np.concatenate(found, axis=1)


def known_log_weights(
    model: Any,
    guide: Any,
    x: Any,
    fillings: Any,
    num_samples: int,
    *,
    block: int = 100,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> np.ndarray:
    """Log importance weights of the known pixels' probability: their exponentials have mean p(k).

    Args:
        model, guide, x: as of `infer_missing`.
        fillings: (count, n, c, h, w), images with what is missing filled in, made without a look at
            it, as by `infer_missing`: the guide's answers to them propose.
        num_samples: of an image, a multiple of `count`: as many from each filling.
        block: images at once.
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.

    Returns:
        (num_samples, n), nats.

    Raises:
        UsageError: num_samples that is no multiple of `count`, a likelihood of whole images, or a
            latent that images share.
    """
    check_shares(num_samples, len(fillings))
    found = []
    plain = x.without_masks() if isinstance(x, Images) else x[:, :-1]
    with asked(model, guide, plain, params, seed, batch_norm) as data:
        images = DeviceImages(x, data.device, data.dtype).batch(slice(None))
        filled = torch.as_tensor(np.asarray(fillings)).to(images)
        for start in range(0, len(images), block):
            part, proposals = images[start : start + block], filled[:, start : start + block]
            share, at_once = num_samples // len(filled), max(1, ROWS // len(part))
            sizes = [min(at_once, share - done) for done in range(0, share, at_once)]
            found.append(torch.cat([_known(model, guide, part, proposals, r) for r in sizes]))
    return torch.cat(found, 1).cpu().numpy()


def _known(model: Any, guide: Any, x: Tensor, fillings: Tensor, repeats: int) -> Tensor:
    """(count * repeats, n) log weights."""
    n = len(x)
    many = repeated(x, repeats, n)
    image, known = many[:, :-1], many[:, -1:] >= 0.5
    proposals = [repeated(one, repeats, n) for one in fillings]
    found = []
    for proposal in proposals:
        z = _latents(guide, proposal)
        joint = densities(at(known_only(known)(model), image, z), len(many))
        log_q = [_log_q(guide, other, z) for other in proposals]
        mixed = torch.stack(log_q).logsumexp(0) - math.log(len(log_q))
        log_weight = joint["log_likelihood"] + sum(joint["log_prior"].values()) - mixed
        found.append(log_weight.unflatten(0, (repeats, n)))
    return torch.cat(found)


def _log_q(guide: Any, image: Tensor, z: dict[str, Tensor]) -> Any:
    """(n,): the guide's log density of latents, nats; what is observed is none."""
    with given(z):  # a replayed site would lose the prior that the guide has looked at
        trace = prune_subsample_sites(poutine.trace(guide).get_trace(image))
    for name in trace.observation_nodes:
        trace.remove_node(name)
    return sum(densities(trace, len(image))["log_prior"].values())


def _chain(
    model: Any, guide: Any, x: Tensor, count: int, warmup: int, thin: int, trajectory: float
) -> np.ndarray:
    image, known = x[:, :-1], x[:, -1:] >= 0.5
    z = _begin(model, guide, image, known)

    def program() -> Any:
        return known_only(known)(model)(image)

    with torch.enable_grad():
        kernel = HMC(program, trajectory_length=trajectory, step_size=0.1)
        chain = MCMC(
            kernel, count * thin, warmup_steps=warmup, initial_params=z, disable_progbar=True
        )
        chain.run()
    draws = {name: value[thin - 1 :: thin].detach() for name, value in chain.get_samples().items()}
    means = [_mean(model, {name: d[i] for name, d in draws.items()}, image) for i in range(count)]
    return torch.stack([torch.where(known, image, mean) for mean in means]).cpu().numpy()


def _begin(model: Any, guide: Any, image: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Latents of the guide, the image filled in by its own reconstruction."""
    filled = torch.where(known, image, torch.zeros_like(image))
    for _ in range(ROUNDS):
        z = _latents(guide, filled)
        filled = torch.where(known, image, _mean(model, z, image))
    return z


def _latents(guide: Any, image: Tensor) -> dict[str, Tensor]:
    """A draw of the guide's; its factor statements, which are observed, are no latents."""
    trace = poutine.trace(guide).get_trace(image)
    return {
        name: site["value"]
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
    }


def _mean(model: Any, z: dict[str, Tensor], image: Tensor) -> Tensor:
    with torch.no_grad():
        trace = poutine.trace(pyro.condition(model, data=z)).get_trace(n=len(image))
        mean: Tensor = trace.nodes["x"]["fn"].mean
    return mean
