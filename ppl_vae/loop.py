"""What training is around its epochs, for both PPLs: history, stopping, checkpoints, advice.

History is an xarray.Dataset over `step` (the optimiser's, at each epoch's end), `site` (z1 first)
and `bound` (lowest, highest). Means over an epoch's images, under the weights as they were:
`elbo` (divergence weight 1), `log_likelihood`, `kl`; nats per image, `elbo` higher is better.

At an epoch's end, of the first training images and under one draw of the sites above: the lowest
and highest `posterior_loc` and `posterior_scale`, and how many units are active, by the variance
over images of their posterior means (`active_units`, Burda et al. 2015) and by their mean
divergence (`active_units_kl`), either above 0.01. Where latents are discrete: how many positions
have each code (`code_counts`, over `site` and `code`), how many codes have any (`used_codes`), and
the perplexity of the counts.
"""

from __future__ import annotations

__all__ = ["EpochLog", "Fit", "Stop", "Trainer", "code_use", "train"]

import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr
from tqdm import tqdm

from ppl_vae import schedules
from ppl_vae.codebooks import perplexity
from ppl_vae.errors import TrainingError
from ppl_vae.runs import Arrays, Checkpoint, Run
from ppl_vae.settings import ObjectiveSettings, TrainingSettings

ACTIVE = 0.01  # a unit's least variance of means, or least nats of divergence, to count as active
SAMPLE_EPOCHS = (1, 2, 5)  # times powers of ten: epochs at which prior samples are kept


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
    """What a PPL brings: its epochs and its state."""

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
    ) -> EpochLog: ...  # of an epoch's steps from `first` on, as many as there are weights
    def validate(self) -> tuple[float, np.ndarray] | None: ...
    def posterior_range(self) -> dict[str, np.ndarray] | None: ...  # history's
    def prior_samples(self, num_samples: int) -> np.ndarray | None: ...
    def weights(self) -> Arrays: ...
    def averaged_weights(self) -> Arrays | None: ...
    def state(self) -> tuple[Arrays, dict[str, Any]]: ...
    def restore(
        self, weights: Arrays, averaged: Arrays | None, state: Arrays, info: Any
    ) -> None: ...


@dataclass(frozen=True)
class Fit:
    """What `fit` gives back.

    Attributes:
        history: see `ppl_vae.loop`.
        params: {name: array} learned by plain functions, for `log_weights(..., params=...)`;
            empty for modules, which are updated in place.
        best_epoch: epoch of the highest validation ELBO, or None without validation.
    """

    history: xr.Dataset
    params: dict[str, Any]
    best_epoch: int | None = None


class Stop(Exception):
    """Raised by a callback: training ends here, with a checkpoint of this epoch."""


