r"""Filling in by inference: any trained model, whose latents are drawn given the known pixels.

.. math:: p(z \mid k) \propto p(z) \prod_{i:\, m_i = 1} p(x_i \mid z)

Chains begin at the guide's answer to the image, what is missing filled in a few times by its own
reconstruction (Rezende, Mohamed & Wierstra 2014, appendix F), and go on by Hamiltonian moves on the
model under a masked likelihood (NumPyro's own HMC, which adapts its step size while it warms up).

Their images give log p(k) too, by importance weighting from the even mixture of the guide's answers
to J of them (Veach & Guibas 1995, the balance heuristic):

.. math:: w = p(k, z) \Big/ \frac1J \sum_{j=1}^J q(z \mid x^{(j)}), \qquad E[w] = p(k)
"""

from __future__ import annotations

__all__ = ["infer_missing", "known_log_weights", "known_only"]

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, random
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.infer import HMC, MCMC
from numpyro.primitives import Messenger

from ppl_vae.checks import check_chain, check_shares
from ppl_vae.data.images import Images
from ppl_vae.errors import UsageError
from ppl_vae.numpyro.asking import asked, running
from ppl_vae.numpyro.bind import fresh
from ppl_vae.numpyro.data import DeviceImages
from ppl_vae.numpyro.densities import check_moves, repeated
from ppl_vae.numpyro.distributions import unwrapped
from ppl_vae.numpyro.replay import at, densities
from ppl_vae.numpyro.weighing import ROWS

ROUNDS = 10  # of filling in before the chain begins


