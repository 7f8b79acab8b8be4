"""Whatever a user gets wrong ends in one line that says what to do, exit status 2, nothing lost."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save

from ppl_vae import cli, runs
from ppl_vae.checks import check_masks_taken
from ppl_vae.data import Images
from ppl_vae.errors import UsageError, nearest
from ppl_vae.recipes import RECIPES

TINY = (
    "--set", "model.init_args={latents: [3, 2], hidden: [8, 4], layers: 1, batch_norm: false}",
    "--set", "training.epochs=2",
)  # fmt: skip

Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run the command line, which must end in one line on standard error; that line."""

    def run(*argv: object, progress: bool = False) -> str:
        capsys.readouterr()
        status = cli.main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        assert status == 2, err
        assert out == ""
        *before, line = err.splitlines()
        assert line.startswith("ppl-vae: error: ")
        assert progress or not before, err  # training's bar may stand above
        return line.removeprefix("ppl-vae: error: ")

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ladder, trained once, in Pyro; runs are the same in both PPLs."""
    path = tmp_path_factory.mktemp("runs") / "pyro"
    assert cli.main(["train", "lvae-digits", "--out", str(path), *TINY]) == 0
    return path


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VQ-VAE, trained once, in Pyro."""
    path = tmp_path_factory.mktemp("runs") / "coded"
    small = "model.init_args={codes: 4, code_dim: 2, hidden: [4, 4], blocks: 1}"
    argv = ["--set", small, "--set", "training.epochs=1"]
    assert cli.main(["train", "vqvae-digits", "--out", str(path), *argv]) == 0
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be spoiled."""
    return shutil.copytree(trained, tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but the figures, to see that nothing was lost."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_images(path: Path, images: Any) -> Path:
    np.savez(path, images=np.asarray(images))
    return path


# What was asked for


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("trian",), "invalid choice: 'trian'"),
        (("train",), "expected a recipe, came none: name one"),
        (("train", "lvae-digit"), "did you mean 'lvae-digits'"),
        (("train", "no/such.yaml"), "no/such.yaml: no such file"),
        (("train", "vae-digits", "--ppl", "numpryo"), "invalid choice: 'numpryo'"),
        (("train", "vae-digits", "--sett", "a=1"), "unrecognized arguments: --sett"),
        (("train", "vae-digits", "--set", "training.epoch=3"), "did you mean 'epochs'"),
        (("train", "vae-digits", "--set", "epochs=3"), "did you mean 'training.epochs'"),
        (("train", "vae-digits", "--set", "training.epochs"), "expected key=value"),
        (("train", "vae-digits", "--set", "training.epochs=ten"), "expected int, came 'ten'"),
        (("train", "vae-digits", "--set", "training.epochs=0"), "at least 1, came 0"),
        (("train", "vae-digits", "--set", "training.optimizer=adma"), "unknown 'adma'"),
        (("train", "vae-digits", "--set", "data.name=mnits"), "did you mean 'mnist'"),
        (("train", "vae-digits", "--set", "data.valid=1500"), "valid"),
        (("train", "vae-digits", "--set", "training.betas=[2, 3]"), "at least 0 and below 1"),
        (("train", "vae-digits", "--set", "training.betas=[0.9, .nan]"), "at least 0 and below 1"),
        (("train", "vae-digits", "--set", "training.eps=-1"), "training.eps: expected a finite"),
        (("train", "vae-digits", "--set", "training.weight_decay=-1"), ">= 0, came -1.0"),
        (("train", "vae-digits", "--set", "training.decay_epochs=-5"), "above 0 or null, came -5"),
        (("train", "vae-digits", "--set", "training.final_fraction=-1"), ">= 0, came -1.0"),
        (("train", "vae-digits", "--set", "training.lr_warmup_epochs=-1"), ">= 0, came -1.0"),
        (("train", "vae-digits", "--set", "training.checkpoint_seconds=-1"), ">= 0, came -1.0"),
        (("train", "vae-digits", "--set", "training.learning_rate=.inf"), "finite number above 0"),
        (("train", "vae-digits", "--set", "training.patience=0.5"), "training.patience: expected"),
        (("train", "vae-digits", "--set", "training.threads=0"), "at least 1, came 0"),
        (("train", "vae-digits", "--set", "objective.beta=.inf"), "finite number >= 0, came inf"),
        (("train", "vae-digits", "--set", "objective.beta_norm=.inf"), "finite number >= 0, came"),
        (("train", "vae-digits", "--set", "objective.free_bits=.inf"), "free_bits: expected a fin"),
        (("train", "vae-digits", "--set", "objective.warmup_epochs=.inf"), ">= 0, came inf"),
        (("train", "vae-digits", "--set", "training.backend=foo"), "Known: gloo, nccl, null"),
        (("train", "vae-digits", "--set", "training.seed=-1"), "training.seed: expected a whole"),
        (("train", "vae-digits", "--set", f"training.seed={2**32}"), "0 to 4294967295, came"),
        (("train", "vae-digits", "--set", "data.seed=-1"), "data.seed: expected a whole number"),
        (("train", "vae-digits", "--set", f"data.seed={2**32}"), "data.seed: expected a whole"),
        (("train", "vae-digits", "--sweep", "training.seed"), "expected key=v1,v2"),
        (("train", "vae-digits", "--sweep", "training.seed=0,0"), "came 0 twice: leave one out"),
        (("train", "vae-digits", "--sweep", "training.epochs=1,0"), "at least 1, came 0"),
        (("train", "vae-digits", "--sweep", "guide=MeanFieldGuide,Mine"), "no class 'Mine'"),
        (
            ("train", "vae-digits", "--sweep", "a=0", "--sweep", "a=1"),
            "--sweep a=1: expected each key once",
        ),
        (("study", "depth", "--seeds", "0,0"), "seeds: expected each one once, came 0, 0"),
        (("study", "depth", "--seeds", f"{2**32}"), "training.seed: expected a whole number of"),
        (("study", "depth", "--minutes", "0"), "--minutes: expected a number above 0"),
        (("train", "--resume"), "add --out RUN"),
        (("train", "--resume", "--out", "s", "--sweep", "training.seed=0"), "expected a recipe"),
        (("train", "--resume", "--out", "nowhere"), "nowhere: no run here"),
        (("evaluate", "nowhere"), "nowhere: no run here"),
        (("evaluate", "nowhere", "--samples", "0"), "expected a whole number of at least 1"),
        (("evaluate", "nowhere", "--json"), "nowhere: no run here"),
        (("sample", "nowhere", "--seed", "-1"), "of 0 to 4294967295, came '-1'"),
        (("sample", "nowhere", "--seed", "99999999999999999999"), "--seed: expected a whole"),
        (("sample", "nowhere", "--temperature", "inf"), "above 0 and finite, came inf"),
        (("sample", "nowhere", "--temperature", "z1=nan"), "above 0 and finite, came nan"),
        (("compare", "nowhere"), "nowhere: no run here"),
    ],
)
def test_request(
    fails: Fails,
    argv: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in fails(*argv)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.class_path=LadderVAE", "no class 'LadderVAE'"),
        ("guide=LaderGuide", "did you mean 'LadderGuide'"),
        ("model.class_path=no_such_module.Mine", "no module 'no_such_module'"),
        ("model.init_args.latnet=3", "did you mean 'latent'"),
        ("model.init_args.latent=three", "expected int, came 'three'"),
        ("model.init_args.activation=tahn", "did you mean 'tanh'"),
        ("model.init_args.likelihood=bernouli", "did you mean 'bernoulli'"),
        ("model.init_args.hidden=[]", "hidden: expected"),
        ("model.init_args.hidden=[8, 0]", "hidden: expected widths of at least 1"),
        ("model.init_args.latent=0", "latent: expected a size of at least 1, came 0"),
        ("model.init_args.latent=-1", "latent: expected a size of at least 1, came -1"),
        (
            "model={class_path: HierarchicalVAE, init_args: {latents: [3, 0], hidden: [8, 8]}}",
            "latents: expected sizes of at least 1, came [3, 0]",
        ),
        ("model={class_path: PixelVAE, init_args: {latent: 0}}", "latent: expected a size"),
        (
            "model={class_path: HierarchicalPixelVAE, init_args: {latents: [0, 1]}}",
            "latents: expected sizes of at least 1, came [0, 1]",
        ),
        ("data.masks=[centre]", "masks: expected none for VAE"),
        ("training.device=tpu", "training.device"),
    ],
)
def test_programs(fails: Fails, change: str, message: str, tmp_path: Path, ppl: str) -> None:
    argv = ("vae-digits", "--ppl", ppl, "--out", tmp_path / "run", "--set", change)
    assert message in fails("train", *argv)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["trainng: {}\n", "name: [1\n", "just a sentence\n", ""])
def test_recipe_file(fails: Fails, text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    assert str(path) in fails("train", path, "--out", tmp_path / "run")


def test_guide_of_another_model(
    fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ppl: str
) -> None:
    """The message names the sites on both sides."""
    module = f"users_guide_for_{ppl}"
    (tmp_path / f"{module}.py").write_text(
        f"from models.{ppl} import HierarchicalVAE\n"
        f"from guides.{ppl} import LadderGuide\n"
        "class Wrong(LadderGuide):\n"
        "    def __init__(self, model, **kwargs):\n"
        "        other = HierarchicalVAE(model.x_shape, (4, 3, 2), (8, 8, 8), **kwargs)\n"
        "        super().__init__(other, **kwargs)\n"
    )
    monkeypatch.chdir(tmp_path)
    line = fails("train", "lvae-digits", *TINY, "--ppl", ppl, "--set", f"guide={module}.Wrong")
    assert "guide covers sites z1, z2, z3 but the model has z1, z2" in line
    assert not (tmp_path / "runs" / "lvae-digits").exists()


def test_names_of_a_module_are_its_classes(fails: Fails, tmp_path: Path) -> None:
    change = ("--set", "model.class_path=os.path")
    line = fails("train", "vae-digits", "--out", tmp_path / "run", *change)
    assert "no class 'path' in os" in line
    assert "EX_CONFIG" not in line


def test_long_lists_of_names_are_cut() -> None:
    names = [f"name{i:03}" for i in range(100)]
    assert nearest("other", names).endswith("name010, name011 and 88 more")
    assert "more" not in nearest("other", names[:60])


@pytest.mark.parametrize("verb", ["train", "study"])
def test_a_file_that_is_not_yaml(
    fails: Fails, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").touch()
    assert "bad.py: expected a" in fails(verb, "bad.py")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.py"]


def test_a_class_says_that_it_takes_masks() -> None:
    """By an attribute; what has none is refused images whose masks are drawn anew."""

    class Plain:
        pass

    class Masked:
        takes_masks = True

    images = Images(np.zeros((2, 1, 2, 2), np.uint8))
    holes = images.with_fresh_masks(np.ones((1, 1, 2, 2), np.uint8))
    check_masks_taken(holes, Masked())
    check_masks_taken(images, Plain())
    with pytest.raises(UsageError, match="takes_masks = True"):
        check_masks_taken(holes, Plain())


# Data


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((20, 64), np.uint8), "shape (20, 64)"),
        (np.full((20, 8, 8), np.nan), "nan in image"),
        (np.full((20, 8, 8), 7.0), "in [0, 1]"),
        (np.zeros((0, 8, 8), np.uint8), "at least"),
        (np.zeros((20, 8, 8), np.complex64), "complex64"),
    ],
)
def test_arrays(fails: Fails, images: Any, message: str, tmp_path: Path) -> None:
    path = write_images(tmp_path / "images.npz", images)
    line = fails("train", "vae-digits", "--out", tmp_path / "run", *of_npz(path))
    assert message in line
    assert not (tmp_path / "run").exists()


def of_npz(path: Path) -> tuple[str, ...]:
    return ("--set", f"data={{name: npz, path: {path}, binarization: dynamic}}")


def test_wrong_image_shape_for_the_run(fails: Fails, tmp_path: Path) -> None:
    """The file of images was replaced by one of another size between training and evaluation."""
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8)).astype(np.uint8)
    path = write_images(tmp_path / "images.npz", images)
    argv = ("--out", str(tmp_path / "run"), "--set", "training.epochs=1")
    assert cli.main(["train", "vae-digits", *argv, *of_npz(path)]) == 0
    write_images(path, images[:, :, :6])
    for command in (
        ("evaluate", tmp_path / "run"),
        ("reconstruct", tmp_path / "run"),
        ("train", "--out", tmp_path / "run", "--resume", "--set", "training.epochs=2"),
    ):
        line = fails(*command)
        assert "trained on images of shape (1, 8, 8), but npz has (1, 8, 6) now" in line


def test_grey_images_under_bernoulli(fails: Fails, tmp_path: Path, ppl: str) -> None:
    argv = ("--ppl", ppl, "--out", tmp_path / "run", "--set", "data.binarization=none")
    line = fails("train", "vae-digits", *argv)
    assert "binarization" in line
    assert not (tmp_path / "run").exists()


def test_empty_folder(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    change = f"data={{name: folder, path: {tmp_path / 'empty'}}}"
    line = fails("train", "vae-digits", "--out", tmp_path / "run", "--set", change)
    assert "put images there" in line


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_corrupt_or_half_a_file(fails: Fails, tmp_path: Path, content: bytes | None) -> None:
    path = write_images(tmp_path / "images.npz", np.zeros((20, 8, 8), np.uint8))
    path.write_bytes(path.read_bytes()[:-60] if content is None else content)
    line = fails("train", "vae-digits", "--out", tmp_path / "run", *of_npz(path))
    assert str(path) in line
    assert "write it again" in line


def test_half_downloaded_set(fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file cut short under PPL_VAE_DATA."""
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "data" / "mnist" / f"{part}-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00cut short")
    monkeypatch.setenv("PPL_VAE_DATA", str(tmp_path / "data"))
    line = fails("train", "vae-mnist", "--out", tmp_path / "run")
    assert str(tmp_path / "data" / "mnist") in line


