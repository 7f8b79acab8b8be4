"""Temperatures of a hierarchy's latents: one for all of them, or one for each."""

from __future__ import annotations

__all__ = ["Temperature", "check_factor", "check_temperature", "read_temperature"]

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from ppl_vae.checks import natural
from ppl_vae.errors import UsageError, nearest

Temperature: TypeAlias = float | Sequence[float] | Mapping[str, float]
"""A factor for all latents, or one for each from z1 up, or {site: factor}, others being 1."""


def check_temperature(
    given: Temperature, sites: Callable[[], Iterable[str]]
) -> float | dict[str, float]:
    """The factor of all sites, or {site: factor}.

    Args:
        given: see `Temperature`.
        sites: names of the model's latents, asked for where there is more than one factor.

    Raises:
        UsageError: a factor that is not above 0 or not finite, a site that is not there, too few or
            too many.

    >>> check_temperature([0.9, 0.5], lambda: ["z2", "z1"])
    {'z1': 0.9, 'z2': 0.5}
    """
    if isinstance(given, int | float):
        check_factor(given)
        return float(given)
    names = sorted(sites(), key=natural)
    if not isinstance(given, Mapping):
        if len(given) != len(names):
            raise UsageError(
                f"temperature: expected {len(names)} factors, from {names[0]} to {names[-1]}, came "
                f"{len(given)}: give one for each, or {{site: factor}} for some"
            )
        given = dict(zip(names, given, strict=True))
    for name, factor in given.items():
        if name not in names:
            raise UsageError(f"temperature: no latent site {name!r}: {nearest(name, names)}")
        check_factor(factor)
    return {name: float(factor) for name, factor in given.items()}


def read_temperature(text: str) -> float | dict[str, float]:
    """As the command line has it: a number, or factors of some sites.

    >>> read_temperature("0.7"), read_temperature("z1=0.9,z2=0.5")
    (0.7, {'z1': 0.9, 'z2': 0.5})
    """
    found: dict[str, float] = {}
    try:
        if "=" not in text:
            whole = float(text)
            check_factor(whole)
            return whole
        for piece in text.split(","):
            name, _, factor = piece.partition("=")
            found[name.strip()] = float(factor)
            check_factor(found[name.strip()])
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(
            f"temperature: expected a number, or SITE=NUMBER,…, came {text!r}: such as 0.7 or "
            "z1=0.9,z2=0.5"
        ) from error
    return found


def check_factor(factor: float) -> None:
    """UsageError where one factor is not above 0, or not finite."""
    if not 0 < factor < math.inf:
        raise UsageError(
            f"temperature: expected above 0 and finite, came {factor}: 1 is the prior's own"
        )