class known_only(Messenger):
    """Handler: the data's site "x" scores its pixels where `known` (n, 1, h, w) is true, alone.

    `known_only(known)(model)(x)` is the program whose posterior is p(z | known pixels).
    """

    def __init__(self, known: Any) -> None:
        super().__init__()
        self.known = known

    def __call__(self, program: Any) -> Any:
        def hidden(*args: Any, **kwargs: Any) -> Any:
            with self:
                return program(*args, **kwargs)

        return hidden

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["name"] != "x" or not msg["is_observed"]:
            return
        base = unwrapped(msg["fn"])
        if len(base.batch_shape) != 4:
            raise UsageError(
                f"likelihood: expected one that scores each pixel by itself, came "
                f"{type(base).__name__}: take bernoulli, discretized_logistic or normal"
            )
        msg["fn"] = base.mask(jnp.broadcast_to(self.known, base.batch_shape)).to_event(3)


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
        params, seed: see `ppl_vae.numpyro.asking`.
        batch_norm: "running" alone, so that an image's chain is its own.

    Raises:
        UsageError: a discrete site, a likelihood of whole images, a number of draws or moves below
            1, a trajectory that is not above 0, or another `batch_norm`.
    """
    check_chain(count, warmup, thin, trajectory, batch_norm)
    found = []
    plain = x.without_masks() if isinstance(x, Images) else x[:, :-1]
    with asked(model, guide, plain, params, seed, batch_norm) as (data, values, key):
        with running(values, key):
            check_moves(model)
        held = DeviceImages(x, None, data.dtype)
        given = held.prepared(held.values, random.fold_in(key, len(x)))
        chain = _chain_of(model, guide, values, (count, warmup, thin, trajectory))
        for start in range(0, len(given), block):
            part = given[start : start + block]
            found.append(np.asarray(chain(part, random.fold_in(key, start))))
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
        params, seed, batch_norm: see `ppl_vae.numpyro.asking`.

    Returns:
        (num_samples, n), nats.

    Raises:
        UsageError: num_samples that is no multiple of `count`, a likelihood of whole images, or a
            latent that images share.
    """
    check_shares(num_samples, len(fillings))
    found = []
    plain = x.without_masks() if isinstance(x, Images) else x[:, :-1]
    with asked(model, guide, plain, params, seed, batch_norm) as (data, values, key):
        held = DeviceImages(x, None, data.dtype)
        given = held.prepared(held.values, random.fold_in(key, len(x)))
        filled = jnp.asarray(fillings, given.dtype)
        share, size = num_samples // len(filled), min(block, len(given))
        at_once = max(1, min(share, ROWS // size))

        @jax.jit
        def weights(values: Any, part: Array, proposals: Array, rng_key: Any) -> Array:
            with running(values, rng_key):
                return _known(model, guide, part, proposals, at_once)

        for start in range(0, len(given), size):
            part, proposals = given[start : start + size], filled[:, start : start + size]
            keys = random.split(random.fold_in(key, start), -(-share // at_once))
            parts = [np.asarray(weights(values, part, proposals, one)) for one in keys]
            found.append(np.concatenate(parts, axis=1)[:, :share].reshape(num_samples, -1))
    return np.concatenate(found, axis=1)


def _known(model: Any, guide: Any, x: Array, fillings: Array, repeats: int) -> Array:
    """(count, repeats, n) log weights."""
    n = len(x)
    many = repeated(x, repeats, n)
    image, known = many[:, :-1], many[:, -1:] >= 0.5
    proposals = [repeated(one, repeats, n) for one in fillings]
    found = []
    for proposal in proposals:
        z = _latents(guide, proposal)
        joint = densities(at(known_only(known)(model), image, z), len(many))
        log_q = [_log_q(guide, other, z) for other in proposals]
        mixed = logsumexp(jnp.stack(log_q), axis=0) - math.log(len(log_q))
        log_weight = joint["log_likelihood"] + sum(joint["log_prior"].values()) - mixed
        found.append(log_weight.reshape(repeats, n))
    return jnp.stack(found)


def _latents(guide: Any, image: Array) -> dict[str, Array]:
    """A draw of the guide's; its factor statements, which are observed, are no latents."""
    trace = handlers.trace(guide).get_trace(image)
    return {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


def _log_q(guide: Any, image: Array, z: dict[str, Array]) -> Any:
    """(n,): the guide's log density of latents, nats; what is observed is none."""
    trace = handlers.trace(handlers.substitute(guide, data=z)).get_trace(image)
    own = {name: site for name, site in trace.items() if not site.get("is_observed")}
    return sum(densities(own, len(image))["log_prior"].values())


def _chain_of(model: Any, guide: Any, values: Any, how: tuple[int, int, int, float]) -> Any:
    """(images with masks (n, c + 1, h, w), key) to (count, n, c, h, w)."""
    count, warmup, thin, trajectory = how

    def program(image: Array, known: Array) -> Any:
        with handlers.substitute(data=fresh(values)):
            return known_only(known)(model)(image)

    kernel = HMC(program, trajectory_length=trajectory, step_size=0.1)
    mcmc = MCMC(kernel, num_warmup=warmup, num_samples=count * thin, progress_bar=False)

    def mean(z: dict[str, Array], image: Array, rng_key: Any) -> Array:
        with running(values, rng_key), handlers.condition(data=z):
            return handlers.trace(model).get_trace(n=len(image))["x"]["fn"].mean

    @jax.jit
    def begin(image: Array, known: Array, rng_key: Any) -> dict[str, Array]:
        """Latents of the guide, the image filled in by its own reconstruction."""
        filled = jnp.where(known, image, 0.0)
        for one in random.split(rng_key, ROUNDS):
            with running(values, one):
                z = _latents(guide, filled)
            filled = jnp.where(known, image, mean(z, image, one))
        return z

    @jax.jit
    def ends(draws: dict[str, Array], image: Array, known: Array, rng_key: Any) -> Array:
        means = jax.lax.map(lambda z: mean(z, image, rng_key), draws)
        return jnp.where(known, image, means)

    def chain(x: Array, rng_key: Any) -> Array:
        image, known = x[:, :-1], x[:, -1:] >= 0.5
        first, moves, last = random.split(rng_key, 3)
        mcmc.run(moves, image, known, init_params=begin(image, known, first))
        draws = {name: value[thin - 1 :: thin] for name, value in mcmc.get_samples().items()}
        return ends(draws, image, known, last)

    return chain
