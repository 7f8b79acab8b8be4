"""Several processes (torchrun's, gloo) and several devices (JAX's) compute what one computes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import many_devices
import numpy as np
import processes
import pytest

from benchmarks import killed
from evaluation import importance_weighted_nll
from ppl_vae import cli, launch
from ppl_vae.runs import Run

HERE = Path(__file__).parent
DEVICES = {"pyro": 2, "numpyro": 8}
PATHS = {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}


class Ended(NamedTuple):
    """How a process ended, and what it said on standard error."""

    status: int | None
    said: str


def start(ppl: str, tasks: str, out: Path) -> list[Ended]:
    """The script on many devices: two processes, or one with eight devices."""
    own: list[dict[str, str]]
    if ppl == "pyro":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = [{**shared, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(2)]
    else:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
        own = [{"XLA_FLAGS": flags.strip()}]
    logs = [out / f"{tasks[-7:]}-{i}.log" for i in range(len(own))]
    running = [
        processes.started(many_devices.begin, env, log, ppl, tasks, str(out))
        for env, log in zip(own, logs, strict=True)
    ]
    for process in running:
        process.join(timeout=300)
    return [Ended(p.exitcode, log.read_text()) for p, log in zip(running, logs, strict=True)]


class Found(NamedTuple):
    """Folders of what one device found and of what many found; how the many ended, leader first."""

    one: Path
    many: Path
    ended: list[Ended]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Found]:
    """{ppl: what there is to compare}; the many end with the leader's death."""
    made: dict[str, Found] = {}

    def folders(ppl: str) -> Found:
        if ppl not in made:
            one, many = (tmp_path_factory.mktemp(f"{ppl}-{kind}") for kind in ("one", "many"))
            many_devices.first_step(ppl, one)
            many_devices.weights(ppl, one)
            many_devices.plain(ppl, one)
            tasks = "weights,first_step,refused,whole,begun,stopped,plain,killed"
            ended = start(ppl, tasks, many)
            assert (many / "killed").exists(), ended[0].said
            made[ppl] = Found(one, many, ended)
        return made[ppl]

    return folders


def arrays(run: Path) -> dict[str, np.ndarray]:
    checkpoint = Run.open(run).restore()
    assert checkpoint is not None
    files = checkpoint.files.items()
    return {f"{file}/{name}": value for file, held in files for name, value in held.items()}


CELLS = [(ppl, name) for name, trial in many_devices.TRIALS.items() for ppl in trial.ppls]


@pytest.mark.parametrize(("ppl", "name"), CELLS)
def test_gradients_are_those_of_one_device(ppl: str, name: str, found: Any) -> None:
    """Adam's first moment after one step is (1 - β1) times the gradient."""
    one, many = (arrays(folder / name) for folder in found(ppl)[:2])
    assert one.keys() == many.keys()
    moments = [k for k in one if "exp_avg" in k and "sq" not in k] or [k for k in one if "mu" in k]
    largest = max(np.abs(one[key]).max() for key in moments)
    assert largest > 0
    floor = 1e-2 if one[moments[0]].dtype == np.float32 else 1e-5
    for key in moments:  # what stands before batch norm may have no gradient but round-off
        scale = np.abs(one[key]).max() + floor * largest
        assert np.abs(one[key] - many[key]).max() <= 1e-5 * scale, key
    for key in one:  # batch norm's statistics, codebooks, the random stream
        if "running" in key or "random" in key:
            np.testing.assert_allclose(many[key], one[key], rtol=1e-5, atol=1e-6, err_msg=key)
    histories = [Run.open(folder / name).history for folder in found(ppl)[:2]]
    for part in ("loss", "elbo", "kl", "valid_elbo", "valid_kl", "grad_norm"):
        values = [h[part].values for h in histories]  # atol in nats, for sites with next to none
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-9, err_msg=part)


def test_likelihoods_are_those_of_one_device(ppl: str, found: Any) -> None:
    """Seven images over two processes or eight devices: each counts once."""
    one, many = (np.load(folder / "weights.npz") for folder in found(ppl)[:2])
    for name in one.files:
        assert many[name].shape == one[name].shape
        np.testing.assert_allclose(many[name], one[name], rtol=1e-5, err_msg=name)
        nll = [importance_weighted_nll(w)["nll"].values for w in (one[name], many[name])]
        np.testing.assert_allclose(*nll, rtol=1e-5, err_msg=name)


