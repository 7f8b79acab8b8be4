"""Importance weights of images, in blocks as large as memory allows."""

from __future__ import annotations

__all__ = ["ROWS", "log_weights", "stream_log_weights"]

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ppl_vae.errors import UsageError
from ppl_vae.memory import rows_within
from ppl_vae.pyro import ranks
from ppl_vae.pyro.asking import asked, batch_norms, keeps_order
from ppl_vae.pyro.data import DeviceImages
from ppl_vae.pyro.densities import repeated
from ppl_vae.pyro.guide import Guide
from ppl_vae.pyro.memory import free, slope
from ppl_vae.pyro.objective import Objective, traces
from ppl_vae.pyro.sharing import Own, Share
from ppl_vae.pyro.sharing import whole as whole_rows
from ppl_vae.pyro.streams import kept_streams

ROWS = 8192  # images times samples that pass through the nets at once, at most
NOISE = 2**26  # numbers that a site draws at once, at most
HELD = 1_000_000  # weights that a block of images has at most: memory is flat in samples too


def log_weights(
    model: Any,
    guide: Any,
    x: Any,
    num_samples: int,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
    spread: bool = False,
) -> Tensor:
    """Log importance weights log p(x, z) - log q(z | x) of draws from the guide.

    Takes any Pyro model and guide whose data plate is sized by len(x): rows of `x` are repeated
    and the pair is called with that longer batch, in blocks, so programs see no further axes.

    Args:
        x: images (n, c, h, w) in the likelihood's range, or `ppl_vae.data.Images`.
        num_samples: K.
        params: what `fit` learned for plain functions.
        seed: of the draws.
        batch_norm: see `ppl_vae.pyro.asking`.
        block: images times samples that pass through the nets at once; None takes what fits into
            a quarter of the memory that is free. The weights are the same, to rounding.
        spread: share the images among torchrun's processes, all of which have to call; each then
            has the weights of all images, those of one process to rounding.

    Returns:
        (num_samples, images), nats, on the CPU.

    Raises:
        UsageError: K below 1, or a latent shared between images.
    """
    blocks = stream_log_weights(
        model,
        guide,
        x,
        num_samples,
        params=params,
        seed=seed,
        batch_norm=batch_norm,
        block=block,
        spread=spread,
    )
    return torch.as_tensor(np.concatenate(list(blocks), axis=1))


