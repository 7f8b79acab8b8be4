"""Training as a whole: stopping, going on, failing with advice, and what it leaves alone."""

from __future__ import annotations

import importlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import train_tiny
from processes import started
from zoo import X_SHAPE, Case

from ppl_vae import experiment, loop, recipes, runs
from ppl_vae.data import Images
from ppl_vae.data.reading import Joined
from ppl_vae.errors import TrainingError, UsageError
from ppl_vae.recipes import Recipe
from ppl_vae.runs import Checkpoint, Run
from ppl_vae.settings import ObjectiveSettings, TrainingSettings


def room(ppl: str) -> Any:
    return importlib.import_module(f"ppl_vae.{ppl}")


def in_a_process(ppl: str, path: Path, epochs: int) -> None:
    process = started(train_tiny.main, ppl, path, epochs)
    process.join()
    assert process.exitcode == 0


def everything(run: Run) -> dict[str, np.ndarray]:
    """All arrays of a run's last checkpoint: weights, optimiser, random state and all."""
    checkpoint = run.restore()
    assert checkpoint is not None
    return {
        f"{file}/{name}": array
        for file, arrays in checkpoint.files.items()
        for name, array in arrays.items()
    }


def assert_same(first: Run, second: Run) -> None:
    one, two = everything(first), everything(second)
    assert one.keys() == two.keys()
    different = [name for name in one if not np.array_equal(one[name], two[name])]
    assert not different
    kept = ["elbo", "loss", "kl", "valid_elbo", "grad_norm", "posterior_loc"]
    assert first.history[kept].identical(second.history[kept])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """{ppl: a run of 10 epochs at one go}."""
    folder, made = tmp_path_factory.mktemp("uninterrupted"), {}

    def run(ppl: str) -> Run:
        if ppl not in made:
            in_a_process(ppl, folder / ppl, 10)
            made[ppl] = Run.open(folder / ppl)
        return made[ppl]

    return run


def test_resumed_run_ends_where_the_uninterrupted_one_does(
    ppl: str, uninterrupted: Any, tmp_path: Path
) -> None:
    in_a_process(ppl, tmp_path / "run", 5)
    stopped = Run.open(tmp_path / "run").restore()
    assert stopped is not None
    assert stopped.info["epoch"] == 5
    in_a_process(ppl, tmp_path / "run", 10)
    assert_same(Run.open(tmp_path / "run"), uninterrupted(ppl))


def test_killed_run_ends_where_the_uninterrupted_one_does(
    ppl: str, uninterrupted: Any, tmp_path: Path
) -> None:
    """kill -9 within the third epoch, and some moments after a later checkpoint."""
    path = tmp_path / "run"
    process = started(train_tiny.main, ppl, path, 10, train_tiny.Mortal)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = Run(path).last
    assert before is not None
    assert before.name == "epoch-000002.step-000002"
    process = started(train_tiny.main, ppl, path, 10)
    while process.is_alive() and Run(path).last == before:
        time.sleep(0.002)
    time.sleep(random.Random(ppl).uniform(0.0, 0.05))
    process.kill()
    process.join()
    in_a_process(ppl, path, 10)
    assert_same(Run.open(path), uninterrupted(ppl))