# Runs


def test_folder_that_holds_a_run(fails: Fails, run: Path) -> None:
    before = contents(run)
    line = fails("train", "lvae-digits", *TINY, "--out", run)
    assert "add --resume to go on with it" in line
    assert contents(run) == before


def test_study_into_a_run(fails: Fails, trained: Path) -> None:
    before = contents(trained)
    assert "which holds a run: name another one" in fails("study", "depth", "--out", trained)
    assert contents(trained) == before


def test_sweep_over_a_run_that_is_there(fails: Fails, tmp_path: Path) -> None:
    """The second folder is taken: the first run is not trained either."""
    there = tmp_path / "training.seed=1"
    there.mkdir()
    (there / "run.json").write_text("{}")
    line = fails("train", "vae-digits", "--out", tmp_path, "--sweep", "training.seed=0,1")
    assert "holds a run already" in line
    assert list(tmp_path.iterdir()) == [there]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--set", "training.seed=1"), "training.seed: cannot change with --resume"),
        (("--set", "model.init_args.latents=[2, 2]"), "model.init_args.latents: cannot change"),
        (("vae-digits",), "cannot change with --resume, training.epochs and evaluation alone may"),
        (("--set", "training.epochs=1"), "training.epochs: expected at least 2, which"),
        (("--set", "training.epoch=3"), "did you mean 'epochs'"),
        (("--ppl", "numpyro"), "was begun in pyro"),
    ],
)
def test_resume_with_changes(
    fails: Fails, trained: Path, argv: tuple[str, ...], message: str
) -> None:
    before = contents(trained)
    assert message in fails("train", *argv, "--out", trained, "--resume")
    assert contents(trained) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("evaluate", "--weights", "ema"), "'ema'"),
        (("evaluate", "--images", "298"), "expected 1 to 297, came 298"),
        (("reconstruct", "--count", "298"), "expected 1 to 297, came 298"),
        (("sample", "--temperature", "0"), "temperature: expected above 0"),
        (("inpaint", "0", "--mask", "centre", "--temperature", "nan"), "finite, came nan"),
        (("inpaint", "none.png", "--mask", "centre"), "IMAGE: expected a picture, came none.png"),
        (("inpaint", "0", "--mask", "none.png"), "--mask: expected a picture, came none.png"),
        (("evaluate", "--bound", "ais", "--set", "ais.starts=[]"), "ais.starts: expected guide"),
        (("evaluate", "--bound", "bdmc", "--set", "bdmc.starts=[]"), "bdmc.starts: expected"),
        (("evaluate", "--check", "calibration", "--set", "calibration.level=2"), "level: expected"),
        (("evaluate", "--check", "latents", "--set", "latents.images=1"), "at least 2, came 1"),
        (("evaluate", "--check", "nope"), "Known: ais, bdmc"),
        (("compare", "--published", str(RECIPES / "vae-digits.yaml")), "came a mapping of name, d"),
        (("sample", "--out", "draws.jpg"), "expected a .png or .npz file"),
        (("sample", "--out", "/dev/null/draws.png"), "/dev/null"),
    ],
)
def test_questions_to_a_run(
    fails: Fails, trained: Path, argv: tuple[str, ...], message: str
) -> None:
    verb, *rest = argv
    assert message in fails(verb, trained, *rest)


