"""How long XLA compiles very deep hierarchies: the first time, and again from the cache on disk.

    python -m benchmarks.compile_time                       # 10, 20, 45, 75 groups: twenty minutes
    python -m benchmarks.compile_time --groups 10 20        # a part; others in --out stay

Each depth is trained for one step (`ppl_vae.numpyro.fit`, one epoch) in two processes of their own,
one after another, that share an empty cache folder. Seconds are the processor's, of the whole call:
tracing the program, lowering it, compiling, and the step itself. Depths that stand in --out already
are not measured again.
"""

from __future__ import annotations

__all__ = ["decoder", "main", "measure"]

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import ended, number
from benchmarks.machine import describe

OUT = Path(__file__).parent / "results" / "compile_time.json"
SHARES = {1: 0.1, 4: 0.2, 8: 0.3}  # of the groups; the rest stand at 16
COMPILING = "/jax/core/compile/backend_compile_duration"  # JAX's own name: XLA, or its cache


def decoder(groups: int) -> str:
    """Stages of so many groups over the resolutions 1, 4, 8 and 16.

    >>> decoder(10)
    '1,4m1,4x1,8m4,8x2,16m8,16x3'
    """
    counts = {side: max(1, round(share * groups)) for side, share in SHARES.items()}
    counts[16] = groups - sum(counts.values())
    pieces, above = [], None
    for side, count in counts.items():
        pieces.append(str(side) if above is None else f"{side}m{above}")
        if count > 1:
            pieces.append(f"{side}x{count - 1}")
        above = side
    return ",".join(pieces)


def measure(groups: int) -> dict[str, float]:
    """Seconds of an epoch of one step in this process: the processor's, the clock's, XLA's."""
    import jax
    import numpy as np
    from flax import nnx

    from guides.numpyro import VeryDeepGuide
    from models.numpyro import VeryDeepVAE
    from ppl_vae.numpyro import fit

    model = VeryDeepVAE(
        (1, 16, 16), decoder(groups), width=16, latent_channels=4, bottleneck=0.5, rngs=nnx.Rngs(0)
    )
    guide = VeryDeepGuide(model, rngs=nnx.Rngs(1))
    x = (np.random.default_rng(0).random((4, 1, 16, 16)) < 0.5).astype(np.float32)
    xla = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILING:
            xla.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    begun, wall = time.process_time(), time.perf_counter()
    fit(model, guide, x, epochs=1, batch_size=4, progress=False)
    return {
        "seconds": time.process_time() - begun,
        "wall": time.perf_counter() - wall,
        "xla": sum(xla),  # of the wall's
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_time", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--groups", type=number, nargs="+", default=[10, 20, 45, 75])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--here", type=int, metavar="GROUPS", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here is not None:
        print(json.dumps(measure(options.here)))
        return
    told = json.loads(options.out.read_text()) if options.out.exists() else {}
    told = {"groups": told.get("groups", {})}
    for groups in options.groups:
        if str(groups) not in told["groups"]:
            told["groups"][str(groups)] = {"machine": describe(), **_twice(groups)}
            told["groups"] = dict(sorted(told["groups"].items(), key=lambda item: int(item[0])))
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(told, indent=2) + "\n")
    print(_table(told["groups"]))


def _twice(groups: int) -> dict[str, dict[str, float]]:
    """{"first": …, "cached": …}: two processes and the cache between them."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
        environment["PPL_VAE_COMPILATION_CACHE"] = folder
        command = [sys.executable, "-m", "benchmarks.compile_time", "--here", str(groups)]
        for name in ("first", "cached"):
            done = subprocess.run(
                command, env=environment, text=True, stdout=subprocess.PIPE, check=True
            )
            found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def _table(groups: dict[str, dict[str, Any]]) -> str:
    lines = ["| groups | first, s | of it XLA | cached, s |", "|---|---|---|---|"]
    for count, found in groups.items():
        first, cached = found["first"], found["cached"]
        share = first["xla"] / first["wall"]
        lines.append(
            f"| {count} | {first['seconds']:.0f} | {share:.0%} | {cached['seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(ended(main, on_cpu=True))
