"""Images on disk against images in memory: how fast both PPLs train, and in how much memory.

    python -m benchmarks.mapped                    # writes benchmarks/results/mapped.json
    python -m benchmarks.mapped --ppl numpyro --what speed     # one part of one row anew

A file of random colour images (3 × 64 × 64, uint8), 6 GB unless told otherwise, is written to a
folder of its own and taken away at the end. One dense ladder VAE (latents 32 and 16, hidden layers
of 256 and 128: about the least work an image of that size can be) learns from it in batches of 128.

Speed: two trainers with the same weights, one with the images mapped and one with all of them in
memory, take turns of some steps of the same images, drawn from the whole file, in an order drawn
anew; a ratio is the median over turns of time / time in memory of the same turn, by the clock and
by the processor's time, which leaves out what others do on the same core. Once with the mapped
file's pages where they are (warm), once with all of them taken out of the system's cache before
each turn (cold; what lies below a virtual machine's disk is out of reach). Held where no median is
above 1 / 0.9, and both trainers end with the same weights, bit for bit.

Memory: `fit` for one epoch of the whole file, cold, in a process of its own, of a smaller net, so
that an epoch takes minutes; anonymous memory (RssAnon) every 20 ms. Held where it stays below 1.5
GB. Linux alone. Exit status 1 where something is not held.
"""

from __future__ import annotations

__all__ = ["main", "memory", "speed"]

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import ended, number, place
from benchmarks.machine import describe
from benchmarks.timing import interleaved, ratio
from ppl_vae.errors import UsageError
from ppl_vae.recipes import Recipe
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

