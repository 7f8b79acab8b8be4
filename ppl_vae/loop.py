"""What training is around its epochs, for both PPLs: order, stopping, checkpoints, advice.

Rows are made in `ppl_vae.histories`, what is shown meanwhile in `ppl_vae.monitor`.
"""

from __future__ import annotations

__all__ = ["EpochLog", "Fit", "Stop", "Trainer", "out_of_memory", "train"]

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr
from tqdm import tqdm

from ppl_vae import monitor, schedules
from ppl_vae.errors import TrainingError
from ppl_vae.histories import history_of, rows_of
from ppl_vae.runs import Arrays, Checkpoint, Run
from ppl_vae.settings import ObjectiveSettings, TrainingSettings


class EpochLog(NamedTuple):
    """One epoch by steps, on the host.

    Attributes:
        loss, log_likelihood, grad_norm: (steps,) float; nats per image but for the last.
        kl: (steps, sites) float, in the order of the trainer's sites.
        skipped: (steps,) 1 where the step was left out.
    """

    loss: np.ndarray
    log_likelihood: np.ndarray
    kl: np.ndarray
    grad_norm: np.ndarray
    skipped: np.ndarray


class Trainer(Protocol):
    """What a PPL brings: its epochs and its state.

    Attributes:
        sites: latent ones, z1 first, and after them the guide's own.
        steps_per_epoch: whole batches of an epoch.
        batch_size: images a step.
    """

    sites: tuple[str, ...]
    steps_per_epoch: int
    batch_size: int

    def run_epoch(
        self,
        epoch: int,
        kl_weight: np.ndarray,
        learning_rate: np.ndarray,
        tick: Callable[[int], Any],
        first: int = 0,
    ) -> EpochLog:
        """An epoch's steps from `first` on, as many as there are weights.

        `kl_weight`, `learning_rate`: (steps,) of these steps; `tick(k)` is called after k of them.
        """

    def validate(self) -> tuple[float, np.ndarray] | None:
        """(log likelihood, (sites,) kl), nats per validation image; None where there are none."""

    def posterior_range(self) -> dict[str, np.ndarray] | None:
        """{name: (sites, …)} of the posteriors, for the row of `ppl_vae.histories`; or None."""

    def prior_samples(self, num_samples: int) -> np.ndarray | None:
        """(num_samples, c, h, w): mean images of prior draws; None where there can be none."""

    def weights(self) -> Arrays:
        """{name: array} of all that is learned, modules in torch's layout."""

    def averaged_weights(self) -> Arrays | None:
        """The same of the moving average; None where none is kept."""

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """({name: array}, facts that JSON holds): what else it takes to go on."""

    def restore(self, weights: Arrays, averaged: Arrays | None, state: Arrays, info: Any) -> None:
        """Go on from what `weights`, `averaged_weights` and `state` gave."""


@dataclass(frozen=True)
class Fit:
    """What `fit` gives back.

    Attributes:
        history: see `ppl_vae.histories`.
        params: {name: array} learned by plain functions, for `log_weights(..., params=...)`;
            empty for modules, which are updated in place.
        best_epoch: epoch of the highest validation ELBO, or None without validation.
    """

    history: xr.Dataset
    params: dict[str, Any]
    best_epoch: int | None = None


class Stop(Exception):
    """Raised by a callback: training ends here, with a checkpoint, in all processes.

    A callback with a true attribute `within_epochs` is also called between the parts of an epoch
    (`training.checkpoint_steps`), with the history of whole ones.
    """


@dataclass
class Progress:
    """What a run knows about itself; goes into every checkpoint.

    Attributes:
        epoch: whole ones.
        step: steps taken of the next.
        seconds: of those steps.
        logs: of those steps.
        rows: history's, of whole epochs.
        best: weights after the best epoch.
    """

    epoch: int = 0
    skips_in_a_row: int = 0
    best_epoch: int | None = None
    best_elbo: float = -math.inf
    step: int = 0
    seconds: float = 0.0
    logs: list[EpochLog] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: Arrays | None = None


def train(
    trainer: Trainer,
    objective: ObjectiveSettings,
    settings: TrainingSettings,
    full_weight: float,
    *,
    run: Run | None = None,
    resume: bool = False,
    show_progress: bool = True,
    callbacks: Iterable[Callable[[xr.Dataset], Any]] = (),
    leads: bool = True,
    any_of: Callable[[bool], bool] = bool,
) -> tuple[xr.Dataset, int | None]:
    """Run epochs until `settings.epochs` or early stopping; (history, best epoch).

    Of several processes one `leads`: the others begin where it does, write, show and call nothing,
    and stop where it does, which `any_of` tells them (`ppl_vae.<ppl>.ranks`).

    Raises:
        UsageError: another process is training the run.
        TrainingError: NaN or infinity, or too many skipped steps in a row.
    """
    with run.at_work() if run is not None and leads else nullcontext():
        progress = Progress()
        if run is not None and resume:
            progress = _go_on(trainer, run, leads)
        if not leads:
            run, show_progress, callbacks = None, False, ()
        with monitor.bar(trainer, settings, progress, show_progress) as bar:
            _epochs(
                trainer, objective, settings, full_weight, progress, bar, run, callbacks, any_of
            )
    return history_of(progress.rows, trainer.sites), progress.best_epoch


