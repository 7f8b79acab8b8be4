r"""Annealed importance sampling, what both PPLs share: the path, its settings, what comes out.

.. math:: f_\beta(z) = p_0(z)^{1 - \beta}\, p(x, z)^\beta, \qquad
    \log w = \sum_t (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{p_0(z_{t-1})}

p_0 is the prior or the guide. Chains of Hamiltonian moves follow the path (Neal 2001, Annealed
importance sampling; Wu et al. 2017, On the quantitative analysis of decoder-based generative
models, arXiv 1611.04273). Backwards from an exact posterior draw they bound log p(x) from above
(Grosse, Ghahramani & Adams 2015, Sandwiching the marginal likelihood using bidirectional Monte
Carlo, arXiv 1511.02543).
"""

from __future__ import annotations

__all__ = ["Annealed", "AnnealingSettings", "joined", "schedule", "stretched"]

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ppl_vae.errors import UsageError, nearest

Array = NDArray[np.floating]
Start = Literal["prior", "guide"]

ADAPTATION = 0.2  # by which a pilot's log step size follows its acceptance
WARM_UP = 50  # moves at the path's start, by which the pilots find a first step size


@dataclass(frozen=True)
class AnnealingSettings:
    """How the chains run.

    Attributes:
        start: what the path begins at, the prior or the guide.
        num_temperatures: β from 0 to 1, both among them; 2 is importance sampling.
        num_chains: an image.
        num_leapfrogs: of each Hamiltonian move; there is one move at each temperature.
        pilot_chains, pilot_temperatures: of the run that finds the step sizes.
        target_acceptance: of the Metropolis test, which the pilots aim at.

    Raises:
        UsageError: a number out of its range.
    """

    start: Start = "prior"
    num_temperatures: int = 1000
    num_chains: int = 16
    num_leapfrogs: int = 10
    pilot_chains: int = 8
    pilot_temperatures: int = 200
    target_acceptance: float = 0.65

    def __post_init__(self) -> None:
        if self.start not in get_args(Start):
            raise UsageError(
                f"start: unknown {self.start!r}: {nearest(self.start, get_args(Start))}"
            )
        least = {"num_temperatures": 2, "num_chains": 1, "num_leapfrogs": 1}
        least |= {"pilot_chains": 1, "pilot_temperatures": 2}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UsageError(f"{name}: expected at least {low}, came {getattr(self, name)}")
        if not 0 < self.target_acceptance < 1:
            raise UsageError(
                f"target_acceptance: expected between 0 and 1, came {self.target_acceptance}"
            )


class Annealed(NamedTuple):
    """What the chains found.

    Attributes:
        forward: (chain, image), nats: log weights whose exponentials have mean p(x).
        reverse: (chain, image), nats: log weights of chains from an exact posterior draw
            backwards, whose exponentials have mean 1 / p(x); or None.
        acceptance: (image,), mean over forward moves; NaN where there were none.
        step_size: (temperature, image), found by pilot chains before any of it.
    """

    forward: Array
    reverse: Array | None
    acceptance: Array
    step_size: Array


def schedule(num_temperatures: int, sharpness: float = 4.0) -> NDArray[np.float64]:
    r"""β from 0 to 1, dense at both ends (Grosse et al. 2015, section 5; Wu et al. 2017, 3.2).

    .. math:: \beta_t \propto \sigma(\delta (2t / T - 1)) - \sigma(-\delta)

    >>> schedule(3).tolist()
    [0.0, 0.5, 1.0]
    """
    rises = 1 / (1 + np.exp(-sharpness * np.linspace(-1, 1, num_temperatures)))
    return np.asarray((rises - rises[0]) / (rises[-1] - rises[0]))


def stretched(log_steps: Array, num_temperatures: int) -> NDArray[np.float64]:
    """Step sizes (num_temperatures, image) from the pilots' logarithms (pilot temperature, image).

    The logarithms are averaged over a tenth of the path, then interpolated along it.
    """
    pilots = len(log_steps)
    half = max(1, pilots // 20)
    padded = np.pad(np.asarray(log_steps, dtype=np.float64), ((half, half), (0, 0)), mode="edge")
    smooth = np.stack([padded[i : i + 2 * half + 1].mean(0) for i in range(pilots)])
    at = np.linspace(0, pilots - 1, num_temperatures)
    below = np.minimum(at.astype(int), pilots - 2)
    share = (at - below)[:, None]
    return np.exp((1 - share) * smooth[below] + share * smooth[below + 1])


def joined(parts: Iterable[Annealed]) -> Annealed:
    """Blocks of images as one."""
    fields = zip(*parts, strict=True)
    together = [None if f[0] is None else np.concatenate(f, axis=-1) for f in fields]
    return Annealed(*together)  # type: ignore[arg-type]
