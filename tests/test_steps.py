"""Steps whose size is known: a loss of slope one, under every optimiser, in both PPLs.

A pixel of 1000 under Laplace(θ, 1) has log p = θ - 1000 - log 2 as long as θ < 1000, so the loss
falls with slope one whatever θ, and an optimiser's steps are a formula. z1 is there to be carried.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zoo import Case, images, room, side

from ppl_vae.data.images import Images
from ppl_vae.errors import TrainingError, UsageError
from ppl_vae.histories import history_of, rows_of
from ppl_vae.runs import Run
from ppl_vae.settings import ObjectiveSettings

FAR, N = 1000.0, 8
X = np.full((N, 1, 1, 1), FAR, np.float32)
RECIPE = {"training": {"seed": 0}}


def fit(ppl: str, x: Any = X, programs: Any = None, **settings: Any) -> Any:
    """Two steps an epoch unless told otherwise."""
    settings = {"epochs": 3, "batch_size": N // 2, "learning_rate": 0.1, **settings}
    return room(ppl).fit(*(programs or side(ppl).slope()), x, progress=False, **settings)


def theta(ppl: str, **settings: Any) -> float:
    return float(fit(ppl, **settings).params["theta"])


def moments(steps: int, first: float, decay: float) -> list[tuple[float, float]]:
    """Adam's (θ before, step taken), with L2 decay λθ on a gradient of -1, at a rate of 0.1."""
    m = v = 0.0
    taken = []
    for t in range(1, steps + 1):
        gradient = decay * first - 1
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = -0.1 * m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
        taken.append((first, step))
        first += step
    return taken


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.6),  # six steps of the learning rate
        ({"optimizer": "adamax"}, 0.6),
        ({"eps": 1.0}, 0.3),  # g / (|g| + ε)
        ({"eps": 1.0, "clip_norm": 0.5}, 0.2),
        ({"eps": 1.0, "clip_norm": 5.0}, 0.3),
        ({"eps": 1.0, "clip_value": 0.25}, 0.12),
        ({"optimizer": "adamax", "eps": 1.0}, 0.3),
        # θ ← θ (1 - 0.1 · 0.5) + 0.1
        ({"optimizer": "adamw", "weight_decay": 0.5}, 2 * (1 - 0.95**6)),
        ({"weight_decay": 0.5}, sum(step for _, step in moments(6, 0.0, 0.5))),
        ({"schedule": "linear", "decay_epochs": 3}, 0.1 * (6 + 5 + 4 + 3 + 2 + 1) / 6),
        ({"lr_warmup_epochs": 3}, 0.1 * (1 + 2 + 3 + 4 + 5 + 6) / 6),
        ({"batch_size": 3}, 0.6),  # two whole batches, and what is left waits
        ({"batch_size": 100}, 0.3),  # no more than there are
    ],
    ids=str,
)
def test_optimisers_step_by_formula(ppl: str, settings: dict[str, Any], expected: float) -> None:
    assert theta(ppl, **settings) == pytest.approx(expected, rel=2e-5)


def test_history_of_epochs_that_lack_a_variable() -> None:
    """A run begun by a version that kept more: NaN where an epoch has none, back and forth."""
    rows = [{"epoch": i, "step": i, "elbo": -1.0, "kl": np.ones(2)} for i in (1, 2)]
    rows[0]["active_units_kl"] = np.array([3.0, 1.0])
    history = history_of(rows, ("z1", "z2"))
    expected = [[3.0, 1.0], [np.nan, np.nan]]
    np.testing.assert_array_equal(history["active_units_kl"], expected)
    np.testing.assert_array_equal(
        history_of(rows_of(history), ("z1", "z2"))["active_units_kl"], expected
    )


def test_history_of_known_steps(ppl: str) -> None:
    """Means over an epoch, each batch under the θ of its step; KL weight and rate as set."""
    objective = ObjectiveSettings(warmup_epochs=4, beta_norm=0.5)
    history = fit(ppl, objective=objective, learning_rate=1.0).history
    assert history["step"].values.tolist() == [2, 4, 6]
    assert history["epoch"].values.tolist() == [1, 2, 3]
    assert history["site"].values.tolist() == ["z1"]
    before = np.array([0.5, 2.5, 4.5])  # mean θ of steps 0 and 1, 2 and 3, …
    expected = before - FAR - math.log(2)
    np.testing.assert_allclose(history["log_likelihood"], expected, rtol=1e-6)
    np.testing.assert_allclose(history["kl"][:, 0], 0.125, rtol=1e-5)  # N(1/2, 1) from N(0, 1)
    np.testing.assert_allclose(history["elbo"], expected - 0.125, rtol=1e-6)
    np.testing.assert_allclose(history["grad_norm"], 1, rtol=1e-6)
    # beta = beta_norm N / M with one pixel and one latent; step t has weight t / 8
    np.testing.assert_allclose(history["kl_weight"], 0.5 * np.array([1, 3, 5]) / 8, rtol=1e-6)
    weights = 0.5 * np.array([0.5, 2.5, 4.5]) / 8
    np.testing.assert_allclose(history["loss"], 0.125 * weights - expected, rtol=1e-6)
    assert (history["learning_rate"] == 1.0).all()
    assert (history["skipped"] == 0).all()
    for name, unit in (("kl", "nats per image"), ("learning_rate", "1")):
        assert history[name].attrs["units"] == unit
    for name in ("posterior_loc", "posterior_scale"):
        assert history[name].dims == ("step", "site", "bound")
    np.testing.assert_allclose(history["posterior_loc"], 0.5)
    np.testing.assert_allclose(history["posterior_scale"], 1.0)
    assert (history["active_units"] == 0).all()  # the posterior is the same for every image
    assert (history["active_units_kl"] == 1).all()  # and 1/8 nat from the prior