@pytest.mark.parametrize(
    "argv",
    [
        ("inpaint", "0", "--mask", "half"),
        ("inpaint", "0", "--mask", "half", "--ppl", "numpyro"),
        ("evaluate", "--check", "inpainting"),
        ("evaluate", "--check", "inpainting", "--ppl", "numpyro"),
        ("evaluate", "--check", "nuts"),
        ("evaluate", "--check", "gap"),
        ("evaluate", "--bound", "ais"),
        ("evaluate", "--bound", "bdmc"),
    ],
)
def test_moves_of_codes(fails: Fails, coded: Path, argv: tuple[str, ...]) -> None:
    """Refused before the likelihood is measured: no bar stands above the line."""
    verb, *rest = argv
    assert "site z1 is discrete" in fails(verb, coded, *rest)


def test_chains_under_other_statistics(fails: Fails, trained: Path) -> None:
    argv = ("--check", "inpainting", "--batch-norm", "recomputed")
    assert "batch_norm: expected running for inpainting" in fails("evaluate", trained, *argv)


def test_compare_wants_evaluated_runs(fails: Fails, run: Path) -> None:
    (run / "evaluation.json").unlink(missing_ok=True)
    assert f"ppl-vae evaluate {run}" in fails("compare", run)
    (run / "evaluation.json").write_text('{"nll": 1')
    assert f"ppl-vae evaluate {run}" in fails("compare", run)