def _epochs(
    trainer: Trainer,
    objective: ObjectiveSettings,
    settings: TrainingSettings,
    full_weight: float,
    progress: Progress,
    bar: tqdm,
    run: Run | None,
    callbacks: Iterable[Callable[[xr.Dataset], Any]],
    any_of: Callable[[bool], bool],
) -> None:
    """All that are left, each told to the board and the callbacks, and saved when it is time."""
    board = monitor.board_of(run, progress.rows, trainer.sites)
    saved_at, last_saved = time.monotonic(), progress.epoch

    def save_if_due() -> None:
        nonlocal saved_at, last_saved
        if run is not None and time.monotonic() - saved_at >= settings.checkpoint_seconds:
            _save(run, trainer, progress)
            saved_at, last_saved = time.monotonic(), progress.epoch

    def call(those: Iterable[Callable[[xr.Dataset], Any]]) -> None:
        stop = None
        try:
            for callback in those:
                callback(history_of(progress.rows, trainer.sites))
        except Stop as raised:
            stop = raised
        if any_of(stop is not None):
            if run is not None:
                _save(run, trainer, progress)
            raise stop or Stop

    def pause() -> None:
        save_if_due()
        call(callback for callback in callbacks if getattr(callback, "within_epochs", False))

    while progress.epoch < settings.epochs and not _out_of_patience(progress, settings):
        row = _one_epoch(trainer, objective, settings, full_weight, progress, bar, run, pause)
        progress.rows.append(row)
        if progress.best_epoch == progress.epoch:
            progress.best = trainer.weights()
        monitor.tell(board, row, trainer.sites)
        call(callbacks)
        if run is not None:
            monitor.keep_samples(run, trainer, progress.epoch)
            save_if_due()
    if run is not None and last_saved < progress.epoch:
        _save(run, trainer, progress)


def _one_epoch(
    trainer: Trainer,
    objective: ObjectiveSettings,
    settings: TrainingSettings,
    full_weight: float,
    progress: Progress,
    bar: tqdm,
    run: Run | None,
    pause: Callable[[], None],
) -> dict[str, Any]:
    """An epoch from where it stands; its history's row. `pause` is called within it."""
    per_epoch = trainer.steps_per_epoch
    steps = np.arange(progress.epoch * per_epoch, (progress.epoch + 1) * per_epoch)
    kl_weight = schedules.kl_weight(steps, objective, per_epoch, full_weight)
    rate = schedules.learning_rate(steps, settings, per_epoch)
    while progress.step < per_epoch:
        first, several = progress.step, settings.checkpoint_steps or per_epoch
        some = slice(first, min(first + several, per_epoch))
        begun = time.perf_counter()
        log = trainer.run_epoch(progress.epoch, kl_weight[some], rate[some], bar.update, first)
        progress.seconds += time.perf_counter() - begun
        _check(log, steps[some], trainer, settings, progress, run)
        progress.step = some.stop
        progress.logs.append(log)
        if progress.step < per_epoch:
            pause()
    log, seconds = _joined(progress.logs), progress.seconds
    progress.epoch += 1
    progress.step, progress.seconds, progress.logs = 0, 0.0, []
    row = {
        "epoch": progress.epoch,
        "step": progress.epoch * per_epoch,
        **_means(log),
        "kl_weight": kl_weight[-1],
        "learning_rate": rate[-1],
        "images_per_second": per_epoch * trainer.batch_size / seconds,
        "seconds": seconds,
        **_validated(trainer, progress),
        **(trainer.posterior_range() or {}),
    }
    bar.set_postfix_str(monitor.summary(row, trainer.sites))
    return row


def _means(log: EpochLog) -> dict[str, Any]:
    """An epoch's steps in one, without those that were left out; NaN where all were."""
    kept = log.skipped == 0

    def mean(values: np.ndarray) -> Any:
        return values[kept].mean(0) if kept.any() else np.full(values.shape[1:], np.nan)[()]

    likelihood, kl = mean(log.log_likelihood), mean(log.kl)
    return {
        "elbo": likelihood - kl.sum(),
        "loss": mean(log.loss),
        "log_likelihood": likelihood,
        "kl": kl,
        "grad_norm": mean(log.grad_norm),
        "skipped": int(log.skipped.sum()),
    }