def test_an_epoch_is_every_image_once_in_a_new_order(ppl: str) -> None:
    """Image i holds 1000 + 2^i, and batches of three leave two of eight out: the sum says which."""
    x = (FAR + 2.0 ** np.arange(N)).astype(np.float32).reshape(N, 1, 1, 1)
    found = fit(ppl, x=x, epochs=6, batch_size=3, learning_rate=1e-12).history["log_likelihood"]
    absent = x.sum() + 6 * (found.values + math.log(2)) - 2 * FAR
    bits = [f"{round(value):08b}" for value in absent]
    assert {code.count("1") for code in bits} == {2}
    np.testing.assert_allclose(absent, absent.round(), atol=0.1)
    assert len(set(bits)) > 2
    whole = fit(ppl, x=x, learning_rate=1e-12).history["log_likelihood"]
    np.testing.assert_allclose(whole, -x.mean() - math.log(2), rtol=1e-6)


def test_dynamic_images_are_drawn_anew(ppl: str) -> None:
    """-log p(x) - D log 2 under Laplace(0, 1) is how many of an image's D pixels are one."""
    grey = Images(np.full((N, 1, 4, 4), 51, np.uint8), binarization="dynamic")
    ones = {}
    for name, data in (("dynamic", grey), ("static", grey.fixed(seed=0))):
        history = fit(ppl, x=data, epochs=5, learning_rate=1e-12).history
        ones[name] = -history["log_likelihood"].values - 16 * math.log(2)
    assert len(set(ones["dynamic"].round(3))) > 2
    deviation = math.sqrt(16 * 0.2 * 0.8 / N)
    assert (abs(ones["dynamic"] - 16 * 0.2) < 5 * deviation).all()
    np.testing.assert_allclose(ones["static"], grey.fixed(seed=0).images.sum() / N, rtol=1e-5)


def test_averaged_weights_in_closed_form(ppl: str, tmp_path: Path) -> None:
    """e ← r e + (1 - r) θ from e = θ = 0, at every step: e_t = Σ_s (1 - r) r^(t - s) θ_s."""
    run = Run.create(tmp_path / "run", RECIPE, ppl)
    fit(ppl, run=run, ema=0.75)
    expected = sum(0.25 * 0.75 ** (6 - s) * 0.1 * s for s in range(1, 7))
    (found,) = run.weights("ema")[0].values()
    assert float(found) == pytest.approx(expected, rel=1e-5)
    (last,) = run.weights("last")[0].values()
    assert float(last) == pytest.approx(0.6, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "adamax"])
def test_every_optimiser_goes_on_where_it_stood(ppl: str, optimizer: str, tmp_path: Path) -> None:
    """Two epochs and two more are four, bit for bit: slots, averages, decay and the skip count."""
    settings: dict[str, Any] = {
        "optimizer": optimizer, "weight_decay": 0.1, "ema": 0.9, "skip_norm": 1.5,
        "clip_value": 0.5, "schedule": "linear", "decay_epochs": 5, "eps": 0.1,
    }  # fmt: skip
    whole, halves = (Run.create(tmp_path / name, RECIPE, ppl) for name in ("whole", "halves"))
    fit(ppl, run=whole, epochs=4, **settings)
    fit(ppl, run=halves, epochs=2, **settings)
    fit(ppl, run=halves, epochs=4, resume=True, **settings)
    one, two = whole.restore(), halves.restore()
    assert one is not None
    assert two is not None
    assert one.info == two.info
    assert one.files.keys() == two.files.keys() == {"weights", "optimizer", "ema"}
    for file, arrays in one.files.items():
        for name, value in arrays.items():
            np.testing.assert_array_equal(two.files[file][name], value, err_msg=f"{file} {name}")


