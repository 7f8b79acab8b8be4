"""NumPyro's example VAE: programs around (init, apply) nets, stock `SVI`, an epoch one `fori_loop`.

Written by hand to the structure of the public example (nets registered by `numpyro.module`, stock
`SVI.update` with `Trace_ELBO` and `numpyro.optim.Adam`, epochs compiled), with the zoo's nets.
"""

from __future__ import annotations

__all__ = ["bouts"]

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array, lax, random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.optim import Adam

from benchmarks.peers_problem import BATCH, LATENT, RATE, SHAPE, Bout, apart, binary_images, layers
from guides.numpyro import MeanFieldGuide
from models.numpyro import VAE
from ppl_vae.data import Images
from ppl_vae.numpyro import log_weights, state
from ppl_vae.numpyro.trainer import NumPyroTrainer
from ppl_vae.settings import ObjectiveSettings, TrainingSettings


class Example:
    """Two nets of tanh layers that begin at the weights given, and the programs around them."""

    def __init__(self, weights: dict[str, np.ndarray], latent: int) -> None:
        self.latent = latent
        self.encoder, self.decoder = (_net(layers(weights, part)) for part in ("guide", "model"))

    def model(self, x: Array) -> None:
        decode = numpyro.module("decoder", self.decoder, (len(x), self.latent))
        with numpyro.plate("batch", len(x)):
            prior = dist.Normal(jnp.zeros(self.latent), jnp.ones(self.latent)).to_event(1)
            z = numpyro.sample("z", prior)
            means = jax.nn.sigmoid(decode(z))
            likelihood = dist.Bernoulli(probs=means).to_event(1)
            numpyro.sample("obs", likelihood, obs=x.reshape(len(x), -1))

    def guide(self, x: Array) -> None:
        encode = numpyro.module("encoder", self.encoder, (len(x), int(np.prod(SHAPE))))
        loc, raw = jnp.split(encode(x.reshape(len(x), -1)), 2, -1)
        scale = jnp.sqrt(jax.nn.softplus(raw) + 1e-6)
        with numpyro.plate("batch", len(x)):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))


def _net(arrays: list[np.ndarray]) -> tuple[Any, Any]:
    """(init, apply) of linear layers with tanh between them; init gives the arrays."""
    pairs = [(jnp.array(w.T), jnp.array(b)) for w, b in zip(arrays[::2], arrays[1::2], strict=True)]

    def apply(params: Any, h: Array, **_: Any) -> Array:
        *inner, last = params
        for w, b in inner:
            h = jnp.tanh(h @ w + b)
        return h @ last[0] + last[1]

    return lambda rng, shape: ((*shape[:-1], len(arrays[-1])), pairs), apply


def bouts(steps: int, quick: bool) -> list[Bout]:
    """The example's VAE of one hidden layer against the zoo's."""
    hidden, latent = ((20,), 5) if quick else ((400,), LATENT)
    images = binary_images(steps, BATCH)
    rngs = nnx.Rngs(0)
    model = VAE(SHAPE, latent, hidden, rngs=rngs)
    guide = MeanFieldGuide(model, rngs=rngs)
    example = Example(state(model, guide), latent)
    x = jnp.asarray(images, jnp.float32)
    svi = SVI(example.model, example.guide, Adam(RATE), Trace_ELBO())
    now = svi.init(random.key(0), x[:BATCH])
    few = np.asarray(x[:BATCH])
    theirs = log_weights(example.model, example.guide, few, 2, params=svi.get_params(now))
    losses = [apart("log p(x, z) - log q, two draws", theirs, log_weights(model, guide, few, 2))]
    cpu = jax.devices("cpu")[0]
    settings = TrainingSettings(batch_size=BATCH, learning_rate=RATE)
    data = Images(images, binarization="static")
    trainer = NumPyroTrainer(model, guide, data, None, ObjectiveSettings(), settings, cpu)
    ones = np.ones(steps)

    @jax.jit
    def epoch(now: Any, key: Any) -> Any:
        order = random.permutation(key, len(x)).reshape(steps, BATCH)

        def body(i: Any, told: Any) -> Any:
            now, loss = told
            now, more = svi.update(now, x[order[i]])
            return now, loss + more

        return lax.fori_loop(0, steps, body, (now, 0.0))

    held = [now]

    def run_theirs(turn: int) -> float:
        held[0], loss = epoch(held[0], random.key(turn))
        return float(loss)  # waits for the device

    def run_ours(turn: int) -> None:
        trainer.run_epoch(turn, ones, RATE * ones, lambda _: None)

    turns = {"an epoch as it comes": (run_theirs, run_ours)}
    return [Bout("NumPyro's example VAE", BATCH, turns, losses)]
