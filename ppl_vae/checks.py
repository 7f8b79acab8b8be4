"""What is checked of arguments, whichever PPL is asked; the order of sites and of their names."""

from __future__ import annotations

__all__ = [
    "check_batch",
    "check_chain",
    "check_cover",
    "check_held",
    "check_images",
    "check_latents",
    "check_levels",
    "check_masks_taken",
    "check_pairs",
    "check_shares",
    "check_units",
    "divergent",
    "natural",
]

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ppl_vae.errors import UsageError, nearest


def check_batch(x: Any, n: int | None, x_shape: Sequence[int]) -> int:
    """Number of images of a call `model(x=None, *, n=None)`; UsageError where shapes are wrong."""
    if x is None:
        if n is None or n < 1:
            raise UsageError(f"model: expected images x, or n >= 1 to generate, came n={n}")
        return n
    if len(x.shape) != len(x_shape) + 1 or tuple(x.shape[1:]) != tuple(x_shape):
        expected = ", ".join(str(side) for side in x_shape)
        raise UsageError(
            f"x: expected images of shape (n, {expected}), came {tuple(x.shape)}: "
            "reshape them, or build the model with their x_shape"
        )
    if n is not None and n != x.shape[0]:
        raise UsageError(f"n: expected {x.shape[0]}, the number of images in x, came {n}")
    return int(x.shape[0])


def check_images(images: Any, model: Any) -> None:
    """UsageError where `images` (n, c, h, w) are not what `model` says it takes (`x_shape`)."""
    x_shape = getattr(model, "x_shape", None)
    told, taken = getattr(images, "condition", 0), getattr(model, "condition", 0)
    if told and told != taken:
        raise UsageError(
            f"images: come with vectors of {told} numbers, but the model takes {taken}: build it "
            f"with condition={told}, or leave the vectors out (data.condition)"
        )
    check_masks_taken(images, model)
    if x_shape is not None:
        check_batch(images, None, x_shape)


def check_masks_taken(images: Any, model: Any) -> None:
    """UsageError where `images` come with masks drawn anew, and `model` does not take any.

    A class says so by its attribute `takes_masks`; plain functions and handlers are not asked.
    """
    drawn = getattr(images, "masks", None) is not None
    if drawn and not inspect.isroutine(model) and not getattr(model, "takes_masks", False):
        raise UsageError(
            f"masks: expected none for {type(model).__name__}, which does not say that it takes "
            "masks: leave them out (data.masks), take InpaintingVAE, or give a class of your own "
            "the attribute takes_masks = True"
        )


