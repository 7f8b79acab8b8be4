r"""Functions of the optimiser's step, in numpy: one epoch's values are computed at once.

They import neither torch nor jax, so both PPLs train under the same numbers.
"""

from __future__ import annotations

__all__ = ["kl_weight", "learning_rate", "ramp"]

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.settings import ObjectiveSettings, TrainingSettings

Steps = NDArray[np.integer] | NDArray[np.floating]


def ramp(steps: Steps, *, duration: float, delay: float = 0.0) -> NDArray[np.float64]:
    r"""Linear rise from 0 to 1: clip((t - delay) / duration, 0, 1); a jump where duration is 0.

    >>> ramp(np.arange(5), duration=2, delay=1).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    since = np.asarray(steps, dtype=np.float64) - delay
    if duration <= 0:
        return (since >= 0).astype(np.float64)
    return np.clip(since / duration, 0.0, 1.0)


def kl_weight(
    steps: Steps, settings: ObjectiveSettings, steps_per_epoch: int, full_weight: float
) -> NDArray[np.float64]:
    r"""Weight of the divergences at each step: its floor, a linear rise, then `full_weight`.

    .. math:: w(t) = \beta \max(f, \min(1, \max(0, (t - D) / W)))

    with f = `warmup_floor`, and D and W the steps of `delay_epochs` and `warmup_epochs`; for W = 0
    a jump at D.

    Args:
        steps: (steps,), counted from 0 over the whole training.
        settings: delay and warm-up in epochs, floor as a share of β.
        full_weight: β (`ObjectiveSettings.full_weight`).

    Returns:
        (steps,).
    """
    risen = ramp(
        steps,
        duration=settings.warmup_epochs * steps_per_epoch,
        delay=settings.delay_epochs * steps_per_epoch,
    )
    return full_weight * np.maximum(risen, settings.warmup_floor)


def learning_rate(
    steps: Steps, settings: TrainingSettings, steps_per_epoch: int
) -> NDArray[np.float64]:
    r"""Learning rate at each step.

    .. math:: r(t) = r_{max}\, c(t)\, \min(1, (t + 1) / W)

    with W the steps of `lr_warmup_epochs` (for 0 there is no such factor), and c by `schedule`, in
    which s rises from 0 to 1 over `decay_epochs`, after `decay_delay_epochs`, and
    f = `final_fraction`:

    - "constant": 1;
    - "linear": f + (1 - f) (1 - s);
    - "cosine": f + (1 - f) (1 + cos(π s)) / 2;
    - "burda": 10^(-i/7) for 3^i passes, i = 0..7 (Burda et al. 2016, section 5), then as at last.

    Args:
        steps: (steps,), counted from 0 over the whole training.

    Returns:
        (steps,).
    """
    epochs = np.asarray(steps, dtype=np.float64) / steps_per_epoch
    rate = settings.learning_rate * _decay(epochs, settings)
    if settings.lr_warmup_epochs > 0:
        # The first step counts as 1, so that it moves something.
        rate = rate * np.clip((epochs + 1 / steps_per_epoch) / settings.lr_warmup_epochs, 0.0, 1.0)
    return rate


def _decay(epochs: NDArray[np.float64], settings: TrainingSettings) -> NDArray[np.float64]:
    if settings.schedule == "constant":
        return np.ones_like(epochs)
    if settings.schedule == "burda":
        # Burda et al. 2016, section 5: 3^i passes at a rate of 10^(-i/7), i = 0..7.
        ends = np.cumsum(3.0 ** np.arange(8))
        stage = np.minimum(np.searchsorted(ends, epochs, side="right"), 7)
        return 10.0 ** (-stage / 7)
    if settings.decay_by_epoch:
        epochs = np.floor(epochs)
    length: Any = settings.decay_epochs  # which `TrainingSettings` wants of these schedules
    done = np.clip((epochs - settings.decay_delay_epochs) / length, 0.0, 1.0)
    left = 1.0 - done if settings.schedule == "linear" else 0.5 * (1.0 + np.cos(np.pi * done))
    return settings.final_fraction + (1.0 - settings.final_fraction) * left
