"""What the benchmarks of deep hierarchies say is what they measure: closed forms, and tiny runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compile_time, proposition_2, sharpness
from ppl_vae import cli
from ppl_vae.errors import UsageError
from ppl_vae.runs import load
from ppl_vae.stages import Pyramid, read_stages


def test_the_truth_of_proposition_2() -> None:
    """Its density sums to one; entropy and the gap of one Normal are means over draws of it."""
    truth = proposition_2.Mixture()
    axis = np.linspace(-0.2, 1.2, 701)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    assert np.exp(truth.log_prob(grid)).sum() * 0.002**2 == pytest.approx(1, abs=1e-4)
    z = truth.sample(40_000, seed=0)
    log_prob = truth.log_prob(z)
    normal = -0.5 * ((z - 0.5) ** 2 / z.var(0) + np.log(2 * np.pi * z.var(0))).sum(1)
    for found, expected in (
        (-log_prob, truth.entropy()),
        (log_prob - normal, truth.gap_of_normal(independent=True)),
    ):
        assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 200)


def test_proposition_2_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figure = tmp_path / "found.json", tmp_path / "found.png"
    argv = ["--depths", "1", "--draws", "512", "--epochs", "1", "--samples", "2", "--points", "4"]
    argv += ["--seeds", "1", "--out", str(out), "--figure", str(figure)]
    proposition_2.main(argv)
    told, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert told["fits"]["1"]["0"]["steps"] == 2
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
