"""The command line, run in this process: every verb, in both PPLs, from data to pictures."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from PIL import Image

import ppl_vae
from ppl_vae import cli, commands, recipes

TINY = (
    "--set", "model.init_args={latents: [3, 2], hidden: [16, 8], layers: 1}",
    "--set", "training.epochs=2",
    "--set", "data.valid=100",
)  # fmt: skip
JSON_KEYS = {
    "nll", "nll_se", "elbo", "num_samples", "num_images", "bits_per_dim", "kl", "active_units",
    "pareto_k_bad", "data", "binarisation", "split",
}  # fmt: skip

Ppl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Ppl:
    """Run the command line: (exit status, standard output, standard error)."""

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a ladder of two epochs, trained once for each PPL."""
    folder = tmp_path_factory.mktemp("runs")

    def run(ppl: str) -> Path:
        path = folder / ppl
        if not path.exists():
            argv = ["train", "lvae-digits", "--ppl", ppl, "--out", str(path), *TINY]
            assert cli.main(argv) == 0
        return path

    return run


def test_list_names_all_there_is(call: Ppl) -> None:
    status, out, err = call("list")
    assert (status, err) == (0, "")
    for name in (*recipes.names(), "mnist", "HierarchicalVAE", "LadderGuide"):
        assert name in out


@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["train", "--help"]])
def test_help_and_version(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 0
    assert "ppl-vae" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["list"], ["train", "--help"]])
def test_answers_at_once_from_anywhere(argv: list[str], root: Path, tmp_path: Path) -> None:
    """Another folder, another process, and neither torch nor JAX imported."""
    code = (
        f"import sys; sys.path.append({str(root)!r})\n"
        "from ppl_vae.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'jax', 'pyro', 'numpyro', 'matplotlib'} & set(sys.modules)\n"
    )
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert time.perf_counter() - begun < 5  # about half a second on an idle machine


def test_train_fills_the_run_s_folder(trained: Callable[[str], Path], ppl: str) -> None:
    run = trained(ppl)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["training"]["epochs"] == 2
    assert recipe["model"]["init_args"]["latents"] == [3, 2]
    assert recipes.Recipe.from_dict(recipe).to_dict() == recipe
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert about["ppl"] == ppl
    assert about["x_shape"] == [1, 8, 8]
    assert "numpy" in about["versions"]
    history = xr.load_dataset(run / "history.nc", engine="h5netcdf")
    assert history["epoch"].values.tolist() == [1, 2]
    assert "valid_elbo" in history
    assert (run / "checkpoints" / "last").is_file()


def test_train_draws_every_figure(trained: Callable[[str], Path], ppl: str) -> None:
    figures = trained(ppl) / "figures"
    for name in (
        "learning_curves", "kl_by_site", "posterior_range", "reconstructions",
        "samples_and_nearest", "samples_over_time",
    ):  # fmt: skip
        with Image.open(figures / f"{name}.png") as picture:
            assert min(picture.size) > 50


def test_evaluate_gives_json_last(call: Ppl, trained: Callable[[str], Path], ppl: str) -> None:
    run = trained(ppl)
    status, out, err = call("evaluate", run, "--samples", 30, "--images", 40, "--json")
    assert status == 0, err
    told = json.loads(out.splitlines()[-1])
    assert told.keys() >= JSON_KEYS
    assert (told["num_samples"], told["num_images"], told["split"]) == (30, 40, "test")
    assert (told["data"], told["binarisation"]) == ("digits", "dynamic")
    assert list(told["kl"]) == list(told["active_units"]) == ["z1", "z2"]
    assert told["nll"] <= -told["elbo"]
    assert told["bits_per_dim"] == pytest.approx(told["nll"] / (64 * np.log(2)))
    assert json.loads((run / "evaluation.json").read_text(encoding="utf-8")) == told
    kept = xr.load_dataset(run / "evaluation.nc", group="likelihood", engine="h5netcdf")
    assert kept.sizes["image"] == 40
    assert float(kept["nll"].mean()) == pytest.approx(told["nll"])


def test_evaluate_in_the_other_ppl_agrees(call: Ppl, trained: Callable[[str], Path]) -> None:
    """Divergences of one set of weights; the draws differ, so by their standard error."""
    run = trained("pyro")
    told = {}
    for ppl in ("pyro", "numpyro"):
        status, out, err = call("evaluate", run, "--ppl", ppl, "--samples", 50, "--json")
        assert status == 0, err
        told[ppl] = json.loads(out)
        assert told[ppl]["ppl"] == ppl
    difference = told["pyro"]["nll"] - told["numpyro"]["nll"]
    assert abs(difference) < 5 * told["pyro"]["nll_se"] / np.sqrt(2)


def test_evaluate_prints_a_table(call: Ppl, trained: Callable[[str], Path]) -> None:
    status, out, err = call("evaluate", trained("pyro"), "--samples", 30, "--images", 20)
    assert status == 0, err
    assert "L_30" in out
    assert "figures" in out