def test_run_stopped_within_its_first_epoch_goes_on(
    ppl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint has no history yet."""
    changes = ["training.epochs=1", "training.checkpoint_steps=5", "training.checkpoint_seconds=0"]
    save = Run.save

    def stopping(run: Run, checkpoint: Checkpoint) -> None:
        save(run, checkpoint)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            experiment.begin(recipes.read("vae-digits", changes), ppl, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.last is not None
    assert (run.last.name, run.epochs) == ("epoch-000000.step-000005", 0)
    experiment.go_on(run)
    assert run.epochs == 1


@pytest.mark.parametrize("moment", range(12))
def test_killed_while_writing_keeps_a_whole_checkpoint(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Death at each step of writing leaves the checkpoint before it, or the new one, whole."""
    run = Run.create(tmp_path / "run", {"training": {"seed": 0}}, "pyro")
    old = Checkpoint({"weights": {"a": np.zeros(3)}, "optimizer": {"b": np.ones(2)}}, {"epoch": 1})
    new = Checkpoint({"weights": {"a": np.ones(3)}, "optimizer": {"b": np.zeros(2)}}, {"epoch": 2})
    run.save(old)

    class Killed(BaseException):
        pass

    calls = 0

    def dying(function: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment + 1:
                raise Killed
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_write", dying(runs._write))
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(os, "fsync", dying(os.fsync))
        patch.setattr(Path, "rename", dying(Path.rename))
        patch.setattr(
            runs.shutil, "rmtree", lambda *args, **kwargs: None
        )  # the dead do not tidy up
        died = False
        try:
            run.save(new)
        except Killed:
            died = True
    found = Run.open(run.path).restore()
    assert found is not None
    expected = old if found.info["epoch"] == 1 else new
    for file, arrays in expected.files.items():
        for name, array in arrays.items():
            assert np.array_equal(found.files[file][name], array)
    assert died or found.info["epoch"] == 2
    run.save(new)  # and the next attempt goes through, whatever the first has left behind
    again = run.restore()
    assert again is not None
    assert again.info["epoch"] == 2


@pytest.mark.parametrize("moment", ["read_text", "is_dir", "exists", "read_arrays"])
def test_reader_of_a_run_at_work_gets_a_whole_checkpoint(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint being read is replaced by the next one, at each step of reading."""
    run = Run.create(tmp_path / "run", {"training": {"seed": 0}}, "pyro")
    checkpoints = [Checkpoint({"weights": {"a": np.full(3, i)}}, {"epoch": i}) for i in range(3)]
    run.save(checkpoints[0])
    where = runs if moment == "read_arrays" else Path
    untouched = getattr(where, moment)

    def read(what: Any, epoch: int) -> Any:
        def replaced(*args: Any, **kwargs: Any) -> Any:
            answer = untouched(*args, **kwargs) if where is Path else None
            monkeypatch.undo()
            run.save(checkpoints[epoch])
            return untouched(*args, **kwargs) if where is runs else answer

        monkeypatch.setattr(where, moment, replaced)
        return what()

    restored = read(run.restore, 1)
    assert np.array_equal(restored.files["weights"]["a"], np.full(3, restored.info["epoch"]))
    weights, which = read(run.weights, 2)
    assert which == "last"
    assert weights["a"][0] in (1, 2)
    assert run.last == run.path / "checkpoints" / "epoch-000002"


def test_weights_carry_across(ppl: str, uninterrupted: Any) -> None:
    """A run of one PPL gives the other's posterior moments."""
    other = "numpyro" if ppl == "pyro" else "pyro"
    run = uninterrupted(ppl)
    x = np.random.default_rng(0).integers(0, 2, (5, 1, 8, 8)).astype(np.float32)
    own, theirs = (room(p).posterior_moments(*runs.load(run, p), x)["z2"] for p in (ppl, other))
    for mine, its in zip(own, theirs, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weights", ["best", "last", "ema"])
def test_load_takes_the_weights_asked_for(weights: str, uninterrupted: Any) -> None:
    run = uninterrupted("pyro")
    model, guide = runs.load(run, weights=weights)
    stored, which = run.weights(weights)
    assert which == weights
    for name, array in room("pyro").state(model, guide).items():
        assert np.array_equal(array, stored[name])


def tiny(ppl: str, **settings: Any) -> Any:
    """(model, guide) of the tiny recipe."""
    recipe = {**train_tiny.RECIPE, "training": settings}
    return room(ppl).build(Recipe.from_dict(recipe), (1, 8, 8))


X = np.random.default_rng(0).integers(0, 2, (40, 1, 8, 8)).astype(np.float32)


def quick(ppl: str, pair: Any, x: Any = X, **settings: Any) -> loop.Fit:
    objective = settings.pop("objective", None)
    settings = {"epochs": 2, "batch_size": 20, **settings}
    return room(ppl).fit(*pair, x, objective=objective, progress=False, **settings)


def test_too_many_skips_end_loudly(ppl: str) -> None:
    """Every gradient is above the threshold: nothing moves, and the run says so."""
    pair = tiny(ppl)
    before = room(ppl).state(*pair)
    with pytest.raises(TrainingError, match="3 steps in a row were skipped"):
        quick(ppl, pair, skip_norm=1e-9, max_skips=3)
    after = room(ppl).state(*pair)
    trained = [name for name in before if "running" not in name]
    assert all(np.array_equal(before[name], after[name]) for name in trained)


def test_a_run_that_skips_some_steps_goes_on(ppl: str) -> None:
    """One image in 40 is far out: the one batch of each epoch that holds it is left out."""
    arguments = {"latents": [4, 2], "hidden": [16, 8], "likelihood": "normal"}
    model = {"class_path": "HierarchicalVAE", "init_args": arguments}
    pair = room(ppl).build(Recipe.from_dict({**train_tiny.RECIPE, "model": model}), (1, 8, 8))
    far = X.copy()
    far[11] = 1e6
    history = quick(ppl, pair, x=far, epochs=3, ema=0.5, skip_norm=1e5).history
    assert history["skipped"].values.tolist() == [1, 1, 1]
    assert np.isfinite(history["elbo"].values).all()
    assert all(np.isfinite(array).all() for array in room(ppl).state(*pair).values())


def test_nan_names_site_and_step(ppl: str) -> None:
    with pytest.raises(TrainingError, match=r"NaN or infinity in .*step \d+.*learning_rate"):
        quick(ppl, tiny(ppl), learning_rate=1e30, epochs=4)


def test_nan_in_the_data_is_refused(ppl: str) -> None:
    broken = X.copy()
    broken[7, 0, 3, 3] = np.nan
    with pytest.raises(UsageError, match="NaN or infinity in image 7"):
        quick(ppl, tiny(ppl), x=broken)


def test_grey_images_under_bernoulli_are_refused(ppl: str) -> None:
    with pytest.raises(UsageError, match=r"outside the support of Bernoulli.*binarization"):
        quick(ppl, tiny(ppl), x=X * 0.5)


def test_averaged_weights_follow_their_recursion(ppl: str, tmp_path: Path) -> None:
    """One step at a time: e ← r e + (1 - r) p, beginning with the first weights."""
    pair, decay = tiny(ppl), 0.75
    expected = room(ppl).state(*pair)
    for epochs in (1, 2, 3):
        run = Run(tmp_path / "run")
        if epochs == 1:
            run = Run.create(run.path, train_tiny.RECIPE, ppl)
        again = tiny(ppl)
        room(ppl).fit(
            *again, X, run=run, resume=epochs > 1, progress=False,
            epochs=epochs, batch_size=40, ema=decay,
        )  # fmt: skip
        now = run.weights("last")[0]
        expected = {name: decay * expected[name] + (1 - decay) * now[name] for name in expected}
    averaged = run.weights("ema")[0]
    for name, value in expected.items():
        if "running" not in name:
            np.testing.assert_allclose(averaged[name], value, rtol=1e-4, atol=1e-6)


def test_early_stopping_keeps_the_best_weights() -> None:
    """A validation ELBO that peaks at epoch 3 stops a run of patience 2 after epoch 5."""

    class Peaked:
        sites, steps_per_epoch, batch_size = ("z1",), 1, 1

        def __init__(self) -> None:
            self.epoch = 0

        def run_epoch(self, epoch: int, *_: Any) -> loop.EpochLog:
            self.epoch = epoch + 1
            one = np.ones(1)
            return loop.EpochLog(one, -one, np.ones((1, 1)), one, 0 * one)

        def validate(self) -> Any:
            return -abs(self.epoch - 3.0), np.zeros(1)

        def posterior_range(self) -> None:
            return None

        def weights(self) -> Any:
            return {"w": np.array(self.epoch)}

    settings = TrainingSettings(epochs=50, patience=2)
    history, best = loop.train(
        Peaked(),
        ObjectiveSettings(),
        settings,
        1.0,
        show_progress=False,  # type: ignore[arg-type]
    )
    assert best == 3
    assert history["epoch"].values.tolist() == [1, 2, 3, 4, 5]


def test_fit_leaves_the_surroundings_alone() -> None:
    import torch

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    quick("pyro", tiny("pyro"), threads=1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)


def test_same_seed_same_weights(ppl: str) -> None:
    one, two, other = tiny(ppl), tiny(ppl), tiny(ppl)
    quick(ppl, one, seed=5)
    quick(ppl, two, seed=5)
    quick(ppl, other, seed=6)
    first, second, third = (room(ppl).state(*pair) for pair in (one, two, other))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(not np.array_equal(first[name], third[name]) for name in first)


def test_batch_of_one_needs_no_batch_norm(ppl: str) -> None:
    with pytest.raises(UsageError, match="batch norm needs at least 2"):
        quick(ppl, tiny(ppl), batch_size=1)


def test_devices_that_are_not_there(ppl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two GPUs: by either name and their number, and no third one."""
    if ppl == "pyro":
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    else:
        import jax

        two = {"cpu": ["cpu", "cpu"], "gpu": ["gpu:0", "gpu:1"]}
        monkeypatch.setattr(jax, "local_devices", lambda backend: two[backend])
    device_of = importlib.import_module(f"ppl_vae.{ppl}.optimizers").device_of
    assert str(device_of("cpu")) == "cpu"
    assert str(device_of("cuda:1")) == str(device_of("gpu:1"))
    assert str(device_of("gpu:1")).endswith(":1")
    for name in ("cuda:2", "gpu:7"):
        with pytest.raises(UsageError, match=f"training.device: no '{name}' here: take cpu, "):
            device_of(name)


def test_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'learning_rate'"):
        quick("pyro", tiny("pyro"), learning_rates=1e-3)


def test_mapped_images_train_as_those_in_memory(
    ppl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps and two of five, and of two files: the same batches, draws and weights."""
    grey = np.random.default_rng(0).integers(0, 256, (26, *X_SHAPE)).astype(np.uint8)
    for name, part in (("grey", grey), ("first", grey[:8]), ("second", grey[8:])):
        np.save(tmp_path / f"{name}.npy", part)
    mapped, *two = (
        np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("grey", "first", "second")
    )
    monkeypatch.setattr("ppl_vae.data.reading.PART", 3 * 5 * grey[0].nbytes)
    found = []
    for values in (grey, mapped, Joined(two)):
        pair = Case(ppl, "vae", "mean-field").build()
        train, valid = (Images(part, binarization="dynamic") for part in (values[:25], values[25:]))
        fitted = room(ppl).fit(*pair, train, valid=valid, epochs=2, batch_size=5, progress=False)
        history = {name: fitted.history[name].values for name in ("loss", "valid_elbo", "kl")}
        found.append({**history, **room(ppl).state(*pair)})
    for name, value in found[0].items():
        for other in found[1:]:
            np.testing.assert_array_equal(other[name], value, err_msg=name)
