"""Programs that know nothing of this project: plain functions and automatic guides."""

from __future__ import annotations

import numpy as np
import pytest

from ppl_vae.errors import UsageError

# x_i ~ N(w, 1), w ~ N(0, 1): the posterior of the shared w is N(sum x / (n + 1), 1 / (n + 1)).
RNG = np.random.default_rng(0)
SHARED = (1.5 + RNG.standard_normal((30, 1, 1, 1))).astype(np.float32)
POSTERIOR_MEAN = SHARED.sum() / 31
POSTERIOR_SCALE = 31**-0.5


class PyroPrograms:
    @staticmethod
    def shared(x=None, *, n=None):  # type: ignore[no-untyped-def]
        import pyro
        import pyro.distributions as dist

        n = n if x is None else len(x)
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", n):
            return pyro.sample(
                "x", dist.Normal(w.reshape(-1, 1, 1), 1.0).expand([1, 1, 1]).to_event(3), obs=x
            )

    @staticmethod
    def local(x=None, *, n=None):  # type: ignore[no-untyped-def]
        import pyro
        import pyro.distributions as dist
        import torch

        n = n if x is None else len(x)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", n):
            z = pyro.sample("z1", dist.Normal(torch.zeros(n), 1.0))
            return pyro.sample("x", dist.Normal(z.reshape(-1, 1, 1, 1), scale).to_event(3), obs=x)

    @staticmethod
    def guide(x=None, *, n=None):  # type: ignore[no-untyped-def]
        import pyro
        import pyro.distributions as dist
        import torch

        slope = pyro.param("slope", torch.tensor(0.1))
        spread = pyro.param("spread", torch.tensor(0.5), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z1", dist.Normal(slope * x.flatten(), spread))


class NumPyroPrograms:
    @staticmethod
    def shared(x=None, *, n=None):  # type: ignore[no-untyped-def]
        import numpyro
        import numpyro.distributions as dist

        n = n if x is None else len(x)
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", n):
            return numpyro.sample("x", dist.Normal(w, 1.0).expand([1, 1, 1]).to_event(3), obs=x)

    @staticmethod
    def local(x=None, *, n=None):  # type: ignore[no-untyped-def]
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        n = n if x is None else len(x)
        scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
        with numpyro.plate("data", n):
            z = numpyro.sample("z1", dist.Normal(jnp.zeros(n), 1.0))
            return numpyro.sample(
                "x", dist.Normal(z.reshape(-1, 1, 1, 1), scale).to_event(3), obs=x
            )

    @staticmethod
    def guide(x=None, *, n=None):  # type: ignore[no-untyped-def]
        import numpyro
        import numpyro.distributions as dist

        slope = numpyro.param("slope", 0.1)
        spread = numpyro.param("spread", 0.5, constraint=dist.constraints.positive)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z1", dist.Normal(slope * x.flatten(), spread))


def programs(ppl: str) -> type:
    return PyroPrograms if ppl == "pyro" else NumPyroPrograms


def fit(ppl: str, *args, **kwargs):  # type: ignore[no-untyped-def]
    import importlib

    settings = {"progress": False, "batch_size": 30, **kwargs}
    return importlib.import_module(f"ppl_vae.{ppl}").fit(*args, **settings)


def automatic(ppl: str, model):  # type: ignore[no-untyped-def]
    if ppl == "pyro":
        from pyro.infer.autoguide import AutoNormal
    else:
        from numpyro.infer.autoguide import AutoNormal
    return AutoNormal(model)


def test_plain_functions_learn(ppl: str) -> None:
    """p(x) = N(0, v), v = 1 + scale²: the best v is mean x²; the slope of q is 1 / v."""
    import importlib

    rng = np.random.default_rng(1)
    x = (1.5 * rng.standard_normal((500, 1, 1, 1))).astype(np.float32)
    own = programs(ppl)
    settings = {"epochs": 150, "batch_size": 100, "learning_rate": 0.02, "schedule": "cosine"}
    fitted = fit(ppl, own.local, own.guide, x, decay_epochs=150, **settings)
    found = {name: float(value) for name, value in fitted.params.items()}
    variance = float((x**2).mean())
    assert set(found) == {"scale", "slope", "spread"}
    assert 1 + found["scale"] ** 2 == pytest.approx(variance, rel=0.05)
    assert found["slope"] == pytest.approx(1 / (1 + found["scale"] ** 2), rel=0.05)
    room = importlib.import_module(f"ppl_vae.{ppl}")
    w = np.asarray(room.log_weights(own.local, own.guide, x, 200, params=fitted.params))
    bound = (np.logaddexp.reduce(w, axis=0) - np.log(200)).mean()
    variance = 1 + found["scale"] ** 2
    exact = (-0.5 * (np.log(2 * np.pi * variance) + x.ravel() ** 2 / variance)).mean()
    assert bound == pytest.approx(exact, abs=0.01)


def test_automatic_guide_of_a_shared_latent(ppl: str) -> None:
    own = programs(ppl)
    guide = automatic(ppl, own.shared)
    settings = {"epochs": 800, "learning_rate": 0.05, "schedule": "cosine", "decay_epochs": 800}
    fitted = fit(ppl, own.shared, guide, SHARED, **settings)
    if ppl == "pyro":
        loc, scale = float(guide.locs.w), float(guide.scales.w)
    else:
        loc, scale = float(fitted.params["w_auto_loc"]), float(fitted.params["w_auto_scale"])
    assert loc == pytest.approx(POSTERIOR_MEAN, abs=0.05)
    assert scale == pytest.approx(POSTERIOR_SCALE, rel=0.2)


def test_shared_latent_in_minibatches_has_the_whole_sets_posterior(ppl: str) -> None:
    """Each of N images carries 1/N of the shared divergence, whatever the batch."""
    own = programs(ppl)
    guide = automatic(ppl, own.shared)
    settings = {"epochs": 300, "learning_rate": 0.05, "schedule": "cosine", "decay_epochs": 300}
    fitted = fit(ppl, own.shared, guide, SHARED, **{**settings, "batch_size": 10})
    params = fitted.params
    scale = float(guide.scales.w) if ppl == "pyro" else float(params["w_auto_scale"])
    assert scale == pytest.approx(POSTERIOR_SCALE, rel=0.25)


def test_messenger_guide_of_a_shared_latent() -> None:
    from pyro.infer.autoguide.effect import AutoNormalMessenger

    guide = AutoNormalMessenger(PyroPrograms.shared)
    settings = {"epochs": 800, "learning_rate": 0.05, "schedule": "cosine", "decay_epochs": 800}
    fit("pyro", PyroPrograms.shared, guide, SHARED, **settings)
    assert float(guide.locs.w) == pytest.approx(POSTERIOR_MEAN, abs=0.05)


def test_automatic_guide_of_local_latents_wants_full_batches(ppl: str) -> None:
    own = programs(ppl)
    with pytest.raises(UsageError, match=r"site z1.*cannot be trained on minibatches.*30"):
        fit(ppl, own.local, automatic(ppl, own.local), SHARED, batch_size=10, epochs=1)
    fitted = fit(ppl, own.local, automatic(ppl, own.local), SHARED, epochs=2)
    assert np.isfinite(fitted.history["elbo"].values).all()


def test_no_weights_by_image_for_a_shared_latent(ppl: str) -> None:
    import importlib

    own = programs(ppl)
    guide = automatic(ppl, own.shared)
    fitted = fit(ppl, own.shared, guide, SHARED, epochs=1)
    room = importlib.import_module(f"ppl_vae.{ppl}")
    with pytest.raises(UsageError, match="site w is shared between images"):
        room.log_weights(own.shared, guide, SHARED, 5, params=fitted.params or None)