def test_killed_after_its_last_checkpoint_a_run_has_its_whole_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Death between the pointer and history.nc: there is nothing left to train, but to show."""

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    run = Run.create(tmp_path / "run", RECIPE, "pyro")
    fit("pyro", run=run, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_show_history", die)
        with pytest.raises(Killed):
            fit("pyro", run=run, epochs=3, checkpoint_seconds=0.0)
    assert run.history["epoch"].values.tolist() == [1, 2]
    fitted = fit("pyro", run=run, epochs=3, resume=True)
    assert run.history.identical(fitted.history)
    assert run.history["epoch"].values.tolist() == [1, 2, 3]


def test_early_stopping_and_the_best_weights(ppl: str, tmp_path: Path) -> None:
    """Validation images at 0.35: |0.35 - θ| is least after epoch 2 (θ = 0.4); patience is 3."""
    run = Run.create(tmp_path / "run", RECIPE, ppl)
    valid = np.full((3, 1, 1, 1), 0.35, np.float32)
    fitted = fit(ppl, run=run, valid=valid, patience=3, epochs=50, checkpoint_seconds=0.0)
    assert fitted.best_epoch == 2
    assert fitted.history["epoch"].values.tolist() == [1, 2, 3, 4, 5]
    theta = 0.2 * np.arange(1, 6)
    expected = -np.abs(0.35 - theta) - math.log(2) - 0.125
    np.testing.assert_allclose(fitted.history["valid_elbo"], expected, rtol=1e-5)
    assert float(fitted.params["theta"]) == pytest.approx(1.0, rel=1e-5)
    for which, value in (("best", 0.4), ("last", 1.0)):
        arrays, taken = run.weights(which)
        (found,) = arrays.values()
        assert (float(found), taken) == (pytest.approx(value, rel=1e-5), which)
    assert run.history.identical(fitted.history)
    more = fit(ppl, run=run, resume=True, valid=valid, patience=3, epochs=90)  # it has stopped
    assert more.history.identical(fitted.history)
    assert more.best_epoch == 2


def test_skipped_steps_are_as_if_they_had_not_been(ppl: str) -> None:
    """Images below θ turn the slope round; a steeper slope than skip_norm is left out.

    The gradient is 1 for every batch, so a threshold of 1.5 skips none and of 0.5 all.
    """
    fitted = fit(ppl, skip_norm=1.5)
    assert float(fitted.params["theta"]) == pytest.approx(0.6, rel=1e-5)
    fitted = fit(ppl, skip_norm=0.5, ema=0.5)
    assert float(fitted.params["theta"]) == 0.0
    assert fitted.history["skipped"].values.tolist() == [2, 2, 2]
    with pytest.raises(TrainingError, match=r"5 steps in a row were skipped, up to step 4,.*0\.5"):
        fit(ppl, skip_norm=0.5, max_skips=5)


@pytest.mark.parametrize(
    ("site", "place"), [("z1", "the divergence at site z1"), ("x", "the log likelihood at site x")]
)
def test_nan_names_the_site_and_the_step(ppl: str, site: str, place: str, tmp_path: Path) -> None:
    """A program that breaks once θ is above 0.45, that is in step 5, the second of epoch 3."""
    run = Run.create(tmp_path / "run", RECIPE, ppl)
    programs = side(ppl).slope(breaks=site, above=0.45)
    with pytest.raises(TrainingError) as stop:
        fit(ppl, programs=programs, run=run, epochs=9, checkpoint_seconds=0.0)
    assert f"NaN or infinity in {place}, step 5 (epoch 3)" in str(stop.value)
    assert "training.learning_rate (now 0.1)" in str(stop.value)
    assert "last good checkpoint: epoch-000002" in str(stop.value)
    (last,) = run.weights("last")[0].values()
    assert float(last) == pytest.approx(0.4, rel=1e-5)


def test_out_of_memory_names_the_batch_and_the_checkpoint(
    ppl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's memory ends in epoch 2."""
    if ppl == "pyro":
        import torch

        from ppl_vae.pyro.trainer import PyroTrainer as Trainer

        error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
    else:
        import jax

        from ppl_vae.numpyro.trainer import NumPyroTrainer as Trainer

        error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 GiB")
    run_epoch = Trainer.run_epoch

    def short(trainer: Any, epoch: int, *rest: Any) -> Any:
        if epoch == 1:
            raise error
        return run_epoch(trainer, epoch, *rest)

    monkeypatch.setattr(Trainer, "run_epoch", short)
    run = Run.create(tmp_path / "run", RECIPE, ppl)
    with pytest.raises(TrainingError) as stop:
        fit(ppl, run=run, epochs=3, batch_size=2, checkpoint_seconds=0.0)
    assert "out of memory: lower training.batch_size (now 2)" in str(stop.value)
    assert f"last good checkpoint: epoch-000001 in {run.path}" in str(stop.value)


