"""Benchmarks of minutes and hours, run to their end at toy size: what they count and compare."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    convolutions,
    linear_gaussian_bdmc,
    mapped,
    speed,
    top_layers,
)

pytestmark = pytest.mark.slow
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc and page cache")


@linux
def test_mapped_images_train_as_those_in_memory(tmp_path: Path) -> None:
    out = tmp_path / "mapped.json"
    argv = ["--ppl", "pyro", "--gigabytes", "0.01", "--steps", "2", "--turns", "2"]
    mapped.main([*argv, "--folder", str(tmp_path), "--out", str(out)])  # its times are a toy's
    (row,) = json.loads(out.read_text())["rows"]
    assert row["speed"]["different"] == []
    assert row["speed"]["images"] == 8 * mapped.BATCH
    assert 0 < row["memory"]["before_mb"] < row["memory"]["anonymous_mb"]
    assert not list(tmp_path.glob("*/images.npy")), "the file of images was left behind"


@linux
def test_a_folder_in_memory_is_not_cold() -> None:
    import tempfile

    import numpy as np

    from ppl_vae.errors import UsageError

    memory = Path("/dev/shm")
    if not memory.is_dir():
        pytest.skip("no /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        file = Path(folder, "images.npy")
        np.save(file, np.ones(2**20, np.uint8))
        with pytest.raises(UsageError, match="--folder"):
            mapped.drop(file, np.load(file, mmap_mode="r"))


def test_convolutions_learn_the_same(tmp_path: Path) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    weights = [jnp.asarray(0.2 * rng.standard_normal((3, 3, 16, 16)), jnp.float32)] * 4
    batches = jnp.asarray(rng.standard_normal((3, 32, 7, 7, 16)), jnp.float32)
    learned = [
        jax.jit(partial(convolutions._epoch, convolve))(weights, batches)
        for convolve in convolutions.WAYS.values()
    ]
    for one, other, first in zip(*learned, weights, strict=True):
        assert not np.array_equal(one, first)
        np.testing.assert_allclose(one, other, atol=1e-6)
    out = tmp_path / "convolutions.json"
    assert convolutions.main(["--sides", "7", "--repeats", "2", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert set(row["ratios"]) == {
        "zoo, a step at a time", "jax, scanned", "jax, a step at a time",
    }  # fmt: skip


def test_top_layers_go_on_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, names = tmp_path / "top.json", ["as the recipe", "lecun_normal initial weights"]
    names.append("top site merged with its prior")
    asked: list[int] = []

    def measured(variant: Any, epochs: int, seed: int) -> dict[str, Any]:
        asked.append(epochs)
        return measure(variant, epochs, seed)

    measure, variants = top_layers.measure, top_layers.VARIANTS
    monkeypatch.setattr(top_layers, "RECIPE", "lvae-digits")
    monkeypatch.setattr(top_layers, "measure", measured)
    for count in (1, 3):
        monkeypatch.setattr(top_layers, "VARIANTS", {n: variants[n] for n in names[:count]})
        top_layers.main(["--epochs", "1", "--out", str(out)])
    assert asked == [1, 1, 1]  # the first variant once
    found = json.loads(out.read_text())["variants"]
    assert list(found) == names
    assert all(len(each["kl"]) > 1 and each["elbo"] < 0 for each in found.values())
    assert len({each["elbo"] for each in found.values()}) == 3
    assert names[2] in capsys.readouterr().out


@pytest.mark.parametrize("ppl", ["pyro", "numpyro"])
def test_annealing_is_held_against_the_exact_evidence(ppl: str, tmp_path: Path) -> None:
    out = tmp_path / "bdmc.json"
    argv = ["--ppl", ppl, "--points", "5", "--temperatures", "50", "--samples", "2000"]
    linear_gaussian_bdmc.main([*argv, "--out", str(out)])  # may miss what 1,000 temperatures hold
    report = json.loads(out.read_text())
    assert [row["start"] for row in report["annealing"]] == ["prior", "guide"]
    for row in report["annealing"]:  # nats, of five points and few temperatures
        assert row["lower_less_exact"] < 3 * row["lower_se"]
        assert row["upper_less_exact"] > -3 * row["upper_se"]
        assert abs(row["lower_less_exact"]) + abs(row["upper_less_exact"]) < 1
    assert abs(report["ladder"][ppl]["less_exact"]["L_2000"]) < 0.2


def test_numpyro_s_step_is_the_one_by_hand(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    argv = ["--quick", "--device", "cpu", "--ppl", "numpyro", "--family", "ladder"]
    assert speed.main([*argv, "--out", str(out)]) == 0
    found = json.loads(out.read_text())["families"]["ladder"]["numpyro"]
    assert set(found["ways"]) == {"as written", "by hand"}
    assert found["ways"]["as written"]["losses_apart"] < 1e-4


def test_processes_share_the_optimizer_out() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "benchmarks.optimizer_memory", "--ppl", "pyro"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[1] for line in lines] == ["ladder", "very-deep"]  # the leading process alone
    for line in lines:
        assert 0.45 < int(line[2]) / int(line[4]) < 0.55
