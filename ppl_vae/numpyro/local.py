r"""The guide's answer for each image, optimised for that image alone (Cremer et al. 2018).

.. math:: L[q^*] = \max_{m, s} E_{u \sim N(m, s^2)}[\log p(x, u)] + \sum_i \log s_i + \tfrac D2
    \log 2 \pi e

with a mean and a deviation for every unit of every image, in one of these families:

- "mean_field": u is the latents themselves, so all units of all sites are independent Normals
  (on the unconstrained number where a site is not real), begun at the moments of the guide's draws;
- "conditional": u is the guide's own noise, so each site keeps the guide's dependence on the
  latents before it and gets a shift and a factor of its own, begun at the guide itself;
- "iaf", "conditional_iaf": u is flows of such Normals, each image's own, on every site given those
  above it (`ppl_vae.numpyro.local_flows`), so that a unit may depend on others and a posterior need
  not be Normal. They begin where "mean_field" and "conditional" do, which they hold.

With one latent site and a diagonal Normal guide the first two are one family.
"""

from __future__ import annotations

__all__ = ["FAMILIES", "local_elbo"]

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax, random

from ppl_vae.errors import UsageError, nearest
from ppl_vae.numpyro.asking import asked, keeps_order, running
from ppl_vae.numpyro.densities import Densities
from ppl_vae.numpyro.local_flows import ImageFlows

FAMILIES = {  # what u is, and whether flows bend it
    "mean_field": ("site", False),
    "conditional": ("guide", False),
    "iaf": ("site", True),
    "conditional_iaf": ("guide", True),
}
ROWS = 4096  # images times samples that pass through the nets at once
MOMENTS = 64  # draws of the guide that a mean field begins at
MOST = 1024  # units of a site that a flow takes: its nets grow with their square
HELD = 20_000_000  # numbers that the flows of a block of images may have
SLOWER = 0.1  # learning rate of the flows' nets, in that of means and deviations