def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "optimizer.safetensors", "state.json", "history.nc"]
)
@pytest.mark.parametrize("part", [0.0, 0.5])
def test_truncated_checkpoint(fails: Fails, run: Path, name: str, part: float) -> None:
    path = checkpoint(run) / name
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    before = contents(run / "checkpoints")
    assert name in fails("train", "--out", run, "--resume", "--set", "training.epochs=3")
    assert contents(run / "checkpoints") == before


def test_truncated_weights(fails: Fails, run: Path, ppl: str) -> None:
    path = checkpoint(run) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert path.name in fails("evaluate", run, "--ppl", ppl, "--samples", 2)


def test_foreign_checkpoint(fails: Fails, run: Path, ppl: str) -> None:
    """Weights of another model in this run's folder."""
    path = checkpoint(run) / "weights.safetensors"
    arrays = runs.read_arrays(path)
    evaluate = ("evaluate", run, "--ppl", ppl, "--samples", 2)
    runs.write_atomically(path, save({**arrays, "model.other": np.zeros(3, np.float32)}))
    assert "model.other" in fails(*evaluate)
    name = next(iter(arrays))
    runs.write_atomically(path, save({**arrays, name: np.zeros((2, 2, 2), np.float32)}))
    assert name in fails(*evaluate)


