"""Steps that can be recorded as a CUDA graph: they ask nothing of the host, and learn the same.

Recording itself is in `test_gpu.py`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import fake_gpu
import numpy as np
import processes
import pytest
import torch
from fake_gpu import TRIALS, trainer_of
from zoo import Case, images, side

from ppl_vae.pyro.captured import WARM_UP, StaticSteps, obstacle, static_steps
from ppl_vae.pyro.trainer import PyroTrainer
from ppl_vae.pyro.training import _surroundings
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

CPU = TrainingSettings(device="cpu")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """{trial or offence: what went wrong} on the device that is not there."""
    out = tmp_path_factory.mktemp("fake") / "told.json"
    process = processes.started(fake_gpu.main, out)
    process.join()
    assert process.exitcode == 0
    found: dict[str, str] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("name", TRIALS)
def test_a_step_asks_nothing_of_the_host(name: str, told: dict[str, str]) -> None:
    assert not told[name], told[name]


@pytest.mark.parametrize("name", fake_gpu.OFFENCES)
def test_what_asks_the_host_is_found_out(name: str, told: dict[str, str]) -> None:
    assert told[name]


def trained(trainer: PyroTrainer, epochs: Any) -> list[np.ndarray]:
    """Tables of the epochs; rates and weights differ from step to step."""
    tables = []
    for epoch in epochs:
        steps = np.arange(trainer.steps_per_epoch) + epoch * trainer.steps_per_epoch
        log = trainer.run_epoch(epoch, (steps + 1) / 9, 1e-2 / (steps + 1), lambda _: None)
        tables.append(np.column_stack([log.loss, log.log_likelihood, log.grad_norm, log.kl]))
    return tables


def everything(trainer: PyroTrainer) -> dict[str, np.ndarray]:
    averaged = trainer.averaged_weights() or {}
    arrays, _ = trainer.state()
    return {**trainer.weights(), **{f"ema.{k}": v for k, v in averaged.items()}, **arrays}


def assert_same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    assert not [name for name in one if not np.array_equal(one[name], two[name])]


@pytest.mark.parametrize("name", ["ladder", "importance-weighted", "nvae", "vq-vae"])
def test_static_steps_are_the_plain_ones_bit_for_bit(name: str) -> None:
    tables, found = [], []
    for is_static in (False, True):
        with _surroundings(CPU):
            trainer = trainer_of(TRIALS[name])
            trainer.static = StaticSteps(trainer, capture=False) if is_static else None
            tables.append(trained(trainer, range(2)))
            found.append(everything(trainer))
    np.testing.assert_array_equal(*tables)
    assert_same(*found)


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PyroTrainer, list[str]]]:
    """A trainer with stand-ins for what needs CUDA; and what was asked of them."""
    calls: list[str] = []

    def run(name: str) -> None:
        calls.append(name)
        steps.step()

    def record() -> None:
        calls.append("record")
        steps.graph = SimpleNamespace(replay=lambda: run("replay"))

    with _surroundings(CPU):
        trainer = trainer_of(TRIALS["ladder"])
        steps = trainer.static = StaticSteps(trainer)
        monkeypatch.setattr(steps, "_aside", lambda: run("aside"))
        monkeypatch.setattr(steps, "_record", record)
        yield trainer, calls


def test_a_resumed_run_records_anew_and_ends_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimiser state comes back in other memory: what was recorded must not be replayed."""
    begun = ["aside"] * WARM_UP + ["record", "replay"]
    with recording(monkeypatch) as (trainer, calls):
        trained(trainer, range(2))
        weights, averaged, (state, info) = (
            trainer.weights(), trainer.averaged_weights(), trainer.state()
        )  # fmt: skip
        trained(trainer, range(2, 4))
        whole = everything(trainer)
        assert calls == begun + ["replay"] * 4
    with recording(monkeypatch) as (trainer, calls):
        trained(trainer, range(2))  # has recorded a step of what is then replaced
        trainer.restore(weights, averaged, state, info)
        trained(trainer, range(2, 4))
        assert_same(whole, everything(trainer))
        assert calls == begun + begun