def test_more_devices_than_images_are_refused(ppl: str, found: Any) -> None:
    message = json.loads((found(ppl).many / "refused.json").read_text())
    assert f"an image for each of {DEVICES[ppl]}" in message


def test_killed_run_ends_where_the_uninterrupted_one_does(ppl: str, found: Any) -> None:
    """The leader is killed in the second epoch; the other process says so in one line."""
    _, folder, (leader, *others) = found(ppl)
    assert leader.status == -signal.SIGKILL
    stopped = Run.open(folder / "killed").restore()
    assert stopped is not None
    assert stopped.info["epoch"] == 1
    for other in others:
        lines = [line for line in other.said.splitlines() if line.startswith("ppl-vae: error:")]
        assert other.status == 2
        assert len(lines) == 1
        assert "another has gone" in lines[0]
        assert "Traceback" not in other.said
    for process in start(ppl, "resumed", folder):
        assert process.status == 0, process.said
    one, two = (arrays(folder / name) for name in ("whole", "killed"))
    assert one.keys() == two.keys()
    assert not [key for key in one if not np.array_equal(one[key], two[key])]


def test_a_shared_out_optimizer_is_shared_out(ppl: str, found: Any) -> None:
    """Moments (in NumPyro averaged weights too) by device: little more than its part of them."""
    own, whole = json.loads((found(ppl).many / "held.json").read_text())
    assert 0 < own < 1.5 * whole / DEVICES[ppl]


def test_a_shared_out_optimizer_goes_on_alone(found: Any) -> None:
    """An epoch on two processes and one on one: as both on one, to rounding."""
    one, many, _ = found("pyro")
    for epochs, folder in ((1, one), (2, one), (2, many)):
        many_devices.begun("pyro", folder, epochs)
    alone, moved = (arrays(folder / "begun") for folder in (one, many))
    assert alone.keys() == moved.keys()
    for name in alone:
        np.testing.assert_allclose(moved[name], alone[name], 1e-6, 1e-8, err_msg=name)


def test_all_stop_where_the_leader_does(ppl: str, found: Any) -> None:
    folder = found(ppl).many
    processes = 2 if ppl == "pyro" else 1
    assert len(list(folder.glob("stopped-*"))) == processes
    kept = Run.open(folder / "stopped").restore()
    assert kept is not None
    assert kept.info["epoch"] == 1


