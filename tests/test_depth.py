"""What the benchmarks of deep hierarchies say is what they measure: closed forms, and tiny runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from zoo import PPLS, room, side

from benchmarks import compile_time, proposition_2, sharpness
from ppl_vae import cli
from ppl_vae.errors import UsageError
from ppl_vae.runs import load
from ppl_vae.stages import Pyramid, read_stages


def test_the_truth_of_proposition_2() -> None:
    """Its density sums to one; the gap of one Normal is a mean over draws; two reach further."""
    truth = proposition_2.Mixture()
    axis, log_density = truth.on_grid(400)
    assert np.exp(log_density).sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-6)
    z = truth.sample(40_000, seed=0)
    variance = truth.covariance.diagonal() + truth.centres.var(0)
    normal = -0.5 * (z**2 / variance + np.log(2 * np.pi * variance)).sum(1)
    gap = truth.log_prob(z) - normal
    found = proposition_2.smallest_gaps(400)
    assert gap.mean() == pytest.approx(found["1"], abs=4 * gap.std() / 200)
    assert 0 < found["2"] < found["1"]


@pytest.mark.parametrize("ppl", PPLS)
def test_three_layers_by_hand_are_the_mixture(ppl: str) -> None:
    """Sigmoids that steep are steps: the sum over five values of the top number is the density."""
    truth = proposition_2.Mixture()
    z = truth.sample(6, seed=1)
    top = norm.ppf(np.arange(0.1, 1, 0.2))  # in the middle of each step
    with side("numpyro").precision("float64"):
        model, guide = proposition_2.pair(ppl, 3, hidden=4)
        side(ppl).double(model, guide)
        weights = {**room(ppl).state(model, guide), **proposition_2.by_hand(1000.0)}
        room(ppl).load_state(model, guide, weights)
        latents = {
            "z3": np.tile(top[:, None, None], (1, 6, 1)),
            "z2": np.tile(z[:, :1], (5, 1, 1)),
            "z1": np.tile(z[:, 1:], (5, 1, 1)),
        }
        found = room(ppl).log_densities(model, guide, z.reshape(6, 1, 1, 2), latents)
    below = np.asarray(found["log_prior"]["z2"]) + np.asarray(found["log_prior"]["z1"])
    np.testing.assert_allclose(
        np.logaddexp.reduce(below, axis=0) - np.log(5), truth.log_prob(z), rtol=1e-9
    )


def test_steeper_by_hand_is_nearer() -> None:
    gentle, steep = (proposition_2.gap_by_hand(steepness, points=60) for steepness in (5, 500))
    assert 0 < steep < 0.02 < gentle


@pytest.mark.parametrize("ppl", PPLS)
def test_proposition_2_goes_on_where_it_stopped(
    ppl: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figure = tmp_path / "found.json", tmp_path / "found.png"
    argv = ["--layers", "3", "--draws", "1024", "--epochs", "1", "--samples", "2", "--points", "4"]
    argv += ["--seeds", "1", "--ppl", ppl, "--out", str(out), "--figure", str(figure)]
    proposition_2.main(argv)
    told, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert told["fits"][ppl]["3"]["0"]["steps"] == 2
    assert figure.stat().st_size > 1000
    stamp = out.stat().st_mtime_ns
    proposition_2.main(argv)  # nothing to train
    assert (out.stat().st_mtime_ns, capsys.readouterr().out) == (stamp, printed)


def test_compile_time_of_so_many_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for groups in (4, 10, 45, 75):
        stages = read_stages(compile_time.decoder(groups), "decoder")
        assert len(Pyramid((1, 16, 16), stages, 8).places) == groups
    monkeypatch.setattr(compile_time, "decoder", lambda groups: "1,16m1")  # XLA is at it for long
    found = compile_time.measure(2)
    assert 0 < found["xla"] <= found["wall"]
    out = tmp_path / "found.json"
    out.write_text(json.dumps({"groups": {"4": {"first": found, "cached": found}}}))
    compile_time.main(["--groups", "4", "--out", str(out)])  # stands there: no process is started
    assert json.loads(out.read_text())["groups"]["4"]["first"] == found


def test_sharpness_of_a_study_s_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Layer by layer the norm that numpy finds in the run's own weights."""
    tiny = ["model.init_args.channels=2", "training.epochs=1", "training.batch_size=1500"]
    for name, weight in (("with", 1e-2), ("without", 0)):
        changes = [*tiny, f"objective.spectral_weight={weight}"]
        argv = ["train", "nvae-digits", "--out", str(tmp_path / "runs" / name / "seed-0")]
        assert cli.main([*argv, *(part for one in changes for part in ("--set", one))]) == 0
    out, figure = tmp_path / "found.json", tmp_path / "found.png"
    argv = [str(tmp_path / "runs"), "--out", str(out), "--figure", str(figure), "--members"]
    sharpness.main([*argv, "with", "without"])
    found = json.loads(out.read_text())["with"]["seed-0"]["after"]
    model, _ = load(tmp_path / "runs" / "with" / "seed-0")
    layers = {f"model.{name}": layer for name, layer in model.named_modules()}
    plain = [
        name for name in found if name in layers and not hasattr(layers[name], "effective_weight")
    ]
    assert plain
    for name in plain:
        weight = layers[name].weight.detach().numpy()
        largest = np.linalg.svd(weight.reshape(len(weight), -1), compute_uv=False)[0]
        assert found[name] == pytest.approx(largest, rel=1e-4)
    assert figure.stat().st_size > 1000
    with pytest.raises(UsageError, match=r"no run of 'none' in .*: it has with, without"):
        sharpness.main([*argv, "with", "none"])