def check_latents(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes of the latents, which the argument `name` gives; UsageError for one below 1."""
    if not len(sizes) or min(sizes) < 1:
        one = name == "latent"
        raise UsageError(
            f"{name}: expected {'a size' if one else 'sizes'} of at least 1, came "
            f"{sizes[0] if one else list(sizes)}: "
            f"{'take PixelCNN for none' if one else 'leave out the sites that shall hold nothing'}"
        )
    return tuple(sizes)


def check_levels(
    x_shape: Sequence[int], latents: Sequence[int], channels: Sequence[int], condition: int = 0
) -> None:
    """UsageError where a hierarchy of maps over images with masks cannot be built."""
    if condition < 0 or (condition and len(x_shape) == 3 and x_shape[0] < 2 + condition):
        raise UsageError(
            f"condition: expected 0 to {x_shape[0] - 2}, the channels of x_shape "
            f"{tuple(x_shape)} but for one of the image and the mask's, came {condition}: give "
            "images their vectors (data.condition), or leave it out"
        )
    if len(x_shape) != 3 or x_shape[0] < 2:
        raise UsageError(
            f"x_shape: expected (channels + 1, height, width), the mask as last channel, came "
            f"{tuple(x_shape)}: hide a part of the images (data.masks), or count the mask's channel"
        )
    if not latents or len(channels) != len(latents) + 1 or min(*latents, *channels) < 1:
        raise UsageError(
            f"channels: expected one number more than latents, for the full size and each of "
            f"{len(latents)} levels, all at least 1, came {tuple(channels)} for latents "
            f"{tuple(latents)}: list both from the image up"
        )


def check_chain(count: int, warmup: int, thin: int, trajectory: float, batch_norm: str) -> None:
    """UsageError where a chain cannot run so."""
    for name, value in {"count": count, "warmup": warmup, "thin": thin}.items():
        if value < 1:
            raise UsageError(f"{name}: expected at least 1, came {value}")
    if not trajectory > 0:
        raise UsageError(f"trajectory: expected a number above 0, came {trajectory:g}")
    if batch_norm != "running":
        raise UsageError(
            f"batch_norm: expected running for chains, came {batch_norm}: all moves need one and "
            "the same model"
        )


def check_shares(num_samples: int, count: int) -> None:
    """UsageError where draws cannot come from `count` fillings in equal numbers."""
    if count < 1 or num_samples < 1 or num_samples % count:
        raise UsageError(
            f"num_samples: expected a multiple of the {count} fillings, came {num_samples}: as "
            "many are drawn from each"
        )


def check_cover(guide: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """UsageError where a guide's latent sites {name: event shape} are not the model's.

    Shapes may be None on both sides, where they are not known.
    """
    if dict(guide) == dict(model):
        return
    shapes = guide.keys() == model.keys()  # the names agree, so the message needs more than those
    raise UsageError(
        f"guide covers sites {_listed(guide, shapes)} but the model has {_listed(model, shapes)}: "
        "build the guide from this model, or give it one sample statement a latent site"
    )


def check_held(
    held: Mapping[str, tuple[int, ...]], sites: Mapping[str, tuple[int, ...]], n: int | None
) -> int:
    """How many images `redraw` makes: those of the held values' shapes, or `n`.

    Args:
        held: {site: shape of its values}.
        sites: {site: event shape} of the model.
    """
    for name, shape in held.items():
        if name not in sites:
            raise UsageError(f"held: the model has no latent site {name!r}: {nearest(name, sites)}")
        if tuple(shape[1:]) != tuple(sites[name]) or not shape:
            expected = ", ".join(("n", *map(str, sites[name])))
            raise UsageError(f"held: expected {name} of shape ({expected}), came {tuple(shape)}")
    counts = {shape[0] for shape in held.values()} | ({n} if n is not None else set())
    if len(counts) != 1 or min(counts) < 1:
        came = ", ".join(map(str, sorted(counts))) or "none"
        raise UsageError(
            f"redraw: expected one number of images, in every held site and in n, came {came}: "
            "hold as many values of each site, and give n where nothing is held"
        )
    return int(counts.pop())


def check_pairs(
    pairs: Sequence[tuple[int, int]], num_images: int, num_steps: int
) -> tuple[list[int], list[int]]:
    """(first, second) positions of image pairs; UsageError where there are no such images."""
    if num_steps < 2:
        raise UsageError(f"num_steps: expected at least 2, both ends, came {num_steps}")
    first, second = [int(i) for i, _ in pairs], [int(j) for _, j in pairs]
    if not first or not all(0 <= i < num_images for i in first + second):
        raise UsageError(
            f"pairs: expected one pair or more of positions below {num_images}, came {list(pairs)}"
        )
    return first, second


def check_units(site: str, units: Sequence[int], sites: Mapping[str, tuple[int, ...]]) -> None:
    """UsageError where there is no such site, or it has no such units."""
    if site not in sites:
        raise UsageError(f"site: the model has no latent site {site!r}: {nearest(site, sites)}")
    size = math.prod(sites[site])
    if not len(units) or not all(0 <= unit < size for unit in units):
        raise UsageError(f"units: expected 0 to {size - 1}, those of {site}, came {list(units)}")


def divergent(model: Sequence[str], guide: Sequence[str]) -> set[str]:
    """Sites whose mean log q - log p, given all that is sampled before, is a divergence.

    Those before which the guide has sampled every site that the model has before them: all of them
    under a guide that goes down as the model does, the top one alone under one that goes up.

    Args:
        model, guide: names of latent sites in the order in which each samples them.

    >>> sorted(divergent(["z3", "z2", "z1"], ["z1", "z2", "z3"]))
    ['z3']
    """
    place = {site: i for i, site in enumerate(guide)}
    found: set[str] = set()
    latest = -1
    for site in model:
        if site not in place:
            continue
        if place[site] > latest:
            found.add(site)
        latest = max(latest, place[site])
    return found


def natural(name: str) -> tuple[str, int]:
    """Sort key under which z10 comes after z9."""
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)


def _listed(sites: Mapping[str, Any], shapes: bool) -> str:
    names = sorted(sites, key=natural)
    return ", ".join(f"{name} {sites[name]}" if shapes else name for name in names) or "none"
