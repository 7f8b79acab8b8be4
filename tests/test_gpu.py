"""On a GPU, where there is one: the device is found, and computes what the CPU does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_gpu
import numpy as np
import pytest
import train_tiny
from zoo import PAIRS, Case, images, room

from ppl_vae import runs
from ppl_vae.recipes import Recipe
from ppl_vae.study_page import on_gpu

pytestmark = pytest.mark.gpu
TRAINED = [case for case in PAIRS if case.guide in ("mean-field", "nvae", "very-deep", "ladder")]


def devices(ppl: str, pair: Any) -> set[str]:
    """Kinds of device that a pair's weights are on."""
    if ppl == "pyro":
        return {p.device.type for part in pair for p in part.parameters()}
    import jax
    from flax import nnx

    leaves = [leaf for part in pair for leaf in jax.tree.leaves(nnx.state(part))]
    return {device.platform for leaf in leaves for device in leaf.devices()}


GPU = {"pyro": "cuda", "numpyro": "gpu"}


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_fit_takes_the_accelerator(case: Case) -> None:
    pair, x = case.build(), images()
    fitted = room(case.ppl).fit(*pair, x, epochs=2, batch_size=3, progress=False)
    assert np.isfinite(fitted.history["elbo"]).all()
    assert devices(case.ppl, pair) == {GPU[case.ppl]}
    assert np.isfinite(np.asarray(room(case.ppl).log_weights(*pair, x, 4))).all()


def test_it_has_a_name_of_its_own(ppl: str) -> None:
    name = room(ppl).device_name(None)
    assert on_gpu(name)
    assert name.lower() not in ("cuda", "gpu")


def test_a_run_is_loaded_onto_it_and_evaluates_as_on_the_cpu(ppl: str, tmp_path: Path) -> None:
    """Posterior moments draw nothing: the same numbers on both devices."""
    train_tiny.main(ppl, tmp_path / "run", 1)
    run = runs.Run.open(tmp_path / "run")
    pair = runs.load(run)
    assert devices(ppl, pair) == {GPU[ppl]}
    x = images("bernoulli", x_shape=(1, 8, 8))
    found = room(ppl).posterior_moments(*pair, x)["z2"]
    changed = {**run.recipe, "training": {**run.recipe["training"], "device": "cpu"}}
    alone = room(ppl).build(Recipe.from_dict(changed), (1, 8, 8))
    room(ppl).load_state(*alone, run.weights("last")[0])
    if ppl == "pyro":
        assert devices(ppl, alone) == {"cpu"}
    expected = room(ppl).posterior_moments(*alone, x)["z2"]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def trained(name: str, epochs: Any, begun: Any = None, **settings: Any) -> tuple[Any, Any]:
    """(trainer, arrays and tables) after epochs of a trial that can be recorded."""
    import torch
    from test_captured import everything
    from test_captured import trained as tables

    from ppl_vae.pyro.training import _surroundings
    from ppl_vae.settings import TrainingSettings

    with _surroundings(TrainingSettings()):
        trainer = fake_gpu.trainer_of(
            fake_gpu.TRIALS[name], device="cuda", precision="float64", **settings
        )
        if begun is not None:
            trainer.restore(*begun)
        found = {"tables": np.array(tables(trainer, epochs))}
        torch.cuda.synchronize()
        trainer.left = trainer.state()  # outside there are other random streams
        return trainer, {**found, **everything(trainer)}


@pytest.mark.parametrize("name", fake_gpu.TRIALS)
def test_recorded_steps_are_the_plain_ones(name: str) -> None:
    """Eight steps, five of them replayed; float64, the rate alone goes through float32."""
    plain, expected = trained(name, range(4), cuda_graph=False)
    recorded, found = trained(name, range(4), cuda_graph=True)
    assert plain.static is None
    assert recorded.static.graph is not None
    assert found.keys() == expected.keys()
    for key in found:
        np.testing.assert_allclose(found[key], expected[key], 1e-6, 1e-6, err_msg=key)


def test_recorded_steps_are_the_same_twice_and_after_a_checkpoint() -> None:
    _, one = trained("ladder", range(4))
    _, two = trained("ladder", range(4))
    half, _ = trained("ladder", range(2))
    begun = (half.weights(), half.averaged_weights(), *half.left)
    _, more = trained("ladder", range(2, 4), begun)
    for other in (two, more):
        weights = [name for name in one if name != "tables"]
        assert not [name for name in weights if not np.array_equal(one[name], other[name])]
    np.testing.assert_array_equal(one["tables"][2:], more["tables"])


def test_a_step_that_asks_the_host_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on from where it stands, and ends as it would have."""
    from ppl_vae.pyro.trainer import PyroTrainer

    _, expected = trained("ladder", range(4), cuda_graph=False)
    passed = PyroTrainer.passed

    def asking(trainer: Any, x: Any, kl_weight: Any) -> Any:
        found = passed(trainer, x, kl_weight)
        found[0].item()
        return found

    monkeypatch.setattr(PyroTrainer, "passed", asking)
    with pytest.warns(UserWarning, match="training.cuda_graph: steps are not recorded"):
        trainer, found = trained("ladder", range(4))
    assert trainer.static.graph is None
    for key in found:
        np.testing.assert_allclose(found[key], expected[key], 1e-6, 1e-6, err_msg=key)