@dataclass
class Progress:
    """What a run knows about itself; goes into every checkpoint.

    Attributes:
        epoch: whole ones.
        step: steps taken of the next.
        seconds: of those steps.
        logs: of those steps.
    """

    epoch: int = 0
    skips_in_a_row: int = 0
    best_epoch: int | None = None
    best_elbo: float = -math.inf
    step: int = 0
    seconds: float = 0.0
    logs: list[EpochLog] = field(default_factory=list)


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
) -> tuple[xr.Dataset, int | None]:
    """Run epochs until `settings.epochs` or early stopping; (history, best epoch).

    Of several processes one `leads`: the others begin where it does, and write and show nothing.
    """
    progress, best = Progress(), None
    rows: list[dict[str, Any]] = []
    if run is not None and resume:
        progress, rows, best = _go_on(trainer, run, leads)
    if not leads:
        run, show_progress, callbacks = None, False, ()
    board = _board(run, rows, trainer.sites)
    saved_at, last_saved = time.monotonic(), progress.epoch

    def save_if_due() -> None:
        nonlocal saved_at, last_saved
        if run is not None and time.monotonic() - saved_at >= settings.checkpoint_seconds:
            _save(run, trainer, progress, rows, best)
            saved_at, last_saved = time.monotonic(), progress.epoch

    with _bar(trainer, settings, progress, show_progress) as bar:
        while progress.epoch < settings.epochs and not _out_of_patience(progress, settings):
            row = _one_epoch(
                trainer, objective, settings, full_weight, progress, bar, run, save_if_due
            )
            rows.append(row)
            if progress.best_epoch == progress.epoch:
                best = trainer.weights()
            _tell(board, row, trainer.sites)
            try:
                for callback in callbacks:
                    callback(history_of(rows, trainer.sites))
            except Stop:
                if run is not None:
                    _save(run, trainer, progress, rows, best)
                raise
            if run is not None:
                _keep_samples(run, trainer, progress.epoch)
                save_if_due()
    history = history_of(rows, trainer.sites)
    if run is not None and last_saved < progress.epoch:
        _save(run, trainer, progress, rows, best)
    return history, progress.best_epoch


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
    begun = time.perf_counter() - progress.seconds
    per_epoch = trainer.steps_per_epoch
    steps = np.arange(progress.epoch * per_epoch, (progress.epoch + 1) * per_epoch)
    kl_weight = schedules.kl_weight(steps, objective, per_epoch, full_weight)
    rate = schedules.learning_rate(steps, settings, per_epoch)
    while progress.step < per_epoch:
        first, several = progress.step, settings.checkpoint_steps or per_epoch
        some = slice(first, min(first + several, per_epoch))
        log = trainer.run_epoch(progress.epoch, kl_weight[some], rate[some], bar.update, first)
        _check(log, steps[some], trainer, settings, progress, run)
        progress.step = some.stop
        progress.logs.append(log)
        progress.seconds = time.perf_counter() - begun
        if progress.step < per_epoch:
            pause()
    log = _joined(progress.logs)
    seconds = progress.seconds
    progress.epoch += 1
    progress.step, progress.seconds, progress.logs = 0, 0.0, []
    kept = log.skipped == 0
    kl = log.kl[kept].mean(0) if kept.any() else np.full(len(trainer.sites), np.nan)
    likelihood = log.log_likelihood[kept].mean() if kept.any() else np.nan
    row: dict[str, Any] = {
        "epoch": progress.epoch,
        "step": progress.epoch * per_epoch,
        "elbo": likelihood - kl.sum(),
        "loss": log.loss[kept].mean() if kept.any() else np.nan,
        "log_likelihood": likelihood,
        "kl": kl,
        "kl_weight": kl_weight[-1],
        "learning_rate": rate[-1],
        "grad_norm": log.grad_norm[kept].mean() if kept.any() else np.nan,
        "skipped": int(log.skipped.sum()),
        "images_per_second": per_epoch * trainer.batch_size / seconds,
        "seconds": seconds,
    }
    validated = trainer.validate()
    if validated is not None:
        row["valid_log_likelihood"], row["valid_kl"] = validated
        row["valid_elbo"] = validated[0] - validated[1].sum()
        if row["valid_elbo"] > progress.best_elbo:
            progress.best_elbo, progress.best_epoch = float(row["valid_elbo"]), progress.epoch
    ranges = trainer.posterior_range()
    if ranges is not None:
        row |= ranges
    bar.set_postfix_str(_summary(row, trainer.sites))
    return row


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