def test_checkpoint_that_is_gone(fails: Fails, run: Path) -> None:
    shutil.rmtree(checkpoint(run))
    assert "checkpoint" in fails("evaluate", run, "--samples", 2)
    assert "checkpoint" in fails("train", "--out", run, "--resume", "--set", "training.epochs=3")


def test_weights_alone_cannot_be_trained_on(fails: Fails, run: Path) -> None:
    """As those that `convert` leaves."""
    (checkpoint(run) / "optimizer.safetensors").unlink()
    before = contents(run)
    line = fails("train", "--out", run, "--resume", "--set", "training.epochs=3")
    assert "expected a run that was trained here, came weights alone" in line
    assert contents(run) == before


def test_run_that_another_process_trains(fails: Fails, run: Path) -> None:
    """The lock goes with the process that has it, even if that is killed."""
    code = f"from ppl_vae.runs import Run; import time\nwith Run({str(run)!r}).at_work():\n"
    code += "    print('there', flush=True)\n    time.sleep(600)"
    before = contents(run)
    more = ("train", "--out", run, "--resume", "--set", "training.epochs=3")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"there\n"
        try:
            assert f"{run}: another process is training this run" in fails(*more)
            assert contents(run) == before
        finally:
            other.kill()
    assert cli.main([str(arg) for arg in more]) == 0
    assert checkpoint(run).name == "epoch-000003"


