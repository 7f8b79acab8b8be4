"""Several runs trained at once on one device: their epochs are one program, mapped over them.

Each run is trained in a thread of its own, of which one works at a time (NumPyro's handlers are
global). A run that has come to an epoch, or to a part of one (`training.checkpoint_steps`), waits
for those of its kind; the last one to come runs all that are of one length under `jax.vmap`, which
fills a device that one small net leaves idle. Images that stay on disk have each run's parts one
after another. Checkpoints, history, validation and going on are each run's own; numbers are those
of a run alone to rounding.
"""

from __future__ import annotations

__all__ = ["TogetherTrainer", "here", "together"]

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from ppl_vae.numpyro.trainer import NumPyroTrainer, State

T = TypeVar("T")


def together(jobs: Sequence[Callable[[], T]], kinds: Sequence[Hashable]) -> list[T]:
    """What the jobs, each of which calls `fit`, give back.

    Args:
        jobs: functions without arguments.
        kinds: of each job: those of one kind train alike but for `training.seed`.

    Raises:
        the first job's error in their order, when all have ended.
    """
    turns = _Turns(kinds)
    threads = [
        threading.Thread(target=turns.work, args=(i, job), daemon=True)
        for i, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        turns.stopped = True
        for thread in threads:  # as far as their next epoch
            thread.join()
        raise
    for error in turns.errors:
        if error is not None:
            raise error
    return turns.results


def here() -> _Turns | None:
    """Of the present thread's job, if it is one of several."""
    return getattr(_mine, "turns", None)


class TogetherTrainer(NumPyroTrainer):
    """One of several; see `ppl_vae.loop.Trainer`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.turns: _Turns = _mine.turns
        self.kind: Hashable = _mine.kind
        self.alone = self.part
        self.ordered = jax.jit(self._order)
        if not self.train.streamed:
            self.part: Any = self._part_of_many
            self.epoch: Any = self._epoch_of_many

    def _epoch_of_many(self, now: State, values: Array, rng_key: Any, rates: Any) -> Any:
        return self.part(now, values, *self.ordered(rng_key), rates)

    def _part_of_many(self, now: State, values: Array, order: Array, keys: Any, rates: Any) -> Any:
        return self.turns.part(_Asked(self, (now, order, keys, rates)))


@dataclass(eq=False)
class _Asked:
    """An epoch, or a part of one, that waits."""

    trainer: TogetherTrainer
    inputs: tuple[State, Array, Any, Any]  # state, places of images, keys, rates
    answer: Any = None
    error: BaseException | None = None

    @property
    def steps(self) -> int:
        return len(self.inputs[1])


class _Mapped(NamedTuple):
    """A kind's program; one array of images where all its runs have the same."""

    program: Callable[..., Any]
    shared: bool


class _Turns:
    """Who works, who waits."""

    def __init__(self, kinds: Sequence[Hashable]) -> None:
        self.turn = threading.Condition()
        self.kinds = list(kinds)
        self.alive = list(kinds)
        self.waiting: dict[Hashable, list[_Asked]] = defaultdict(list)
        self.mapped: dict[Hashable, _Mapped] = {}
        self.results: list[Any] = [None] * len(self.kinds)
        self.errors: list[BaseException | None] = [None] * len(self.kinds)
        self.stopped = False

    def work(self, i: int, job: Callable[[], Any]) -> None:
        """A thread: its job from beginning to end."""
        with self.turn:
            _mine.turns, _mine.kind = self, self.kinds[i]
            try:
                self.results[i] = job()
            except BaseException as error:
                self.errors[i] = error
            finally:
                self.alive.remove(self.kinds[i])
                self.turn.notify_all()

    def part(self, asked: _Asked) -> Any:
        """(state, rows) of the steps, once all others of its kind have come to theirs."""
        kind = asked.trainer.kind
        self.waiting[kind].append(asked)
        while asked.answer is None and asked.error is None:
            if self.stopped:
                raise KeyboardInterrupt
            if len(self.waiting[kind]) == self.alive.count(kind):
                self._run(kind)
                self.turn.notify_all()
            else:
                self.turn.wait(timeout=1.0)  # to see that all were stopped
        if asked.error is not None:
            raise asked.error
        return asked.answer

    def _run(self, kind: Hashable) -> None:
        waiting = self.waiting.pop(kind)
        try:
            if len(waiting) > 1 and kind not in self.mapped:
                self.mapped[kind] = _mapped([asked.trainer for asked in waiting])
        except BaseException as error:
            for asked in waiting:
                asked.error = error
            return
        for steps in dict.fromkeys(asked.steps for asked in waiting):
            group = [asked for asked in waiting if asked.steps == steps]
            try:
                for asked, answer in zip(group, self._answers(kind, group), strict=True):
                    asked.answer = answer
            except BaseException as error:
                for asked in group:
                    asked.error = error

    def _answers(self, kind: Hashable, group: list[_Asked]) -> list[Any]:
        trainers = [asked.trainer for asked in group]
        if len(group) == 1:
            (now, *rest), images = group[0].inputs, trainers[0].train.values
            return [trainers[0].alone(now, images, *rest)]
        program, shared = self.mapped[kind]
        images = trainers[0].train.values if shared else [t.train.values for t in trainers]
        states, *rest = zip(*(asked.inputs for asked in group), strict=True)
        answers: list[Any] = program(states, images, *rest)
        return answers


def _mapped(trainers: list[TogetherTrainer]) -> _Mapped:
    first, *others = (trainer.train for trainer in trainers)
    shared = all(bool(jnp.array_equal(first.values, data.values)) for data in others)
    for data in others if shared else ():
        data.values = first.values  # their own copies are given back
    many = jax.vmap(trainers[0]._part, in_axes=(0, None if shared else 0, 0, 0, 0))

    def program(states: Any, images: Any, *rest: Any) -> list[Any]:
        stacked = many(
            _stacked(states), images if shared else _stacked(images), *map(_stacked, rest)
        )
        return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(states))]

    return _Mapped(jax.jit(program, donate_argnums=0), shared)


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


_mine = threading.local()