def stream_log_weights(
    model: Any,
    guide: Any,
    x: Any,
    num_samples: int,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int | None = None,
    spread: bool = False,
) -> Iterator[np.ndarray]:
    """`log_weights` a block of images at a time.

    Args:
        model, guide, x, num_samples, params, seed, batch_norm, block, spread: see `log_weights`.

    Yields:
        (num_samples, images of the block), nats, the images in their order.

    Raises:
        UsageError: see `log_weights`; when the first block is asked for.
    """
    if num_samples < 1:
        raise UsageError(f"num_samples: expected at least 1, came {num_samples}")
    if spread:
        ranks.join()
    count = len(x)
    whole = keeps_order(guide)  # neither split nor repeated
    size = count if whole else max(1, min(count, 100, HELD // num_samples))
    plan: Plan | None = None
    noise: list[Tensor] = []  # where the random stream stands between blocks
    for start in range(0, count, size):
        # Nothing global is held while the caller has the block: `asked` ends before it is given.
        with asked(model, guide, x, params, seed, batch_norm) as data:
            if plan is None:
                plan = _plan(model, guide, data, size, num_samples, block, batch_norm, whole)
            _set_random(noise, data.device)
            places = slice(start, min(start + size, count))
            found = _block_weights(model, guide, data, places, num_samples, plan, spread)
            noise = _random(data.device)
        yield found.cpu().numpy()


class Plan(NamedTuple):
    """How the samples of a block of images pass through the nets.

    Noise is drawn for `at_once` samples of all images in one go, whatever the memory. Where so many
    rows do not fit, they pass in parts, and each part keeps its own of that noise.

    Attributes:
        at_once: samples.
        rows: images times samples that fit.
        splits: whether rows may be computed apart: without a batch's own statistics, and with a
            posterior that does not depend on an image's place.
    """

    at_once: int
    rows: int
    splits: bool

    def parts(self, own: slice, samples: int) -> Iterator[tuple[slice, slice]]:
        """(images, samples) of each pass, of the images `own` and so many samples."""
        images = max(1, self.rows // samples) if self.splits else own.stop - own.start
        draws = min(samples, self.rows) if self.splits else samples
        for i in range(own.start, own.stop, images):
            for k in range(0, samples, draws):
                yield slice(i, min(i + images, own.stop)), slice(k, min(k + draws, samples))


def _plan(
    model: Any,
    guide: Any,
    data: DeviceImages,
    size: int,
    num_samples: int,
    block: int | None,
    batch_norm: str,
    whole: bool,
) -> Plan:
    if whole:
        return Plan(1, size, False)
    if batch_norm == "batch" and batch_norms(model, guide):
        return Plan(max(1, (block or ROWS) // size), block or ROWS, False)
    with kept_streams(data.device):
        image = data.batch(slice(0, 1))
        sites = traces(model, guide, image)[1].nodes.values()
        noise = max((s["value"].numel() for s in sites if s["type"] == "sample"), default=1)
        at_once = min(num_samples, max(1, min(ROWS, NOISE // max(1, noise)) // size))
        if block is not None:
            return Plan(at_once, block, True)
        used = slope(lambda n: _weights(model, guide, repeated(image, n, 1), 1))
    return Plan(at_once, rows_within(free(data.device), used, at_once * size), True)


def _random(device: torch.device) -> list[Tensor]:
    """State of the random streams that draws on `device` come from."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def _set_random(states: list[Tensor], device: torch.device) -> None:
    puts: tuple[Any, ...] = (
        torch.set_rng_state,
        partial(torch.cuda.set_rng_state, device=device),
    )
    for state, put in zip(states, puts, strict=False):  # none before the first block
        put(state)


def _block_weights(
    model: Any,
    guide: Any,
    data: DeviceImages,
    places: slice,
    num_samples: int,
    plan: Plan,
    spread: bool,
) -> Tensor:
    """(num_samples, images at `places`) log weights."""
    count = places.stop - places.start
    # A batch's own statistics are of the whole of it, and so is an automatic guide.
    share = Share(count) if spread and plan.splits and ranks.count() > 1 else None
    own = slice(0, count) if share is None else share.rows
    if share is None:
        images = data.batch(places)
    else:
        with share.own().drawing():
            images = data.batch(share.of(places))
    found = images.new_empty(num_samples, len(images))
    for done in range(0, num_samples, plan.at_once):
        samples = min(plan.at_once, num_samples - done)
        begun = _random(data.device)
        for rows, draws in plan.parts(own, samples):
            _set_random(begun, data.device)
            here = slice(rows.start - own.start, rows.stop - own.start)
            many = draws.stop - draws.start
            with _drawn_whole(rows, draws, count, samples, strict=share is not None):
                part = _weights(model, guide, images[here], many)
            found[done + draws.start : done + draws.stop, here] = part
    if share is None:
        return found
    with share(), ranks.together():
        return whole_rows(found.T.contiguous()).T


def _drawn_whole(
    rows: slice, draws: slice, count: int, samples: int, strict: bool
) -> AbstractContextManager[Any]:
    """Within it a pass draws what one of all rows would, and keeps its own."""
    if (rows, draws) == (slice(0, count), slice(0, samples)):
        return nullcontext()
    return Own(rows, count, samples, draws, strict)


def _weights(model: Any, guide: Any, x: Tensor, repeats: int) -> Tensor:
    """(repeats, n) log weights."""
    n = len(x)
    kwargs = {}
    if isinstance(guide, Guide):  # the image is encoded once, whatever the number of samples
        features = guide.encode(x)
        kwargs["features"] = pytree.tree_map(lambda t: repeated(t, repeats, n), features)
    many = repeated(x, repeats, n)
    terms = Objective().terms(model, guide, many, analytic=False, **kwargs)
    shared = [name for name, part in terms.kl.items() if part.dim() == 0]
    if shared:
        raise UsageError(
            f"log_weights: site {shared[0]} is shared between images, so there is no weight for "
            "each image: put it into the data plate, or condition the model on its value"
        )
    return terms.log_weight().unflatten(0, (repeats, n))