def out_of_memory(trainer: Trainer, run: Run | None) -> TrainingError:
    """What to say, and do, where a device has no memory left."""
    return TrainingError(
        f"out of memory: lower training.batch_size (now {trainer.batch_size})" + _where(run)
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


def _save(run: Run, trainer: Trainer, progress: Progress, rows: list[Any], best: Any) -> None:
    state, info = trainer.state()
    files = {"weights": trainer.weights(), "optimizer": state}
    averaged = trainer.averaged_weights()
    if averaged is not None:
        files["ema"] = averaged
    if best is not None:
        files["best"] = best
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
    run.save(Checkpoint(files, about, history_of(rows, trainer.sites) if rows else None))


def _go_on(
    trainer: Trainer, run: Run, leads: bool
) -> tuple[Progress, list[dict[str, Any]], Arrays | None]:
    """Progress, history's rows and best weights of the last whole checkpoint, put in place."""
    checkpoint = run.restore(shown=leads)
    if checkpoint is None:  # killed before its first checkpoint: from the beginning
        return Progress(), [], None
    files, info = checkpoint.files, checkpoint.info
    trainer.restore(files["weights"], files.get("ema"), files["optimizer"], info["trainer"])
    best_elbo = -math.inf if info["best_elbo"] is None else info["best_elbo"]
    progress = Progress(info["epoch"], info["skips_in_a_row"], info["best_epoch"], best_elbo)
    if info.get("step"):
        progress.step, progress.seconds = info["step"], info["seconds"]
        progress.logs = [EpochLog(**files["steps"])]
    rows = [] if checkpoint.history is None else _rows(checkpoint.history)
    return progress, rows, files.get("best")


UNITS = {
    "elbo": "nats per image",
    "loss": "nats per image",
    "log_likelihood": "nats per image",
    "kl": "nats per image",
    "valid_elbo": "nats per image",
    "valid_log_likelihood": "nats per image",
    "valid_kl": "nats per image",
    "kl_weight": "1",
    "learning_rate": "1",
    "grad_norm": "nats per image per unit of weight",
    "skipped": "steps in the epoch",
    "images_per_second": "1 / s",
    "seconds": "s",
    "posterior_loc": "latent units",
    "posterior_scale": "latent units",
    "active_units": "1",
    "active_units_kl": "1",
    "code_counts": "positions",
    "used_codes": "codes",
    "perplexity": "codes",
}
DIMS = {
    "kl": ("step", "site"),
    "valid_kl": ("step", "site"),
    "posterior_loc": ("step", "site", "bound"),
    "posterior_scale": ("step", "site", "bound"),
    "active_units": ("step", "site"),
    "active_units_kl": ("step", "site"),
    "code_counts": ("step", "site", "code"),
    "used_codes": ("step", "site"),
    "perplexity": ("step", "site"),
}


def code_use(counts: dict[str, Any], sites: tuple[str, ...]) -> dict[str, np.ndarray]:
    """History's rows of {site: (K,) positions with each code}; NaN where a site has no such code.

    Nothing where no site is discrete.
    """
    if not counts:
        return {}
    table = np.full((len(sites), max(len(part) for part in counts.values())), np.nan)
    for site, part in counts.items():
        if site in sites:
            table[sites.index(site), : len(part)] = part
    used = np.where(np.isnan(table).all(1), np.nan, (table > 0).sum(1))
    shares = np.nan_to_num(table).T
    return {
        "code_counts": table,
        "used_codes": used,
        "perplexity": np.where(np.isnan(used), np.nan, perplexity(shares)),
    }


def history_of(rows: list[dict[str, Any]], sites: tuple[str, ...]) -> xr.Dataset:
    """The Dataset of epochs' rows."""
    names = [name for name in UNITS if rows and name in rows[0]]
    data = {
        name: (
            DIMS.get(name, ("step",)),
            np.array([row[name] for row in rows]),
            {"units": UNITS[name], "long_name": name.replace("_", " ")},
        )
        for name in names
    }
    coords = {
        "step": np.array([row["step"] for row in rows], dtype=np.int64),
        "epoch": ("step", np.array([row["epoch"] for row in rows], dtype=np.int64)),
        "site": list(sites),
        "bound": ["lowest", "highest"],
    }
    return xr.Dataset(data, coords)


def _rows(history: xr.Dataset) -> list[dict[str, Any]]:
    names = ["epoch", *history.data_vars]
    return [
        {"step": int(step), **{name: history[name].values[i] for name in names}}
        for i, step in enumerate(history["step"].values)
    ]


def _summary(row: dict[str, Any], sites: tuple[str, ...]) -> str:
    kl = " ".join(f"{value:.1f}" for value in row["kl"])
    if sites:
        kl = f"kl {sites[0]}..{sites[-1]} {kl} "
    valid = f" valid {row['valid_elbo']:.2f}" if "valid_elbo" in row else ""
    return (
        f"elbo {row['elbo']:.2f}{valid} rec {-row['log_likelihood']:.1f} "
        f"{kl}| {row['images_per_second']:.0f} images/s"
    )


def _bar(trainer: Trainer, settings: TrainingSettings, progress: Progress, show: bool) -> tqdm:
    shape = "{desc} {n_fmt}/{total_fmt} steps {bar:12} {elapsed}<{remaining} {postfix}"
    return tqdm(
        total=settings.epochs * trainer.steps_per_epoch,
        initial=progress.epoch * trainer.steps_per_epoch + progress.step,
        desc="training",
        bar_format=shape,
        disable=not show,
        # A log file gets a line now and then, a terminal a live bar.
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
    )


def _keep_samples(run: Run, trainer: Trainer, epoch: int) -> None:
    """Prior samples at epochs 1, 2, 5, 10, 20, 50, … as RUN/samples/epoch-N.npy, uint8 grey."""
    power = 10 ** int(math.log10(epoch))
    if epoch % power or epoch // power not in SAMPLE_EPOCHS:
        return
    images = trainer.prior_samples(8)
    if images is None:
        return
    folder = run.path / "samples"
    folder.mkdir(exist_ok=True)
    np.save(folder / f"epoch-{epoch:06d}.npy", np.round(images.clip(0, 1) * 255).astype(np.uint8))


def _board(run: Run | None, rows: list[dict[str, Any]], sites: tuple[str, ...]) -> Any:
    """TensorBoard's writer, told again what a resumed run's history holds."""
    if run is None:
        return None
    import shutil

    from tensorboard.summary import Writer

    folder = run.path / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    board = Writer(str(folder))
    for row in rows:
        _tell(board, row, sites)
    return board


def _tell(board: Any, row: dict[str, Any], sites: tuple[str, ...]) -> None:
    if board is None:
        return
    for name, value in row.items():
        if np.ndim(value) == 0 and name not in ("step", "epoch"):
            board.add_scalar(name, float(value), int(row["step"]))
        elif name in ("kl", "valid_kl", "used_codes", "perplexity"):
            for site, part in zip(sites, value, strict=True):
                board.add_scalar(f"{name}/{site}", float(part), int(row["step"]))
    board.flush()