@contextmanager
def fails() -> Iterator[None]:
    raise RuntimeError("operation not permitted when stream is capturing\nmore")
    yield


def test_where_recording_fails_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, once, with the random stream that was kept, on the stream that it was on."""
    put: list[Any] = []
    streams: list[str] = []

    @contextmanager
    def kept_stream(stream: str) -> Iterator[None]:
        try:
            yield
        finally:
            streams.append(stream)

    random = SimpleNamespace(clone_state=lambda: "kept", graphsafe_set_state=put.append)
    for name, value in {
        "default_generators": [random],
        "CUDAGraph": object,
        "graph_pool_handle": lambda: (0, 1),
        "graph": lambda *_, **__: fails(),
        "device": lambda _: nullcontext(),
        "stream": kept_stream,
        "current_stream": lambda _: "present",
        "Stream": lambda _: "own",
        "current_device": lambda: 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    with _surroundings(CPU):
        plain = trainer_of(TRIALS["ladder"])
        trained(plain, range(3))
    with _surroundings(CPU):
        trainer = trainer_of(TRIALS["ladder"])
        trainer.static = StaticSteps(trainer)
        monkeypatch.setattr(trainer.static, "_aside", trainer.static.step)
        with pytest.warns(UserWarning, match="not recorded: operation not permitted") as heard:
            trained(trainer, range(3))
        assert_same(everything(plain), everything(trainer))
    assert put == ["kept"]
    assert streams == ["present"]
    assert len([w for w in heard if "recorded" in str(w.message)]) == 1
    assert "\n" not in str(heard[0].message)


def gpu(trainer: Any, **changes: Any) -> SimpleNamespace:
    """A trainer as it would be on a GPU, to be asked what keeps it from being recorded."""
    known = {"shuffles": True, "plain": {}, "train": SimpleNamespace(streamed=False)}
    own = {"model": trainer.model, "guide": trainer.guide, "settings": trainer.settings}
    return SimpleNamespace(**{**known, **own, "device": torch.device("cuda"), **changes})


def test_what_cannot_be_recorded_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with _surroundings(CPU):
        trainer = trainer_of(TRIALS["ladder"])
    with _surroundings(CPU):
        model, guide = side("pyro").slope()
        plain = PyroTrainer(model, guide, images(), None, ObjectiveSettings(), CPU)
    with _surroundings(CPU):
        chain = side("pyro").chain(("z1",))
        automatic = side("pyro").automatic(chain)
        settings = TrainingSettings(device="cpu", batch_size=6)
        kept = PyroTrainer(chain, automatic, images(), None, ObjectiveSettings(), settings)
    assert obstacle(gpu(trainer)) is None
    assert "device is cpu" in str(obstacle(trainer))
    assert "plain function" in str(obstacle(gpu(plain, plain=plain.plain)))
    assert "automatic guide" in str(obstacle(gpu(kept, shuffles=kept.shuffles)))
    assert "come from disk" in str(obstacle(gpu(trainer, train=SimpleNamespace(streamed=True))))
    monkeypatch.setattr("ppl_vae.pyro.ranks.count", lambda: 2)
    assert "2 processes" in str(obstacle(gpu(trainer)))


@pytest.mark.parametrize(
    ("wanted", "device", "words"),
    [(None, "cpu", 0), (True, "cpu", 1), (False, "cuda", 0), (None, "cuda", 1)],
)
def test_a_line_where_it_was_wanted_or_could_be(
    wanted: bool | None, device: str, words: int
) -> None:
    model, guide = Case("pyro", "vae", "mean-field").build()
    settings = TrainingSettings(cuda_graph=wanted)
    pair = SimpleNamespace(model=model, guide=guide, settings=settings)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        asked = gpu(pair, device=torch.device(device), shuffles=False)
        assert static_steps(asked) is None
    assert len(heard) == words