RESULTS = Path(__file__).parent / "results" / "mapped.json"
X_SHAPE, BATCH = (3, 64, 64), 128
RECIPE = {
    "name": "mapped",
    "data": {"name": "npy"},
    "model": {
        "class_path": "HierarchicalVAE",
        "init_args": {
            "latents": [32, 16],
            "hidden": [256, 128],
            "likelihood": "discretized_logistic",
        },
    },
    "guide": {"class_path": "LadderGuide"},
}
LIGHT = {"latents": [8, 4], "hidden": [32, 16], "likelihood": "normal"}
SETTINGS = TrainingSettings(epochs=1, batch_size=BATCH, device="cpu", threads=1)
SLOWEST, MOST = 1 / 0.9, 1500.0  # times as long as in memory; MB
COLD = 0.05  # of a dropped file's pages, that may still be in memory


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where all is held, 1 otherwise."""
    options = _options(arguments)
    if options.one:
        what, file = options.one
        found = _parts()[what](options.ppl[0], Path(file), options.steps, options.turns)
        print(json.dumps(found))
        return 0
    rows = _known(options.out)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = Path(folder, "images.npy")
        about = {"images": write(file, options.gigabytes), "gigabytes": file.stat().st_size / 1e9}
        for ppl in options.ppl:
            for what in options.what:
                found = {**about, "machine": describe(), **_own_process(what, ppl, file, options)}
                rows.setdefault(ppl, {"ppl": ppl})[what] = found
                print(f"{ppl:8} {what}: {_LINES[what](found)}", flush=True)
                _keep(options.out, rows)
    return 0 if all(_is_held(rows[ppl]) for ppl in options.ppl) else 1


def _known(out: Path | None) -> dict[str, Any]:
    """Rows measured before, by PPL."""
    if out is None or not out.is_file():
        return {}
    return {row["ppl"]: row for row in json.loads(out.read_text())["rows"]}


def _keep(out: Path | None, rows: dict[str, Any]) -> None:
    """Write what there is, and whether all of it is held."""
    if out is None:
        return
    held = all(map(_is_held, rows.values()))
    report = {"recipe": RECIPE, "batch": BATCH, "rows": list(rows.values()), "held": held}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")


def write(file: Path, gigabytes: float) -> int:
    """A .npy file of random images, some at a time; how many."""
    count = max(8 * BATCH, int(gigabytes * 1e9 / np.prod(X_SHAPE)))
    images = np.lib.format.open_memmap(file, "w+", dtype=np.uint8, shape=(count, *X_SHAPE))
    rng = np.random.default_rng(0)
    for start in range(0, count, 4096):
        some = images[start : start + 4096]
        some[:] = np.frombuffer(rng.bytes(some.size), np.uint8).reshape(some.shape)
    images.flush()
    return count


def speed(ppl: str, file: Path, steps: int, turns: int) -> dict[str, Any]:
    """Turns of both trainers, warm and cold, and in how many arrays they end apart."""
    mapped = np.load(file, mmap_mode="r")
    sides = {
        "mapped": _trainer(ppl, mapped, steps),
        "in memory": _trainer(ppl, np.load(file), steps),
    }
    taken = dict.fromkeys(sides, 0)
    cold, clocks = [False], {"time": time.perf_counter, "processor_time": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {}

    def turn(name: str) -> Any:
        def run(_: int) -> None:
            if cold[0] and name == "mapped":
                drop(file, mapped)
            if ppl == "pyro":
                import torch

                torch.manual_seed(taken[name])
            begun = {clock: now() for clock, now in clocks.items()}
            rates = (np.ones(steps), np.full(steps, 1e-3))
            sides[name].run_epoch(taken[name], *rates, lambda _: None)
            for clock, now in clocks.items():
                seconds.setdefault(clock, {}).setdefault(name, []).append(now() - begun[clock])
            taken[name] += 1

        return run

    found: dict[str, Any] = {"turns": turns, "steps_a_turn": steps}
    int(mapped.max())  # reads all of it
    for state in ("warm", "cold"):
        cold[0] = state == "cold"
        seconds.clear()
        interleaved({name: turn(name) for name in sides}, turns, warm_up=1)
        found[state] = {}
        for clock, each in seconds.items():
            kept = {name: np.array(values[1:]) for name, values in each.items()}
            found[state][clock] = asdict(ratio(kept["mapped"], kept["in memory"])) | {
                name: steps * BATCH / float(np.median(values)) for name, values in kept.items()
            }
    one, two = (side.weights() for side in sides.values())
    found["different"] = [name for name in one if not np.array_equal(one[name], two[name])]
    return found


def memory(ppl: str, file: Path, steps: int, turns: int) -> dict[str, Any]:
    """Most anonymous memory (MB) of an epoch by `fit`, of which so much before, and its speed."""
    programs = import_module(f"ppl_vae.{ppl}")
    recipe = {**RECIPE, "model": {"class_path": "HierarchicalVAE", "init_args": LIGHT}}
    pair = programs.build(Recipe.from_dict(recipe), X_SHAPE)
    images = np.load(file, mmap_mode="r")
    drop(file, images)
    before, most, ended = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    begun = time.perf_counter()
    fitted = programs.fit(*pair, images, progress=False, **asdict(SETTINGS))
    seconds = time.perf_counter() - begun
    ended.set()
    watcher.join()
    return {
        "anonymous_mb": most[0],
        "before_mb": before,
        "seconds": seconds,
        "images_per_second": float(fitted.history["images_per_second"][-1]),
    }


def drop(file: Path, images: np.memmap[Any, Any]) -> None:
    """Take a file's pages out of this process, and out of the system's cache."""
    import mmap

    images._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
    place = os.open(file, os.O_RDONLY)
    try:
        os.fsync(place)
        os.posix_fadvise(place, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(place)
    if (kept := resident(images)) > COLD:
        raise UsageError(
            f"--folder: {kept:.0%} of {file.parent} stays in memory when it is dropped, as in a "
            "tmpfs: name a folder on a disk"
        )


def resident(images: np.memmap[Any, Any]) -> float:
    """Share of an array's pages that the system has in memory, 0 to 1."""
    import ctypes
    import mmap

    pages = -(-images.nbytes // mmap.PAGESIZE)
    told = (ctypes.c_ubyte * (pages + 1))()
    address = images.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    length = images.ctypes.data + images.nbytes - address
    if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), told):
        raise OSError(ctypes.get_errno(), "mincore")
    return float((np.frombuffer(bytes(told), np.uint8)[:pages] & 1).mean())


