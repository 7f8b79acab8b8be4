"""How a trained pair is asked: evaluation mode, learned parameters, a random stream of its own.

`batch_norm` says what batch norm uses:

- "running": the statistics gathered in training;
- "batch": those of the batch at hand;
- "recomputed": averages over fresh passes, at the temperature asked for (Vahdat & Kautz 2020,
  section 4), after which the stored ones are put back.
"""

from __future__ import annotations

__all__ = ["asked", "batch_norms", "keeps_order"]

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.effect import AutoMessenger
from torch import Tensor, nn

from ppl_vae.checks import check_images
from ppl_vae.errors import UsageError, nearest
from ppl_vae.pyro.data import DeviceImages
from ppl_vae.pyro.guide import Guide, quiet
from ppl_vae.pyro.streams import kept_streams

BATCH_NORM = ("running", "batch", "recomputed")
PASSES = 20  # over which recomputed statistics are averaged


@contextmanager
def asked(
    model: Any,
    guide: Any,
    x: Any,
    params: dict[str, Any] | None,
    seed: int,
    batch_norm: str,
    one_pass: Callable[[], Any] | None = None,
) -> Iterator[DeviceImages]:
    """The images `x` on the pair's device, with the pair ready to be asked about them.

    Args:
        x: images (n, c, h, w) or `ppl_vae.data.Images`; None for none.
        params: what `fit` learned for plain functions.
        seed: of the draws.
        batch_norm: "running", "batch" or "recomputed", see above.
        one_pass: runs the nets once for recomputed statistics; None takes the guide over the
            images.

    Raises:
        UsageError: images that the model does not take, no such `batch_norm`, or "recomputed" from
            one image alone.
    """
    data = _on_device([] if x is None else x, model, guide)
    if x is not None:
        check_images(data, model)

    def over_images() -> None:
        if len(data) < 2:
            raise UsageError(
                f"batch_norm: recomputed needs two images or more, came {len(data)}: give more, or "
                "take running"
            )
        for start in range(0, min(len(data), PASSES * 256), 256):
            if len(data) - start > 1:  # batch norm needs two
                guide(data.batch(slice(start, start + 256)))

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(kept_streams(data.device))
        stack.enter_context(pyro.validation_enabled(False))
        # What modules register is theirs alone; what plain functions learned before stays in sight.
        store = pyro.get_param_store()
        stack.enter_context(store.scope(store.get_state()))
        stack.enter_context(quiet(model, guide))
        if params is not None:
            stack.enter_context(poutine.substitute(data=params))
        torch.manual_seed(seed)
        passes = [over_images] if one_pass is None else [one_pass] * PASSES
        stack.enter_context(_batch_norm(batch_norm, batch_norms(model, guide), passes))
        yield data


def keeps_order(guide: Any) -> bool:
    """True for automatic guides, which keep a posterior for each place in the batch."""
    return isinstance(guide, AutoGuide | AutoMessenger) and not isinstance(guide, Guide)


@contextmanager
def _batch_norm(mode: str, norms: list[Any], passes: list[Callable[[], Any]]) -> Iterator[None]:
    if mode not in BATCH_NORM:
        raise UsageError(f"batch_norm: unknown {mode!r}: {nearest(mode, BATCH_NORM)}")
    if mode == "running" or not norms:
        yield
        return
    held = [(norm.running_mean.clone(), norm.running_var.clone(), norm.momentum) for norm in norms]
    for norm in norms:
        norm.training = True
        norm.momentum = 0.0 if mode == "batch" else None  # None averages over all passes
        if mode == "recomputed":
            norm.reset_running_stats()
    try:
        if mode == "recomputed":
            for run in passes:
                run()
            for norm in norms:
                norm.training = False
        yield
    finally:
        for norm, (mean, var, momentum) in zip(norms, held, strict=True):
            norm.training, norm.momentum = False, momentum
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)


def batch_norms(*modules: Any) -> list[Any]:
    """Batch-norm layers of the modules among the arguments."""
    return [
        part
        for module in modules
        if isinstance(module, nn.Module)
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]


def _on_device(x: Any, *modules: Any) -> DeviceImages:
    for module in modules:
        for parameter in module.parameters() if isinstance(module, nn.Module) else ():
            return DeviceImages(x, parameter.device, parameter.dtype)
    given = torch.as_tensor(x[:0]) if isinstance(x, Tensor | np.ndarray) else torch.zeros(0)
    dtype = given.dtype if given.is_floating_point() else torch.float32
    return DeviceImages(x, torch.device("cpu"), dtype)
