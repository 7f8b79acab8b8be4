"""Training speed against peers at equal nets, installed for the purpose from the package index.

    python -m benchmarks.peers               # minutes; writes benchmarks/results/peers.json
    python -m benchmarks.peers --environment DIR     # keep the peers' environment, or take it again
    python -m benchmarks.peers --quick       # tiny, nothing installed: the peers that are here

Peers are pythae (its VAE and IWAE), and the VAE of Pyro's and of NumPyro's tutorials under their
stock SVI. The environment is made in a temporary folder, sees this one's packages and so has the
same torch, and goes away at the end. docs/benchmarks.md says what is measured and how; exit status
1 says that at equal weights and noise a peer's loss is another than it should be.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.command import ended, number, place
from benchmarks.machine import describe
from benchmarks.timing import interleaved, ratio

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "peers.json"
FIGURE = ROOT / "docs" / "figures" / "peers.png"
WANTED = ("pythae==0.1.2",)
SIDES = {
    "pythae": "benchmarks.peers_pythae",
    "pyro": "benchmarks.peers_pyro",
    "numpyro": "benchmarks.peers_numpyro",
}
HERE = ("pyro", "numpyro")  # peers that need nothing installed
TOLERANCE = 1e-5  # relative, of losses at equal weights and noise, in float32


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where every loss is as it should be, 1 otherwise."""
    options = _options(arguments)
    if options.here:
        print(json.dumps(_measured(options)))
        return 0
    report = _measured(options) if options.quick else _elsewhere(options)
    print(_table(report))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    if options.figure is not None:
        from benchmarks.pictures import peers

        print(peers(report["rows"], options.figure))
    return 0 if all(row["apart"] <= TOLERANCE for row in report["losses"]) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--peer", choices=list(SIDES), action="append", help="one alone")
    parser.add_argument("--repeats", type=number, help="timed turns of every contestant (30)")
    parser.add_argument("--steps", type=number, help="optimiser steps a turn (40)")
    parser.add_argument("--environment", type=Path, help="folder of the peers' environment")
    parser.add_argument("--quick", action="store_true", help="2 turns of 2 steps, smaller nets")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=f"JSON (results/{RESULTS.name} unless --quick)")
    parser.add_argument("--figure", type=Path, help=f"PNG (figures/{FIGURE.name} unless --quick)")
    options = parser.parse_args(arguments)
    options.peer = options.peer or list(HERE if options.quick else SIDES)
    options.repeats = options.repeats or (2 if options.quick else 30)
    options.steps = options.steps or (2 if options.quick else 40)
    if not options.quick and not options.here:
        whole = set(options.peer) == set(SIDES)
        options.out = place(options.out, RESULTS, whole)
        options.figure = options.figure or (FIGURE if whole else None)
    return options


def _elsewhere(options: argparse.Namespace) -> dict[str, Any]:
    """What the same command reports in the peers' environment."""
    with tempfile.TemporaryDirectory() as folder:
        place = (options.environment or Path(folder) / "peers").resolve()
        python = _environment(place)
        command = [str(python), "-m", "benchmarks.peers", "--here", "--steps", str(options.steps)]
        command += ["--repeats", str(options.repeats)]
        command += [word for peer in options.peer for word in ("--peer", peer)]
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "TQDM_DISABLE": "1"}, text=True,
            stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def _environment(place: Path) -> Path:
    """Its interpreter; made where it is not yet, with this environment's packages in sight.

    Those stand behind the peers' own on the path, and pip takes what is there for installed.
    """
    python = place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        venv.create(place, with_pip=True)
        ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        own = subprocess.run(ask, text=True, stdout=subprocess.PIPE, check=True).stdout.strip()
        seen = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(ROOT)]
        Path(own, "behind.pth").write_text("\n".join(dict.fromkeys(seen)) + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install += ["--no-compile", "-c", str(ROOT / "constraints.txt"), *WANTED]
    subprocess.run(install, stdout=sys.stderr, check=True)
    return python


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    report: dict[str, Any] = {
        "machine": describe(*(name.partition("==")[0] for name in WANTED)),
        "repeats": options.repeats,
        "steps_a_repeat": options.steps,
        "rows": [],
        "losses": [],
    }
    for peer in options.peer:
        for bout in import_module(SIDES[peer]).bouts(options.steps, options.quick):
            report["losses"] += [{"peer": bout.name, **loss} for loss in bout.losses]
            for kind, (theirs, ours) in bout.turns.items():
                times = interleaved({"peer": theirs, "ppl-vae": ours}, options.repeats)
                found = ratio(times["peer"], times["ppl-vae"])
                images = bout.batch * options.steps
                report["rows"].append({
                    "peer": bout.name, "measured": kind, "batch": bout.batch,
                    "images_a_second": {
                        who: float(images / sorted(times[who])[len(times[who]) // 2])
                        for who in times
                    },
                    "ratio": found.value, "interval": [found.low, found.high],
                })  # fmt: skip
    return report


def _table(report: dict[str, Any]) -> str:
    machine = report["machine"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, load {machine['busy_cores']}; medians "
        f"of {report['repeats']} interleaved turns of {report['steps_a_repeat']} steps",
        "",
        f"{'images a second':46} {'peer':>9} {'ppl-vae':>9}   peer's time over ppl-vae's",
    ]
    for row in report["rows"]:
        speed, (low, high) = row["images_a_second"], row["interval"]
        lines.append(
            f"{row['peer'] + ', ' + row['measured']:46} {speed['peer']:9.0f} "
            f"{speed['ppl-vae']:9.0f}   {row['ratio']:.2f}, {low:.2f} … {high:.2f}"
        )
    lines += [
        "",
        f"{'loss at equal weights and noise, nats an image':46} {'peer':>9} {'ppl-vae':>9}",
    ]
    for row in report["losses"]:
        lines.append(
            f"{row['peer'] + ', ' + row['what']:46} {row['theirs']:9.4f} {row['ours']:9.4f}   "
            f"{row['apart']:.1e} apart"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
