"""`fit`: stochastic variational inference of a model and a guide, by optax's optimisers."""

from __future__ import annotations

__all__ = ["fit"]

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax

from ppl_vae import loop
from ppl_vae.errors import UsageError
from ppl_vae.numpyro import ranks
from ppl_vae.numpyro.mesh import mesh_of
from ppl_vae.numpyro.optimizers import device_of
from ppl_vae.numpyro.trainer import NumPyroTrainer
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

    Several devices share each batch (`devices="all"`), and several processes (JAX's), of which the
    first alone writes, shows the bar and calls back (`ppl_vae.numpyro.ranks`).

    Args:
        model: a NumPyro program `model(x=None, *, n=None)`: a module, or a plain function.
        guide: a `Guide`, a module or a plain function over the same latent sites, or one of
            NumPyro's automatic guides.
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
    with _surroundings(settings) as device:
        try:
            trainer = _trainer(model, guide, train, valid, goal, settings, device)
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
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise loop.out_of_memory(settings, run) from error
        trainer.write_back()
        return loop.Fit(history, trainer.learned(), best_epoch)


def _trainer(*args: Any) -> NumPyroTrainer:
    """For one device, the last of the arguments, or for several; one of several runs, or alone."""
    settings: TrainingSettings = args[-2]
    mesh = mesh_of(settings.device, settings.devices)
    if mesh is None:
        from ppl_vae.numpyro.at_once import TogetherTrainer, here

        return NumPyroTrainer(*args) if here() is None else TogetherTrainer(*args)
    from ppl_vae.numpyro.sharded import ShardedTrainer

    with_mesh = (*args[:-1], mesh)
    return ShardedTrainer(*with_mesh)


@contextmanager
def _surroundings(settings: TrainingSettings) -> Iterator[Any]:
    """Everything global that training sets, put back afterwards; yields the device."""
    device = device_of(settings.device)
    if settings.precision == "float64" and not jax.config.read("jax_enable_x64"):
        raise UsageError("training.precision: float64 needs the environment JAX_ENABLE_X64=1")
    with ExitStack() as stack:
        stack.enter_context(jax.default_device(device))
        yield device