def local_elbo(
    model: Any,
    guide: Any,
    x: Any,
    *,
    family: str = "conditional",
    num_steps: int = 500,
    num_samples: int = 8,
    learning_rate: float = 0.05,
    eval_samples: int = 500,
    flows: int = 2,
    width: int = 64,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
) -> dict[str, np.ndarray]:
    """ELBO of each image under its own optimised posterior, nats, higher is better.

    Args:
        x: images (n, c, h, w), or `ppl_vae.data.Images`; binarised once.
        family: see the module's docstring.
        num_steps, num_samples, learning_rate: of Adam, its rate falling by a cosine.
        eval_samples: fresh draws of the ELBO that is returned.
        flows, width: of the families with flows: steps at each site, units of a net's hidden layer.
        params: what `fit` learned for plain functions.
        seed: of the draws.
        batch_norm: "running" alone; see `ppl_vae.numpyro.asking`.
        block: images times samples that pass through the nets at once.

    Returns:
        {"elbo": (n,), "begun": (n,), "curve": (num_steps,)}: of the optimised posterior, of the one
        it began at ("conditional": the guide's), and the mean over images along the way.

    Raises:
        UsageError: no such family, a discrete site, an answer that is not Normal, or a site too
            large for flows.
    """
    numbers = {"num_steps": num_steps, "num_samples": num_samples, "eval_samples": eval_samples}
    _check(guide, family, batch_norm, {**numbers, "flows": flows, "width": width})
    by, bends = FAMILIES[family]
    densities = Densities(model, guide, by)
    found = []
    with asked(model, guide, x, params, seed, batch_norm) as (data, values, key):
        with running(values, key):
            densities.draw(data.batch(slice(0, 1), key), "guide")  # which sites there are
        answers = _Answers(densities, family, _flows(densities, flows, width) if bends else None)
        size = answers.block(max(1, min(100, (block or ROWS) // num_samples)))

        @jax.jit
        def run(values: Any, images: Array, rng_key: Any) -> Any:
            keys = random.split(rng_key, 4)
            with running(values, keys[0]):
                begun = answers.begin(images, random.fold_in(keys[1], num_steps))
                best, curve = _optimise(
                    answers, images, begun, num_steps, num_samples, learning_rate, keys[1]
                )
                elbos = [
                    _measured(answers, images, at, eval_samples, num_samples, rng_key)
                    for at, rng_key in zip((best, begun), keys[2:], strict=True)
                ]
            return *elbos, curve * len(images)

        for start in range(0, len(data), size):
            binarise, noise = random.split(random.fold_in(key, start))
            images = data.batch(slice(start, start + size), binarise)
            found.append([np.asarray(part) for part in run(values, images, noise)])
    after, before = (np.concatenate([part[i] for part in found]) for i in (0, 1))
    curve = np.sum([part[2] for part in found], axis=0) / len(x)
    return {"elbo": after, "begun": before, "curve": curve}


class Answer(NamedTuple):
    """Means and log deviations (n, D) of n images' Normals, and the flows that bend them."""

    loc: Array
    log_scale: Array
    nets: list[Any]


class _Answers:
    """A family's answers: where they begin, and what their ELBO is."""

    def __init__(self, densities: Densities, family: str, flows: ImageFlows | None) -> None:
        self.densities, self.family, self.flows = densities, family, flows

    def block(self, most: int) -> int:
        """How many images at once, `most` of them unless their flows hold too many numbers."""
        return most if self.flows is None else max(1, min(most, HELD // self.flows.num_weights))

    def begin(self, x: Array, key: Any) -> Answer:
        many, known = self.densities.known(x, MOMENTS)
        u = self.densities.draw(many, "guide", **known)
        u = u.reshape(MOMENTS, len(x), -1)
        if self.densities.by == "site":
            loc, log_scale = u.mean(0), jnp.log(jnp.maximum(u.std(0, ddof=1), 1e-6))
        elif self.densities.normal:
            loc, log_scale = jnp.zeros_like(u[0]), jnp.zeros_like(u[0])
        else:
            raise UsageError(
                "family: expected mean_field or iaf for a guide with other answers than Normal "
                f"ones, came {self.family}, which shifts and rescales a Normal"
            )
        nets = [] if self.flows is None else self.flows.begin(len(x), u.dtype, key)
        return Answer(loc, log_scale, nets)

    def elbo(self, many: Array, known: dict[str, Any], at: Answer, key: Any) -> Array:
        """(rows,): one draw's log p(x, u) and log |det|, and the Normals' entropy."""
        repeats = len(many) // len(at.loc)
        loc, log_scale = (jnp.tile(part, (repeats, 1)) for part in (at.loc, at.log_scale))
        u = loc + jnp.exp(log_scale) * random.normal(key, loc.shape, loc.dtype)
        entropy = (log_scale + 0.5 * math.log(2 * math.pi * math.e)).sum(1)
        if self.flows is not None:
            u, log_det = self.flows(at.nets, u)
            entropy = entropy + log_det
        return self.densities(u, many, **known).log_joint + entropy


def _check(guide: Any, family: str, batch_norm: str, numbers: dict[str, int]) -> None:
    if family not in FAMILIES:
        raise UsageError(f"family: unknown {family!r}: {nearest(family, FAMILIES)}")
    if batch_norm != "running":
        raise UsageError(
            f"batch_norm: expected running for local answers, came {batch_norm}: each image's "
            "answer is to be its own"
        )
    if keeps_order(guide):
        raise UsageError(
            "guide: expected one that answers any batch of images, came an automatic guide, whose "
            "posteriors are each image's own already"
        )
    for name, value in numbers.items():
        if value < 1:
            raise UsageError(f"{name}: expected at least 1, came {value}")


def _flows(densities: Densities, num_steps: int, width: int) -> ImageFlows:
    sizes = {site: math.prod(shape) for site, (_, shape) in densities.layout.items()}
    for site, size in sizes.items():
        if size > MOST:
            raise UsageError(
                f"family: expected mean_field or conditional for site {site} of {size} units, came "
                f"flows, whose nets grow with the square of them (at most {MOST})"
            )
    return ImageFlows(tuple(sizes.values()), num_steps, width)


def _optimise(
    answers: _Answers,
    x: Array,
    begun: Answer,
    num_steps: int,
    num_samples: int,
    learning_rate: float,
    key: Any,
) -> tuple[Answer, Array]:
    """(answers uphill of `begun`, (num_steps,) mean ELBO along the way)."""
    many, known = answers.densities.known(x, num_samples)
    nets = Answer(*(jax.tree.map(lambda _, i=i: i == 2, part) for i, part in enumerate(begun)))
    adam = optax.chain(
        optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps)),
        optax.masked(optax.scale(SLOWER), nets),
    )

    def loss(at: Answer, rng_key: Any) -> Array:
        return -answers.elbo(many, known, at, rng_key).sum() / num_samples

    def step(state: Any, rng_key: Any) -> Any:
        at, held = state
        value, slopes = jax.value_and_grad(loss)(at, rng_key)
        updates, held = adam.update(slopes, held)
        return (optax.apply_updates(at, updates), held), -value / len(x)

    (best, _), curve = lax.scan(step, (begun, adam.init(begun)), random.split(key, num_steps))
    return best, curve


def _measured(answers: _Answers, x: Array, at: Answer, total: int, at_once: int, key: Any) -> Array:
    """(n,): the ELBO by `total` draws or the next multiple of `at_once`."""
    many, known = answers.densities.known(x, at_once)

    def one(rng_key: Any) -> Array:
        return answers.elbo(many, known, at, rng_key).reshape(at_once, len(x)).mean(0)

    return lax.map(one, random.split(key, math.ceil(total / at_once))).mean(0)
