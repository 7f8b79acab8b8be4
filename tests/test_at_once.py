"""Several runs trained at once: each ends where it would have ended alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import test_studies
import torch

from ppl_vae import experiment, studies, studying
from ppl_vae.data import Images
from ppl_vae.errors import UsageError
from ppl_vae.recipes import Recipe
from ppl_vae.runs import Run


def test_a_study_of_several_runs_at_once(
    ppl: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds of a member, in NumPyro one of another too: weights and history as one by one."""
    if ppl == "pyro":
        monkeypatch.setattr("ppl_vae.pyro.at_once.get_context", lambda _: processes.FORKS)
    else:
        mapped, together = [], []
        from ppl_vae.numpyro import at_once

        asked = at_once._mapped

        def counted(trainers: Any) -> Any:
            mapped.append(len(trainers))
            program, shared = asked(trainers)
            return at_once._Mapped(lambda *of: together.append(len(of[0])) or program(*of), shared)

        monkeypatch.setattr(at_once, "_mapped", counted)
    torch.set_num_threads(1)  # as a process of several has; other counts give other bits
    settings = {**test_studies.STUDY["set"], "training.epochs": 2, "objective.warmup_epochs": 2}
    settings["training.checkpoint_steps"] = 6  # of eleven: parts of six and of five
    study = studies.read(test_studies.written(tmp_path, set=settings, seeds=[3, 4]))
    clock, exact = studying._Clock(None), ppl == "pyro"
    runs = study.runs()[: 2 if exact else 3]
    monkeypatch.setattr(experiment, "_draw", lambda *_: None)  # figures take longer than training
    one_by_one = [studying._trained([one], tmp_path / "1", ppl, "", clock)[0] for one in runs]
    at_once = studying._trained(runs, tmp_path / "3", ppl, "", clock)
    for one, other in zip(one_by_one, at_once, strict=True):
        assert isinstance(one, Run)
        assert isinstance(other, Run)
        for name in ("elbo", "kl", "grad_norm", "epoch"):
            theirs, mine = one.history[name].values, other.history[name].values
            np.testing.assert_allclose(mine, theirs, rtol=0 if exact else 1e-4)
        weights = one.weights("last")[0]
        for name, array in other.weights("last")[0].items():
            np.testing.assert_allclose(array, weights[name], rtol=0, atol=0 if exact else 1e-5)
    first, second = (run.weights()[0] for run in at_once[:2])
    assert any((first[name] != second[name]).any() for name in first)
    if not exact:  # the third was alone of its kind; two epochs of two parts
        assert mapped == [2]
        assert together == [2] * 4


TINY = {
    "name": "tiny",
    "data": {"name": "digits"},
    "model": {"class_path": "VAE", "init_args": {"latent": 2, "hidden": [4]}},
    "guide": {"class_path": "MeanFieldGuide"},
}


def steps_of(images: Any, epochs: int, seed: int, learning_rate: float = 1e-3) -> int:
    """Trained in NumPyro."""
    from ppl_vae.numpyro import build, fit

    pair = build(Recipe.from_dict(TINY), images.shape[1:])
    data, settings = Images(images, None, "dynamic"), {"batch_size": 8, "progress": False}
    history = fit(
        *pair, data, epochs=epochs, seed=seed, learning_rate=learning_rate, **settings
    ).history
    return history.sizes["step"]


def test_some_end_before_others() -> None:
    """Unlike numbers of epochs, images of their own, and a run that fails."""
    from ppl_vae.numpyro import together

    images = np.random.default_rng(0).integers(0, 256, (3, 16, 1, 6, 6)).astype(np.uint8)
    ended: list[int] = []

    def job(i: int, epochs: int, learning_rate: float = 1e-3) -> None:
        ended.append(steps_of(images[i], epochs, i, learning_rate))

    jobs = [partial(job, 0, 3), partial(job, 1, 2, -1.0), partial(job, 2, 1)]
    with pytest.raises(UsageError, match="learning_rate"):
        together(jobs, "aaa")
    assert ended == [1, 3]