def _validated(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    """The bound of validation images, where there are any; the best epoch is kept in mind."""
    found = trainer.validate()
    if found is None:
        return {}
    likelihood, kl = found
    elbo = likelihood - kl.sum()
    if elbo > progress.best_elbo:
        progress.best_elbo, progress.best_epoch = float(elbo), progress.epoch
    return {"valid_log_likelihood": likelihood, "valid_kl": kl, "valid_elbo": elbo}


def _joined(logs: list[EpochLog]) -> EpochLog:
    """One log of several, one after the other."""
    return EpochLog(*(np.concatenate(parts) for parts in zip(*logs, strict=True)))


def _check(
    log: EpochLog,
    steps: np.ndarray,
    trainer: Trainer,
    settings: TrainingSettings,
    progress: Progress,
    run: Run | None,
) -> None:
    """TrainingError at the first value that is not finite, or after too many skips in a row."""
    for i, skipped in enumerate(log.skipped):
        progress.skips_in_a_row = progress.skips_in_a_row + 1 if skipped else 0
        if progress.skips_in_a_row >= settings.max_skips:
            raise TrainingError(
                f"training.skip_norm: {progress.skips_in_a_row} steps in a row were skipped, up to "
                f"step {steps[i]}, the last with a gradient norm of {log.grad_norm[i]:.3g}: raise "
                f"skip_norm (now {settings.skip_norm}) or lower training.learning_rate"
                + _where(run)
            )
        if skipped or (np.isfinite(log.loss[i]) and np.isfinite(log.grad_norm[i])):
            continue
        broken = [site for site, kl in zip(trainer.sites, log.kl[i], strict=True) if not _ok(kl)]
        place = f"the divergence at site {broken[0]}" if broken else "the gradient"
        if not broken and not _ok(log.log_likelihood[i]):
            place = "the log likelihood at site x"
        raise TrainingError(
            f"NaN or infinity in {place}, step {steps[i]} (epoch {progress.epoch + 1}): lower "
            f"training.learning_rate (now {settings.learning_rate:g}) or set training.clip_norm "
            f"(now {settings.clip_norm})" + _where(run)
        )


def out_of_memory(settings: TrainingSettings, run: Run | None) -> TrainingError:
    """The error to raise where a device has no memory left."""
    return TrainingError(
        f"out of memory: lower training.batch_size (now {settings.batch_size})" + _where(run)
    )


def _ok(value: Any) -> bool:
    return bool(np.isfinite(value))


def _where(run: Run | None) -> str:
    if run is None:
        return ""
    return f"; last good checkpoint: {run.last.name if run.last else 'none yet'} in {run.path}"


def _out_of_patience(progress: Progress, settings: TrainingSettings) -> bool:
    if settings.patience is None or progress.best_epoch is None:
        return False
    return progress.epoch - progress.best_epoch >= settings.patience


def _save(run: Run, trainer: Trainer, progress: Progress) -> None:
    state, info = trainer.state()
    files = {"weights": trainer.weights(), "optimizer": state}
    averaged = trainer.averaged_weights()
    if averaged is not None:
        files["ema"] = averaged
    if progress.best is not None:
        files["best"] = progress.best
    if progress.step:
        files["steps"] = _joined(progress.logs)._asdict()
    about = {
        "epoch": progress.epoch,
        "step": progress.step,
        "seconds": progress.seconds,
        "skips_in_a_row": progress.skips_in_a_row,
        "best_epoch": progress.best_epoch,
        "best_elbo": progress.best_elbo if progress.best_epoch is not None else None,
        "trainer": info,
    }
    history = history_of(progress.rows, trainer.sites) if progress.rows else None
    run.save(Checkpoint(files, about, history))


def _go_on(trainer: Trainer, run: Run, leads: bool) -> Progress:
    """Where the last whole checkpoint stands, which is put in place."""
    checkpoint = run.restore(shown=leads)
    if checkpoint is None:  # killed before its first checkpoint: from the beginning
        return Progress()
    files, info = checkpoint.files, checkpoint.info
    trainer.restore(files["weights"], files.get("ema"), files["optimizer"], info["trainer"])
    best_elbo = -math.inf if info["best_elbo"] is None else info["best_elbo"]
    progress = Progress(info["epoch"], info["skips_in_a_row"], info["best_epoch"], best_elbo)
    if info.get("step"):
        progress.step, progress.seconds = info["step"], info["seconds"]
        progress.logs = [EpochLog(**files["steps"])]
    if checkpoint.history is not None:
        progress.rows = rows_of(checkpoint.history)
    progress.best = files.get("best")
    return progress
