"""On a GPU, where there is one: the device is found, and computes what the CPU does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import train_tiny
from zoo import PAIRS, Case, images, room

from ppl_vae import runs
from ppl_vae.recipes import Recipe

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