def test_plain_functions_weights_are_those_of_one_process(found: Any) -> None:
    one, many = (arrays(folder / "plain") for folder in found("pyro")[:2])
    assert {"weights/params.w", "weights/params.v"} <= one.keys()
    for name in one:
        np.testing.assert_allclose(many[name], one[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_who_is_done_first_waits_for_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX by itself ends all processes when one has waited for five minutes to leave."""
    import jax

    from ppl_vae.numpyro import ranks

    asked: dict[str, Any] = {}
    for name, value in {**JAX, "JAX_PROCESS_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **given: asked.update(given))
    ranks.join()
    assert asked["shutdown_timeout_seconds"] >= 24 * 3600


TRAINS = """
import sys
import numpy as np
from ppl_vae.runs import Checkpoint, Run
path, epochs, noise = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
new = not (Run(path).path / "run.json").exists()
run = Run.create(path, {}, "pyro") if new else Run.open(path)
begun = 0 if run.last is None else run.restore().info["epoch"]
for epoch in range(begun + 1, epochs + 1):
    w = np.full(3, epoch + noise * begun)
    run.save(Checkpoint({"weights": {"w": w}}, {"epoch": epoch}))
"""


@pytest.mark.parametrize(("noise", "status"), [(0.0, 0), (1.0, 1)])
def test_kills_are_counted_and_compared(
    noise: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training that forgets where it stood is found out; the script's own training is slow."""

    def begin(ppl: str, path: Path, epochs: int) -> list[subprocess.Popen[str]]:
        argv = [sys.executable, "-c", TRAINS, str(path), str(epochs), str(noise)]
        return [
            subprocess.Popen(argv, env={**os.environ, **PATHS}, text=True, stderr=subprocess.PIPE)
        ]

    late = SimpleNamespace(random=lambda: 1.0, uniform=lambda *_: 0.0, choice=lambda some: some[0])
    monkeypatch.setattr(killed, "_start", begin)
    monkeypatch.setattr(killed, "random", SimpleNamespace(Random=lambda _: late))
    out = tmp_path / "killed.json"
    argv = ["--ppl", "pyro", "--kills", "1", "--epochs", "60", "--out", str(out)]
    assert killed.main(argv) == status
    (row,) = json.loads(out.read_text())["rows"]
    assert row["kills"] == 1
    assert row["different"] == (["weights/w"] if status else [])


FULL = {
    "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
}  # fmt: skip
JAX = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environment", "argv", "message"),
    [
        ({"WORLD_SIZE": "2"}, "train vae-digits", "WORLD_SIZE is set but not RANK, LOCAL_RANK"),
        ({**FULL, "RANK": "2"}, "train vae-digits", "process number: expected 0 to 1, came 2"),
        ({**FULL, "RANK": "x"}, "train vae-digits", "RANK: expected a whole number, came 'x'"),
        (FULL, "train vae-digits --set training.backend=nccl", "no 'nccl' for cpu here"),
        (FULL, "train vae-digits --ppl numpyro", "training.devices=all"),
        (FULL, "sample run", "expected one process, came 2"),
        ({"JAX_NUM_PROCESSES": "2"}, "train vae-digits --ppl numpyro", "not JAX_COORDINATOR_ADDR"),
        (JAX, "train vae-digits", "whose processes are torchrun's"),
        (
            JAX,
            "train vae-digits --ppl numpyro --set training.backend=gloo",
            "training.backend: expected null",
        ),
    ],
)
def test_what_a_launcher_gets_wrong_is_one_line(
    environment: dict[str, str],
    argv: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    argv = f"{argv} --set training.device=cpu" if "train" in argv else argv
    assert cli.main(argv.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_one_process_is_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launch.by_torchrun() is None


@pytest.mark.parametrize(("total", "count"), [(7, 3), (2, 2), (1, 2), (10, 8)])
def test_shares_are_the_batch(total: int, count: int) -> None:
    from ppl_vae.pyro.sharing import Share

    shares = [Share(total, rank, count) for rank in range(count)]
    rows = [row for share in shares if share.size for row in range(*share.rows.indices(total))]
    assert rows == list(range(total))
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert all(share.rows.stop > share.rows.start for share in shares)  # each takes part


def test_a_share_draws_its_rows_of_what_one_process_draws() -> None:
    """Whatever draws, also for several rows an image, and batches written out several times."""
    import torch

    from ppl_vae.pyro.sharing import Share

    p = torch.linspace(0.1, 0.9, 30).reshape(10, 3)
    draws: dict[str, Callable[[Any], Any]] = {
        "normal_": lambda p: torch.empty_like(p).normal_(),
        "uniform_": lambda p: torch.empty_like(p).uniform_(-1, 2),
        "exponential_": lambda p: torch.empty_like(p).exponential_(),
        "bernoulli_": lambda p: torch.empty_like(p).bernoulli_(p),
        "bernoulli": torch.bernoulli,
        "normal": lambda p: torch.normal(p, 2 * p),
        "multinomial": lambda p: torch.multinomial(p, 1),
        "rand": lambda p: torch.rand(len(p), 2),
        "randn": lambda p: torch.randn((len(p), 2), dtype=torch.float64),
        "randint": lambda p: torch.randint(9, (len(p),)),
        "randint from": lambda p: torch.randint(3, 9, size=(len(p), 4)),
        "rand_like": torch.rand_like,
        "several rows": lambda p: torch.rand(3 * len(p)),
    }
    for name, draw in draws.items():
        torch.manual_seed(0)
        whole = draw(p)
        parts = []
        for rank in range(3):
            share = Share(10, rank, 3)
            torch.manual_seed(0)
            with share.own().drawing():
                parts.append(draw(p[share.rows]))
            after = torch.rand(1)
        torch.manual_seed(0)
        draw(p)
        assert torch.equal(torch.cat(parts), whole), name
        assert torch.equal(torch.rand(1), after), name  # and the streams stay together
    torch.manual_seed(0)
    whole = torch.rand(20, 3)
    torch.manual_seed(0)
    share = Share(10, 1, 3)
    with share.own(repeats=2).drawing():
        part = torch.rand(2 * share.size, 3)
    assert torch.equal(part, whole.reshape(2, 10, 3)[:, share.rows].reshape(-1, 3))