@pytest.mark.parametrize("name", ["run.json", "recipe.yaml"])
def test_spoiled_run(fails: Fails, run: Path, name: str) -> None:
    (run / name).write_text("{")
    assert name in fails("evaluate", run, "--samples", 2)


def test_full_disk(fails: Fails, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space for the next checkpoint: the last one stays whole, and training goes on from it."""

    def no_space(path: Path, content: bytes) -> None:
        if path.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    write = runs._write
    monkeypatch.setattr(runs, "_write", no_space)
    more = ("train", "--out", run, "--resume", "--set", "training.epochs=3")
    line = fails(*more, progress=True)
    assert "No space left on device: make room and run again" in line
    assert checkpoint(run).name == "epoch-000002"
    monkeypatch.undo()
    assert cli.main([str(arg) for arg in more]) == 0
    assert checkpoint(run).name == "epoch-000003"


def test_nan_in_the_loss(fails: Fails, tmp_path: Path, ppl: str) -> None:
    """A learning rate of 1e30: the message names the site and the step, and says what to change."""
    argv = ("--ppl", ppl, "--out", tmp_path / "run", "--set", "training.learning_rate=1e30")
    line = fails("train", "vae-digits", *argv, progress=True)
    assert "NaN or infinity" in line
    assert "step " in line
    assert "lower training.learning_rate (now 1e+30)" in line
    assert not (tmp_path / "run").exists()


def test_nan_after_a_checkpoint_keeps_it(
    fails: Fails, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["training"]["learning_rate"] = 1e30
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    before = contents(run / "checkpoints")
    argv = ("train", "--out", run, "--resume", "--set", "training.epochs=5")
    line = fails(*argv, progress=True)
    assert "last good checkpoint: epoch-000002" in line
    assert contents(run / "checkpoints") == before