def anonymous() -> float:
    """This process's anonymous memory, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("/proc/self/status: no RssAnon: this benchmark runs on Linux alone")


def _trainer(ppl: str, images: Any, steps: int) -> Any:
    programs = import_module(f"ppl_vae.{ppl}")
    room = import_module(f"ppl_vae.{ppl}.trainer")
    pair = programs.build(Recipe.from_dict(RECIPE), X_SHAPE)
    rest = (images, None, ObjectiveSettings(), SETTINGS)
    if ppl == "pyro":
        import pyro
        import torch

        torch.set_num_threads(1)
        pyro.enable_validation(False)
        trainer = room.PyroTrainer(*pair, *rest)
    else:
        import jax

        trainer = room.NumPyroTrainer(*pair, *rest, jax.devices("cpu")[0])
    trainer.steps_per_epoch = steps
    return trainer


def _parts() -> dict[str, Any]:
    return {"speed": speed, "memory": memory}


def _own_process(what: str, ppl: str, file: Path, options: argparse.Namespace) -> Any:
    command = [sys.executable, "-m", "benchmarks.mapped", "--ppl", ppl, "--one", what, str(file)]
    command += ["--steps", str(options.steps), "--turns", str(options.turns)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _is_held(row: dict[str, Any]) -> bool:
    """Of the parts of a row that are there."""
    found, most = row.get("speed"), row.get("memory", {}).get("anonymous_mb", 0.0)
    if found is None:
        return bool(most < MOST)
    clocks = ("time", "processor_time")
    ratios = [found[state][clock]["value"] for state in ("warm", "cold") for clock in clocks]
    return max(ratios) <= SLOWEST and not found["different"] and most < MOST


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mapped")
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--ppl", choices=("pyro", "numpyro"), action="append", help="one alone")
    parser.add_argument("--what", choices=("speed", "memory"), action="append", help="one alone")
    parser.add_argument("--gigabytes", type=float, default=6.0, help="of the file (6)")
    parser.add_argument("--steps", type=number, default=25, help="of a turn (25)")
    parser.add_argument(
        "--turns", type=number, default=12, help="of each trainer, warm and cold (12)"
    )
    parser.add_argument("--folder", type=Path, help="where to write it (the system's for such)")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "FILE"), help="one part of one row")
    parser.add_argument("--out", type=Path, help=f"JSON (results/{RESULTS.name})")
    options = parser.parse_args(arguments)
    options.ppl = options.ppl or ["pyro", "numpyro"]
    options.what = options.what or ["speed", "memory"]
    if not options.one:
        options.out = place(options.out, RESULTS, whole=options.gigabytes >= 6)
    return options


def _speed_line(found: dict[str, Any]) -> str:
    said = []
    for state in ("warm", "cold"):
        for clock in ("time", "processor_time"):
            one = found[state][clock]
            said.append(
                f"{state} {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}] of the "
                f"{clock.replace('_', ' ')} in memory ({one['mapped']:.0f} against "
                f"{one['in memory']:.0f} images/s)"
            )
    return ", ".join([*said, f"{len(found['different'])} arrays apart"])


def _memory_line(found: dict[str, Any]) -> str:
    return (
        f"{found['anonymous_mb']:.0f} MB anonymous at most, {found['before_mb']:.0f} before; "
        f"{found['images_per_second']:.0f} images/s"
    )


_LINES: dict[str, Any] = {"speed": _speed_line, "memory": _memory_line}


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