@pytest.mark.parametrize("weights", ["best", "last"])
def test_evaluation_says_which_weights(
    call: Ppl, trained: Callable[[str], Path], weights: str
) -> None:
    argv = ("--samples", 1, "--images", 2, "--weights", weights, "--json")
    _, out, _ = call("evaluate", trained("pyro"), *argv)
    assert json.loads(out)["weights"] == weights


@pytest.mark.parametrize("batch_norm", ["running", "batch", "recomputed"])
def test_sample(
    call: Ppl, trained: Callable[[str], Path], tmp_path: Path, ppl: str, batch_norm: str
) -> None:
    out = tmp_path / "new" / "draws.npz"
    argv = ("--count", 7, "--temperature", 0.5, "--batch-norm", batch_norm, "--out", out)
    status, told, err = call("sample", trained(ppl), *argv)
    assert status == 0, err
    assert told.strip() == str(out)
    with np.load(out) as draws:
        assert draws["x_mean"].shape == (7, 1, 8, 8)
        assert draws["z1"].shape == (7, 3)


def test_pictures_of_draws(call: Ppl, trained: Callable[[str], Path], ppl: str) -> None:
    run = trained(ppl)
    for verb in ("sample", "reconstruct"):
        status, out, err = call(verb, run, "--count", 5)
        assert status == 0, err
        assert Path(out.strip()).is_relative_to(run / "figures")
        assert Path(out.strip()).suffix == ".png"


def test_reconstruct_gives_numbers(
    call: Ppl, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    status, _, err = call("reconstruct", trained("pyro"), "--count", 5, "--out", tmp_path / "r.npz")
    assert status == 0, err
    with np.load(tmp_path / "r.npz") as found:
        assert found["x"].shape == found["x_mean"].shape == (5, 1, 8, 8)


def test_compare(call: Ppl, trained: Callable[[str], Path], tmp_path: Path) -> None:
    runs = [trained("pyro"), trained("numpyro")]
    for run in runs:
        assert call("evaluate", run, "--samples", 30, "--images", 20)[0] == 0
    status, out, err = call("compare", *runs, "--out", tmp_path / "figures")
    assert status == 0, err
    assert "pyro" in out
    assert "numpyro" in out
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"likelihoods.png", "curves.png"}
    status, below, _ = call("compare", runs[0].parent, "--markdown")
    assert status == 0
    assert "| " in below


def test_resume_takes_more_epochs(call: Ppl, trained: Callable[[str], Path], ppl: str) -> None:
    run = trained(ppl)
    status, out, err = call("train", "--out", run, "--resume", "--set", "training.epochs=3")
    assert status == 0, err
    assert "3 epochs" in out
    history = xr.load_dataset(run / "history.nc", engine="h5netcdf")
    assert history["epoch"].values.tolist() == [1, 2, 3]
    status, out, err = call("train", "--out", run, "--resume")  # nothing is left to do
    assert status == 0, err
    assert "3 epochs" in out


def test_sweep_makes_a_folder_of_runs(call: Ppl, tmp_path: Path) -> None:
    argv = ("vae-digits", "--out", tmp_path / "s", "--set", "training.epochs=1")
    sweep = ("--sweep", "training.seed=0,1", "--sweep", "model.init_args.hidden=[8]")
    status, out, err = call("train", *argv, *sweep)
    assert status == 0, err
    names = {path.name for path in (tmp_path / "s").iterdir()}
    assert names == {f"training.seed={seed},model.init_args.hidden=[8]" for seed in (0, 1)}
    assert len(out.splitlines()) == 2
    status, out, err = call("train", *argv, *sweep, "--resume")
    assert status == 0, err


def test_user_s_own_classes(
    call: Ppl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ppl: str
) -> None:
    module = f"users_{ppl}"
    (tmp_path / f"{module}.py").write_text(
        f"from models.{ppl} import VAE\n"
        f"from guides.{ppl} import MeanFieldGuide\n"
        "class Small(VAE):\n"
        "    def __init__(self, x_shape, width: int = 4, **kwargs):\n"
        "        super().__init__(x_shape, latent=2, hidden=(width,), **kwargs)\n"
        "class Mine(MeanFieldGuide): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    argv = ("--set", f"model={{class_path: {module}.Small, init_args: {{width: 5}}}}")
    argv += ("--set", f"guide={module}.Mine", "--set", "training.epochs=1")
    status, _, err = call("train", "vae-digits", "--ppl", ppl, "--out", "run", *argv)
    assert status == 0, err
    model, guide = ppl_vae.load("run")
    assert (type(model).__name__, type(guide).__name__) == ("Small", "Mine")


def test_interruption_says_how_to_go_on(
    call: Ppl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ppl_vae.pyro.fit", interrupted)
    status, _, err = call("train", "vae-digits", "--out", tmp_path / "run")
    assert status == 130
    assert err == (
        f"ppl-vae: stopped; ppl-vae train --out {tmp_path / 'run'} --resume goes on from the last "
        "checkpoint\n"
    )


def test_bug_keeps_its_traceback(call: Ppl, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "list_known", broken)
    with pytest.raises(ZeroDivisionError):
        call("list")
