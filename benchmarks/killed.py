"""Does a run shared by many devices, killed again and again, end where the uninterrupted one does.

    python -m benchmarks.killed                     # writes benchmarks/results/killed.json
    python -m benchmarks.killed --ppl numpyro --kills 20

The command line trains a small ladder VAE on digits, with a checkpoint after each epoch: in Pyro
two processes, launched as torchrun launches them (gloo); in NumPyro one process with eight devices
that XLA is made to show. One run is left alone. The other is killed (SIGKILL, one of its processes,
drawn) at random moments: three in four within the two epochs after a new checkpoint, one in four
at any moment since its start, imports and compilation included. Each time it is resumed; held where
every array of the last checkpoint (weights, optimiser, averages, random state) is the same, bit for
bit, after as many kills as were asked for. Some minutes on two cores; exit status 1 where it is
not held.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import ended, number, place
from benchmarks.machine import describe
from ppl_vae.runs import Run

RESULTS = Path(__file__).parent / "results" / "killed.json"
PROCESSES, DEVICES = 2, 8
SETTINGS = (
    "model.init_args={latents: [4, 2], hidden: [32, 16], layers: 1, batch_norm: true}",
    "training.batch_size=100",
    "training.checkpoint_seconds=0",
    "training.devices=all",
    "training.device=cpu",
    "training.ema=0.99",
)
PATIENCE = 120.0  # seconds for the others to end, and for a first checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where all arrays are the same, 1 otherwise."""
    options = _options(arguments)
    out: Path | None = options.out
    known = json.loads(out.read_text())["rows"] if out is not None and out.exists() else []
    rows = {row["ppl"]: row for row in known}
    for ppl in options.ppl:
        with tempfile.TemporaryDirectory() as folder:
            found = _one(ppl, Path(folder), options.kills, options.epochs, options.seed)
        rows[ppl] = {"machine": describe(), **found}
        print(_line(found), flush=True)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps({"rows": list(rows.values())}, indent=2) + "\n")
    return 0 if all(rows[ppl]["held"] for ppl in options.ppl) else 1


def _one(ppl: str, folder: Path, kills: int, epochs: int, seed: int) -> dict[str, Any]:
    moments = random.Random(f"{ppl}{seed}")
    _finish(ppl, folder / "whole", epochs)
    struck: list[int] = []  # whole epochs on disk at each kill
    path = folder / "killed"
    while len(struck) < kills:
        if not _kill(ppl, path, epochs, moments):
            break  # at its end before its time: more epochs are needed
        struck.append(_epoch(path))
    _finish(ppl, path, epochs)
    one, two = _arrays(folder / "whole"), _arrays(path)
    both = one.keys() & two.keys()
    different = [name for name in both if not np.array_equal(one[name], two[name])]
    return {
        "ppl": ppl,
        "processes": PROCESSES if ppl == "pyro" else 1,
        "devices": PROCESSES if ppl == "pyro" else DEVICES,
        "epochs": epochs,
        "kills": len(struck),
        "epochs_at_kills": struck,
        "arrays": len(one),
        "different": sorted({*different, *(one.keys() ^ two.keys())}),
        "held": len(struck) == kills and bool(both) and not different and one.keys() == two.keys(),
    }


def _kill(ppl: str, path: Path, epochs: int, moments: random.Random) -> bool:
    """Start or go on, and strike one of the processes; False where they ended by themselves."""
    begun, before = time.monotonic(), _pointer(path)
    processes = _start(ppl, path, epochs)
    if moments.random() < 0.25:
        time.sleep(moments.uniform(0.0, 15.0))
    else:
        while _pointer(path) == before and processes[0].poll() is None:
            if time.monotonic() - begun > PATIENCE:
                raise RuntimeError(f"{path}: no checkpoint within {PATIENCE:g} s")
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 1.0))
    victim = moments.choice(processes)
    victim.send_signal(signal.SIGKILL)
    died = victim.wait() == -signal.SIGKILL
    for process in processes:  # the others notice and end; torchrun would end them
        try:
            said = process.communicate(timeout=PATIENCE)[1]
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise RuntimeError(
                f"{ppl}: another went on for {PATIENCE:g} s after one was killed"
            ) from error
        if not died and process.returncode:
            raise RuntimeError(
                f"{ppl}: training ended by itself with {process.returncode}: {said[-2000:]}"
            )
    return died


def _finish(ppl: str, path: Path, epochs: int) -> None:
    for process in _start(ppl, path, epochs):
        said = process.communicate()[1]
        if process.returncode:
            raise RuntimeError(f"{ppl}: training ended with {process.returncode}: {said[-2000:]}")


def _start(ppl: str, path: Path, epochs: int) -> list[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "ppl_vae.cli", "train", "--out", str(path)]
    if (path / "run.json").exists():
        argv += ["--resume"]
    else:
        argv += ["lvae-digits", "--ppl", ppl]
        argv += [part for each in SETTINGS for part in ("--set", each)]
        argv += ["--set", f"training.epochs={epochs}"]
    return [
        subprocess.Popen(
            argv,
            env={**os.environ, **own},
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for own in _environments(ppl)
    ]


def _environments(ppl: str) -> list[dict[str, str]]:
    """What each process is told: torchrun's variables, or XLA's flag for more devices."""
    if ppl == "numpyro":
        flag = f"--xla_force_host_platform_device_count={DEVICES}"
        return [{"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**shared, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(PROCESSES)]


def _pointer(path: Path) -> str | None:
    try:
        return (path / "checkpoints" / "last").read_text()
    except FileNotFoundError:
        return None


def _epoch(path: Path) -> int:
    return int((_pointer(path) or "-0").rpartition("-")[2])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    checkpoint = Run.open(path).restore()
    if checkpoint is None:
        return {}
    return {
        f"{file}/{name}": value
        for file, held in checkpoint.files.items()
        for name, value in held.items()
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.killed")
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ppl", choices=("pyro", "numpyro"), action="append", help="one alone")
    parser.add_argument("--kills", type=number, default=20, help="of each PPL's run (20)")
    parser.add_argument("--epochs", type=number, default=100, help="of each run (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--out", type=Path, help=f"JSON (results/{RESULTS.name})")
    options = parser.parse_args(arguments)
    options.ppl = options.ppl or ["pyro", "numpyro"]
    options.out = place(options.out, RESULTS, whole=options.kills >= 20)
    return options


def _line(row: dict[str, Any]) -> str:
    same = "bit for bit the same" if not row["different"] else f"different: {row['different'][:5]}"
    same += "" if row["held"] else "; not held"
    return (
        f"{row['ppl']:8} {row['devices']} devices, {row['epochs']} epochs, {row['kills']} kills "
        f"(at epochs {row['epochs_at_kills']}): {row['arrays']} arrays {same}"
    )


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
