"""What the tests of discrete codes ask of NumPyro; `pyro_codes.py` has the same names."""

from __future__ import annotations

__all__ = [
    "PPL", "bounded", "codebook", "joint", "joint_of_two", "learn", "penalty", "prior", "quantised",
    "relaxed", "start", "three_terms", "vectors",
]  # fmt: skip

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from numpyro import handlers
from numpyro.distributions import kl_divergence
from numpyro_whole import whole

from guides.numpyro import NoLatentsGuide, VectorQuantizerGuide
from models.numpyro import CodePrior, CodePrior2
from ppl_vae.numpyro import Objective, bind
from ppl_vae.numpyro.codes import Codes, NearestCode, RelaxedCodes, embed, nearest
from ppl_vae.numpyro.nets.codebook import Codebook

PPL = "numpyro"


@jax.enable_x64(True)
@whole
def quantised(z: np.ndarray, vectors: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """A draw's value, its slopes under `weights`, its divergence from uniform codes."""
    key = jax.random.key(0)

    def value_of(z: Any, vectors: Any) -> Any:
        return (weights * NearestCode(z, vectors).rsample(key)).sum()

    q = NearestCode(z, vectors)
    value = q.rsample(key)
    slopes = jax.grad(value_of, argnums=(0, 1))(z, vectors)
    return {
        "indices": q.indices, "value": value, "slope_z": slopes[0], "slope_vectors": slopes[1],
        "kl": kl_divergence(q, Codes.uniform(vectors, len(z), z.shape[2:])),
        "log_prob": q.log_prob(value),
        "log_prob_of_others": q.log_prob(value[..., ::-1]),
    }  # fmt: skip


@whole
def relaxed(book: np.ndarray, h: np.ndarray, temperature: float, draws: int) -> Any:
    """Draws of relaxed codes, warm and hard, and what they promise of hard ones."""
    key = jax.random.key(0)
    q, hard = RelaxedCodes(book, h, temperature), RelaxedCodes(book, h)

    def squares(h: Any) -> Any:
        return (RelaxedCodes(book, h, 1.0).rsample(key, (8,)) ** 2).sum()

    return {
        "kl": kl_divergence(q, Codes.uniform(book, 1, (1, 1))), "indices": q.indices,
        "loc": q.loc, "scale": q.scale, "relaxed": q.rsample(key, (draws,)),
        "hard": hard.rsample(key, (draws,)), "slope": jax.grad(squares)(h),
    }  # fmt: skip


def three_terms(z: np.ndarray, vectors: np.ndarray, beta: float) -> dict[str, Any]:
    """Penalties, and slopes of the loss, of one position whose image is at -|z|^2 / 2."""

    class Model(nnx.Module):
        x_shape = (2, 1, 1)

        def __init__(self) -> None:
            self.codebook = codebook(vectors, update="gradient", start="random", restart=0.0)

        def __call__(self, x: Any = None, *, n: Any = None) -> Any:
            n = n or len(x)
            with bind("model", self) as net, numpyro.plate("data", n):
                fn = Codes.uniform(net.codebook.vectors, n, (1, 1))
                value = numpyro.sample("z1", fn, infer={"context": net.codebook})
                return numpyro.sample("x", dist.Normal(value, 1.0).to_event(3), obs=x)

    model = Model()
    guide = VectorQuantizerGuide(model, commitment=beta, hidden=(1,), rngs=nnx.Rngs(0))
    x, objective = jnp.zeros((1, 2, 1, 1)), Objective()

    @whole
    @partial(jax.grad, argnums=(0, 1), has_aux=True)
    def slopes_of(out: Any, weight: Any) -> Any:
        book = {**nnx.to_pure_dict(nnx.state(model, nnx.Param))}
        book["codebook"]["weight"] = weight
        with handlers.seed(rng_seed=0), handlers.substitute(data={"model$params": book}):
            terms = objective.terms(model, guide, x, features=out)
        return objective.loss_of(terms.means(), 1.0), terms.penalties

    out = jnp.asarray(z, jnp.float32).reshape(1, 2, 1, 1)
    weight = jnp.asarray(vectors, jnp.float32)
    slopes, penalties = slopes_of(out, weight)
    return {
        "penalties": {name: float(part[0]) for name, part in penalties.items()},
        "slope_z": np.asarray(slopes[0]).ravel(),
        "slope_vectors": np.asarray(slopes[1]),
    }


@whole
def penalty(model: Any, guide: Any, x: Any) -> Any:
    with handlers.seed(rng_seed=0):
        return Objective().terms(model, guide, x).means().penalty


@whole
def joint(model: Any, maps: np.ndarray, x: Any, label: Any = None) -> Any:
    """((maps,), (maps, n)): log p of maps of codes (of a label), and of images given each."""
    given = {} if label is None else {"label": label}
    values = embed(maps, model.codebook.vectors)
    with handlers.seed(rng_seed=0), handlers.substitute(data={"z1": values}):
        seen = handlers.trace(model).get_trace(n=len(maps), **given)
    prior = seen["z1"]["fn"].log_prob(values)
    law = model.likelihood(model.decoder(values))
    of_x = [law.log_prob(jnp.broadcast_to(one, (len(maps), *one.shape))) for one in jnp.asarray(x)]
    return prior, jnp.stack(of_x, 1)


@whole
def joint_of_two(model: Any, maps: Any, x: Any) -> Any:
    """((maps,), (maps, n)): of both maps of codes, and of images given each."""
    values = {
        site: embed(indices, model.codebooks[int(site[1]) - 1].vectors)
        for site, indices in maps.items()
    }
    n = len(maps["z1"])
    with handlers.seed(rng_seed=0), handlers.substitute(data=values):
        seen = handlers.trace(model).get_trace(n=n)
    prior = sum(seen[site]["fn"].log_prob(value) for site, value in values.items())
    law = seen["x"]["fn"]
    of_x = [law.log_prob(jnp.broadcast_to(one, (n, *one.shape))) for one in jnp.asarray(x)]
    return prior, jnp.stack(of_x, 1)


def codebook(start_at: np.ndarray, **arguments: Any) -> Any:
    book = Codebook(*start_at.shape, **arguments, rngs=nnx.Rngs(0))
    values = jnp.asarray(start_at, jnp.float32)
    if book.by_gradient:
        book.weight[...] = values
    else:
        book.running_vectors[...] = values
        book.running_sums[...] = values
    return book


def vectors(book: Any) -> np.ndarray:
    return np.asarray(book.vectors)


def start(book: Any, z: np.ndarray) -> None:
    with handlers.seed(rng_seed=0):
        book.start(jnp.asarray(z, jnp.float32))


@nnx.jit
def _learn(book: Any, values: Any, rng_key: Any) -> Any:
    indices = nearest(values, book.vectors)
    with handlers.seed(rng_seed=rng_key):
        book.learn(values, indices)
    return indices


KEYS = iter(jax.random.split(jax.random.key(0), 10_000))


def learn(book: Any, z: np.ndarray) -> np.ndarray:
    """Indices of the codes that z (n, d, h, w) went to, and a step of the averages."""
    return np.asarray(_learn(book, jnp.asarray(z, jnp.float32), next(KEYS)))


@whole
def bounded(model: Any, guide: Any, x: Any) -> Any:
    return model.codebook.bound(guide.encode(x))


def prior(x_shape: Any, num_codes: int, labels: int = 0) -> tuple[Any, Any]:
    kind = CodePrior if x_shape[0] == 1 else CodePrior2
    model = kind(x_shape, num_codes, channels=2, layers=1, labels=labels, rngs=nnx.Rngs(0))
    return model, NoLatentsGuide(model)
