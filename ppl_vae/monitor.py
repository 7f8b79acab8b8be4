"""What a run shows while it trains: a bar, TensorBoard's scalars, samples of the prior."""

from __future__ import annotations

__all__ = ["bar", "board_of", "keep_samples", "summary", "tell"]

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ppl_vae.settings import TrainingSettings

if TYPE_CHECKING:
    from ppl_vae.loop import Progress, Trainer
    from ppl_vae.runs import Run

SAMPLE_EPOCHS = (1, 2, 5)  # times powers of ten: epochs at which prior samples are kept


def summary(row: dict[str, Any], sites: tuple[str, ...]) -> str:
    """What the bar says of an epoch's row, nats per image.

    ELBO, higher is better, validation's too if there is any; the reconstruction's -log p(x | z);
    divergences from z1 up. At the end images a second.
    """
    kl = " ".join(f"{value:.1f}" for value in row["kl"])
    if sites:
        kl = f"kl {sites[0]}..{sites[-1]} {kl} "
    valid = f" valid {row['valid_elbo']:.2f}" if "valid_elbo" in row else ""
    return (
        f"elbo {row['elbo']:.2f}{valid} rec {-row['log_likelihood']:.1f} "
        f"{kl}| {row['images_per_second']:.0f} images/s"
    )


def bar(trainer: Trainer, settings: TrainingSettings, progress: Progress, show: bool) -> tqdm:
    """tqdm's bar over all steps of a training, from where it stands; hidden unless `show`."""
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


def keep_samples(run: Run, trainer: Trainer, epoch: int) -> None:
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


def board_of(run: Run | None, rows: list[dict[str, Any]], sites: tuple[str, ...]) -> Any:
    """TensorBoard's writer, told again what a resumed run's history holds."""
    if run is None:
        return None
    import shutil

    from tensorboard.summary import Writer

    folder = run.path / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    board = Writer(str(folder))
    for row in rows:
        tell(board, row, sites)
    return board


def tell(board: Any, row: dict[str, Any], sites: tuple[str, ...]) -> None:
    """An epoch's numbers, and divergences and codes by site, to TensorBoard, if `board` is one."""
    if board is None:
        return
    for name, value in row.items():
        if np.ndim(value) == 0 and name not in ("step", "epoch"):
            board.add_scalar(name, float(value), int(row["step"]))
        elif name in ("kl", "valid_kl", "used_codes", "perplexity"):
            for site, part in zip(sites, value, strict=True):
                board.add_scalar(f"{name}/{site}", float(part), int(row["step"]))
    board.flush()
