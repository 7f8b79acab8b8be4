"""`fit`: stochastic variational inference of a model and a guide, by torch's own optimisers."""

from __future__ import annotations

__all__ = ["fit"]

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch

from ppl_vae import loop
from ppl_vae.pyro import ranks
from ppl_vae.pyro.compiling import compiled
from ppl_vae.pyro.optimizers import device_of
from ppl_vae.pyro.streams import kept_streams
from ppl_vae.pyro.trainer import PyroTrainer
from ppl_vae.runs import Run
from ppl_vae.settings import ObjectiveSettings, TrainingSettings


def fit(
    model: Any,
    guide: Any,
    train: Any,
    *,
    valid: Any = None,
    objective: ObjectiveSettings | None = None,
    run: Run | None = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Iterable[Callable[[Any], Any]] = (),
    **training: Any,
) -> loop.Fit:
    """Train a model and a guide.

    Several processes (torchrun's) share each batch; the first alone writes, shows the bar and calls
    back (`ppl_vae.pyro.ranks`).

    Args:
        model: a Pyro program `model(x=None, *, n=None)`: a module, or a plain function.
        guide: a `Guide`, a module or a plain function over the same latent sites, or one of
            Pyro's automatic guides.
        train: `ppl_vae.data.Images`, or an array (n, c, h, w) in the likelihood's range; images
            that are mapped into memory (`numpy.memmap`) stay on disk, and come in by parts.
        valid: the same; its ELBO decides which weights are the best, and early stopping.
        objective: warm-up, beta, free bits, importance samples (`ObjectiveSettings`).
        run: folder that takes checkpoints, history, TensorBoard scalars.
        resume: go on from the run's last whole checkpoint.
        progress: show a bar.
        callbacks: each called with the history (xarray.Dataset) after every epoch.
        **training: fields of `TrainingSettings`: epochs, batch_size, learning_rate, …

    Returns:
        Fit: history, and `params` of plain functions. Modules are updated in place, and hold
        the last weights.

    Raises:
        UsageError: what was asked for cannot be; the message says what to change.
        TrainingError: NaN, memory or too many skipped steps, with advice.
    """
    settings = TrainingSettings.from_keywords(training)
    goal = objective or ObjectiveSettings()
    ranks.join(settings)
    if run is not None and resume:
        ranks.same("--resume", run.last.name if run.last else "no checkpoint")
    with (
        _surroundings(settings),
        ranks.together(),
        compiled(model, guide, wanted=settings.compile),
    ):
        trainer = None
        try:
            trainer = _trainer(model, guide, train, valid, goal, settings)
            history, best_epoch = loop.train(
                trainer,
                goal,
                settings,
                trainer.full_weight,
                run=run,
                resume=resume,
                show_progress=progress,
                callbacks=callbacks,
                leads=ranks.leads(),
                any_of=ranks.any_of,
            )
        except torch.OutOfMemoryError as error:
            raise loop.out_of_memory(settings, run) from error
        finally:
            if trainer is not None:
                trainer.release()
        return loop.Fit(history, trainer.learned(), best_epoch)


def _trainer(*args: Any) -> PyroTrainer:
    """For one process, or for one of several."""
    if ranks.count() == 1:
        return PyroTrainer(*args)
    from ppl_vae.pyro.sharded import ShardedTrainer

    return ShardedTrainer(*args)


@contextmanager
def _surroundings(settings: TrainingSettings) -> Iterator[None]:
    """Everything global that training sets, put back afterwards."""
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(kept_streams(device_of(settings.device)))
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(pyro.get_param_store().scope())
        stack.callback(torch.set_num_threads, threads)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        yield