def test_callbacks_see_the_pair_as_it_is(ppl: str, tmp_path: Path) -> None:
    """After each epoch the modules hold that epoch's weights, and can be asked."""
    model, guide = Case(ppl, "vae", "mean-field").build()
    run = Run.create(tmp_path / "run", RECIPE, ppl)
    seen = [room(ppl).state(model, guide)]

    def look(history: Any) -> None:
        seen.append(room(ppl).state(model, guide))
        assert len(history["epoch"]) == len(seen) - 1
        assert np.isfinite(np.asarray(room(ppl).log_weights(model, guide, images(), 1))).all()

    settings = {"batch_size": 3, "checkpoint_seconds": 0.0, "callbacks": [look], "progress": False}
    room(ppl).fit(model, guide, images(), run=run, epochs=3, **settings)
    name = "model.decoder.out.bias"
    assert len({arrays[name].tobytes() for arrays in seen}) == 4
    stored, now = run.weights("last")[0], room(ppl).state(model, guide)
    for arrays in (stored, now):
        assert all(np.array_equal(arrays[k], seen[-1][k]) for k in arrays)


def test_a_stopped_fit_leaves_a_pair_that_works(ppl: str, tmp_path: Path) -> None:
    """Ctrl-C in epoch 3: the modules hold what was learned, and the run goes on from there."""
    model, guide = Case(ppl, "vae", "mean-field").build()
    run = Run.create(tmp_path / "run", RECIPE, ppl)

    def stop(history: Any) -> None:
        if len(history["epoch"]) == 3:
            raise KeyboardInterrupt

    settings = {"batch_size": 3, "checkpoint_seconds": 0.0, "progress": False, "run": run}
    with pytest.raises(KeyboardInterrupt):
        room(ppl).fit(model, guide, images(), epochs=5, callbacks=[stop], **settings)
    stored, now = run.weights("last")[0], room(ppl).state(model, guide)
    assert run.last is not None
    assert run.last.name == "epoch-000002"
    assert any(not np.array_equal(stored[name], now[name]) for name in stored)  # epoch 3's
    assert np.isfinite(np.asarray(room(ppl).log_weights(model, guide, images(), 1))).all()
    pair = Case(ppl, "vae", "mean-field").build(seed=7)
    resumed = room(ppl).fit(*pair, images(), epochs=3, resume=True, **settings)
    assert resumed.history["epoch"].values.tolist() == [1, 2, 3]
    again = room(ppl).state(*pair)
    for name, value in now.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_a_fit_stopped_within_an_epoch_leaves_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In NumPyro a step takes the buffers of the weights before it: the modules have their own."""
    from ppl_vae.numpyro.trainer import NumPyroTrainer

    pair = Case("numpyro", "vae", "mean-field").build()
    write_back = NumPyroTrainer.write_back
    seen: list[dict[str, Any]] = []

    def stop(trainer: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        write_back(trainer)
        seen.append(room("numpyro").state(*pair))

    monkeypatch.setattr(NumPyroTrainer, "write_back", stop)
    with pytest.raises(KeyboardInterrupt):
        room("numpyro").fit(*pair, images(), batch_size=3, epochs=5, progress=False)
    now = room("numpyro").state(*pair)
    assert all(np.array_equal(now[name], value) for name, value in seen[0].items())


def test_fit_leaves_all_that_is_global_alone(ppl: str) -> None:
    """Random streams of Python, numpy and torch, threads, and the settings of both PPLs."""
    before = surroundings()
    fit(ppl, seed=9, threads=1)
    after = surroundings()
    assert [name for name, value in before.items() if after[name] != value] == []


def surroundings() -> dict[str, Any]:
    import jax
    import numpyro
    import pyro
    import torch

    return {
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "store": sorted(pyro.get_param_store().keys()),
        "pyro": pyro.settings.get(),
        "x64": jax.config.read("jax_enable_x64"),
        "matmul": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        "numpyro": numpyro.distributions.distribution.validation_enabled,
    }


def test_automatic_guides_take_one_sample(ppl: str) -> None:
    """They answer for places in the batch, so images cannot be repeated under them."""
    model = side(ppl).chain(("z1",))
    with pytest.raises(UsageError, match=r"objective\.num_samples: expected 1 with AutoNormal"):
        fit(
            ppl,
            programs=(model, side(ppl).automatic(model)),
            batch_size=N,
            objective=ObjectiveSettings(num_samples=2),
        )


def test_a_model_without_latents_is_maximum_likelihood(ppl: str) -> None:
    fitted = fit(ppl, programs=side(ppl).slope(latent=False))
    assert float(fitted.params["theta"]) == pytest.approx(0.6, rel=1e-5)
    np.testing.assert_array_equal(fitted.history["elbo"], fitted.history["log_likelihood"])
    assert fitted.history["kl"].shape == (3, 0)
