"""Walks through a model's hierarchy: some sites held, some at their means, the rest drawn anew.

Any program will do: a handler puts values in the place of draws, site by site in the program's own
order, so a site sees what was chosen for those before it.
"""

from __future__ import annotations

__all__ = ["choose", "interpolate", "posterior_means", "redraw", "traverse"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.checks import check_held, check_pairs, check_units
from ppl_vae.errors import UsageError
from ppl_vae.pyro.asking import asked, keeps_order
from ppl_vae.pyro.guide import latent_sites
from ppl_vae.pyro.objective import traces
from ppl_vae.pyro.sampling import _values


class choose(Messenger):
    """Handler: each latent site's value is `pick(name, distribution)`, a draw where that is None.

    A site whose value is known already (observed, replayed) keeps it. Under a guide the
    distribution is the posterior.
    """

    def __init__(self, pick: Callable[[str, Any], Any]) -> None:
        super().__init__()
        self.pick = pick

    def _pyro_sample(self, msg: Any) -> None:
        known = msg["done"] or msg["is_observed"] or msg["name"] == "x"
        if known or site_is_subsample(msg):
            return
        value = self.pick(msg["name"], msg["fn"])
        if value is not None:
            msg["value"], msg["done"] = value, True


def redraw(
    model: Any,
    held: Mapping[str, Any] | None = None,
    *,
    n: int | None = None,
    at_mean: bool = False,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> dict[str, Tensor]:
    """The model generates with some latent sites held: what the others are left to say.

    Args:
        held: {site: values (n, *event_shape)}; the other sites are drawn from their priors, which
            see the held ones above them. With the top sites of images held and those below
            redrawn, what stays of the images is what the top sites control.
        n: how many images, where nothing is held.
        at_mean: put the other sites to their priors' means instead, where they have any.
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.

    Returns:
        {site: (n, …)}, "x" (n, c, h, w), and "x_mean", the likelihood's mean.

    Raises:
        UsageError: a site that the model does not have, or values of another shape.
    """
    held = held or {}
    with asked(model, None, None, params, seed, batch_norm, lambda: model(n=100)) as data:
        n = check_held(
            {name: np.shape(value) for name, value in held.items()}, latent_sites(model), n
        )
        values = {
            name: torch.as_tensor(value, dtype=data.dtype, device=data.device)
            for name, value in held.items()
        }

        def pick(name: str, fn: Any) -> Any:
            return values[name] if name in values else _centre(fn) if at_mean else None

        with choose(pick):
            return _values(poutine.trace(model).get_trace(n=n))


def posterior_means(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int = 1000,
) -> dict[str, Tensor]:
    """The guide walked in means, and the mean image under them.

    Each site is at its posterior's mean given the means of the sites before it, so nothing is
    random but a dynamic binarisation. A posterior without a mean in closed form, such as a flow's,
    is drawn.

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`.
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.
        block: images that pass through the nets at once.

    Returns:
        {site: (n, …)}, and "x_mean" (n, c, h, w), the likelihood's mean.
    """
    found = []
    with asked(model, guide, x, params, seed, batch_norm) as data:
        block = len(data) if keeps_order(guide) else block
        for start in range(0, len(data), block):
            with choose(lambda name, fn: _centre(fn)):
                images = data.batch(slice(start, start + block))
                found.append(_values(traces(model, guide, images)[0]))
    return {name: torch.cat([part[name] for part in found]) for name in found[0] if name != "x"}


def interpolate(
    model: Any,
    guide: Any,
    x: Any,
    pairs: Sequence[tuple[int, int]],
    num_steps: int = 9,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> dict[str, Tensor]:
    r"""From one image to another in posterior means, walked through the hierarchy.

    .. math:: z_l(t) = (1 - t)\, E[q(z_l | z_{>l}(t), x_i)] + t\, E[q(z_l | z_{>l}(t), x_j)]

    At t = 0 and t = 1 it is `posterior_means` of the two images.

    Args:
        pairs: positions (i, j) in `x`.
        num_steps: values of t, both ends among them.
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.

    Returns:
        {site: (num_steps, pairs, …)}, and "x_mean", the likelihood's mean.

    Raises:
        UsageError: an automatic guide, positions that are not there, or fewer than two steps.
    """
    _refuse_fixed(guide, "interpolate")
    with asked(model, guide, x, params, seed, batch_norm) as data:
        first, second = check_pairs(pairs, len(data), num_steps)
        images = data.batch(slice(None))
        both = torch.cat([images[index].repeat(num_steps, 1, 1, 1) for index in (first, second)])
        rows = num_steps * len(pairs)
        t = torch.linspace(0, 1, num_steps, dtype=data.dtype, device=images.device)
        t = t.repeat_interleave(len(pairs))

        def pick(name: str, fn: Any) -> Any:
            value = _centre(fn)
            value = fn() if value is None else value
            weight = t.reshape(-1, *(1 for _ in value.shape[1:]))
            mixed = torch.lerp(value[:rows], value[rows:], weight)
            return torch.cat([mixed, mixed])

        with choose(pick):
            found = _values(traces(model, guide, both)[0])
    return {
        name: value[:rows].unflatten(0, (num_steps, len(pairs)))
        for name, value in found.items()
        if name != "x"
    }


def traverse(
    model: Any,
    guide: Any,
    x: Any,
    site: str,
    units: Sequence[int],
    values: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> dict[str, Tensor]:
    """Images as single units of one site move, the others held.

    The sites above stay at the images' posterior means, so do the other units of `site`; the sites
    below follow at their priors' means.

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`.
        units: positions in the site's event, flattened; one after the other.
        values: (values,) that each of them takes, or (units, values).
        params, seed, batch_norm: see `ppl_vae.pyro.asking`.

    Returns:
        {site: (units, values, n, …)}, and "x_mean", the likelihood's mean.

    Raises:
        UsageError: a site that the model does not have, or units that the site does not have.
    """
    drawn: dict[str, Any] = {"params": params, "seed": seed, "batch_norm": batch_norm}
    means = posterior_means(model, guide, x, **drawn)
    sites = [name for name in means if name != "x_mean"]  # in the model's order
    check_units(site, units, {name: tuple(means[name].shape[1:]) for name in sites})
    moved = np.asarray(values, dtype=np.float64)
    moved = np.broadcast_to(moved, (len(units), moved.shape[-1]))
    n, count = len(means[site]), moved.shape[1]
    held = {}
    for name in sites[: sites.index(site) + 1]:
        value = np.asarray(means[name])
        tiled = np.tile(value, (len(moved), count, *(1 for _ in value.shape)))
        if name == site:
            for row, unit, line in zip(tiled, units, moved, strict=True):
                row.reshape(count, n, -1)[:, :, unit] = line[:, None]
        held[name] = tiled.reshape(-1, *value.shape[1:])
    found = redraw(model, held, at_mean=True, **drawn)
    return {
        name: value.unflatten(0, (len(moved), count, n))
        for name, value in found.items()
        if name != "x"
    }


def _centre(fn: Any) -> Any:
    """The distribution's mean; None where it has none in closed form."""
    try:
        mean = fn.mean
    except (NotImplementedError, AttributeError):
        return None
    return mean.expand(fn.batch_shape + fn.event_shape)


def _refuse_fixed(guide: Any, what: str) -> None:
    """UsageError for guides that cannot be asked about repeated images."""
    if keeps_order(guide):
        raise UsageError(
            f"{what}: {type(guide).__name__} keeps one posterior for each place in the batch, so "
            "it cannot be asked about images in another order: take an amortised guide"
        )
