"""What a trained pair is asked: importance weights, terms by site, draws, reconstructions.

All of it runs in evaluation mode; `batch_norm` says what batch norm uses:

- "running": the statistics gathered in training;
- "batch": those of the batch at hand;
- "recomputed": averages over fresh passes, at the temperature asked for (Vahdat & Kautz 2020,
  section 4), after which the stored ones are put back.
"""

from __future__ import annotations

__all__ = [
    "log_weights",
    "moments",
    "posterior_moments",
    "posterior_sample",
    "reconstruct",
    "sample",
    "site_terms",
    "stream_log_weights",
    "temperature",
]

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.effect import AutoMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ppl_vae.errors import UsageError, nearest
from ppl_vae.pyro.data import DeviceImages
from ppl_vae.pyro.distributions import tempered, unwrapped
from ppl_vae.pyro.guide import Guide, quiet
from ppl_vae.pyro.objective import Objective, traces

BATCH_NORM = ("running", "batch", "recomputed")
ROWS = 8192  # images times samples that pass through the nets at once
RECOMPUTED_PASSES = 20


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
) -> Tensor:
    """Log importance weights log p(x, z) - log q(z | x) of draws from the guide.

    Takes any Pyro model and guide whose data plate is sized by len(x): rows of `x` are repeated
    and the pair is called with that longer batch, in blocks, so programs see no further axes.

    Args:
        x: images (n, c, h, w) in the likelihood's range, or `ppl_vae.data.Images`.
        num_samples: K.
        params: what `fit` learned for plain functions.
        seed: of the draws.
        batch_norm: see the module.
        block: images times samples that pass through the nets at once.

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
) -> Iterator[np.ndarray]:
    """`log_weights` a block of images at a time: arrays (num_samples, images of the block)."""
    if num_samples < 1:
        raise UsageError(f"num_samples: expected at least 1, came {num_samples}")
    data = _data(x, model, guide)
    rows = block or ROWS
    size = max(1, min(len(data), 100, rows))
    at_once = max(1, rows // size)
    if _keeps_order(guide):  # a posterior for each place in the batch: neither split nor repeated
        size, at_once = len(data), 1
    with _asked(model, guide, params, seed) as stack:
        stack.enter_context(_batch_norm(batch_norm, model, guide, lambda: _passes(guide, data)))
        for start in range(0, len(data), size):
            images = data.batch(slice(start, start + size))
            parts = [
                _weights(model, guide, images, min(at_once, num_samples - done))
                for done in range(0, num_samples, at_once)
            ]
            yield torch.cat(parts).cpu().numpy()


def _weights(model: Any, guide: Any, x: Tensor, repeats: int) -> Tensor:
    """(repeats, n) log weights."""
    n = len(x)
    kwargs = {}
    if isinstance(guide, Guide):  # the image is encoded once, whatever the number of samples
        features = guide.encode(x)
        kwargs["features"] = pytree.tree_map(lambda t: _repeated(t, repeats, n), features)
    many = _repeated(x, repeats, n)
    terms = Objective().terms(model, guide, many, analytic=False, **kwargs)
    shared = [name for name, part in terms.kl.items() if part.dim() == 0]
    if shared:
        raise UsageError(
            f"log_weights: site {shared[0]} is shared between images, so there is no weight for "
            "each image: put it into the data plate, or condition the model on its value"
        )
    return terms.log_weight().unflatten(0, (repeats, n))


def _repeated(t: Any, repeats: int, n: int) -> Any:
    if not isinstance(t, Tensor) or t.dim() == 0 or t.shape[0] != n:
        return t
    return t.repeat(repeats, *(1 for _ in t.shape[1:]))


def site_terms(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int = 1000,
) -> dict[str, Any]:
    """{"log_likelihood": (n,), "kl": {site: (n,)}}: the bound's terms of each image, nats, one draw.

    Divergences are in closed form where that is right, else log q - log p of the draw.
    """
    data = _data(x, model, guide)
    block = len(data) if _keeps_order(guide) else block
    found = []
    with _asked(model, guide, params, seed) as stack:
        stack.enter_context(_batch_norm(batch_norm, model, guide, lambda: _passes(guide, data)))
        objective = Objective()
        for start in range(0, len(data), block):
            terms = objective.terms(model, guide, data.batch(slice(start, start + block)))
            likelihood = sum(terms.log_likelihood.values())
            found.append({"log_likelihood": likelihood, "kl": terms.kl})
    return pytree.tree_map(lambda *parts: torch.cat(parts).cpu().numpy(), *found)


def posterior_moments(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
    block: int = 1000,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{site: (loc, scale)} of q(z_l | x, z above) under one draw of the latents above, (n, …) each."""
    data = _data(x, model, guide)
    block = len(data) if _keeps_order(guide) else block
    with _asked(model, guide, params, seed) as stack:
        stack.enter_context(_batch_norm(batch_norm, model, guide, lambda: _passes(guide, data)))
        found = [
            moments(model, guide, data.batch(slice(start, start + block)))
            for start in range(0, len(data), block)
        ]
    return {
        site: tuple(np.concatenate([part[site][i] for part in found]) for i in (0, 1))  # type: ignore[misc]
        for site in found[0]
    }


@torch.no_grad()
def moments(model: Any, guide: Any, x: Tensor) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`posterior_moments` of one batch, in whatever mode the modules are."""
    _, guide_trace = traces(model, guide, x)
    found = {}
    for name, site in guide_trace.nodes.items():
        fn = unwrapped(site["fn"]) if site["type"] == "sample" else None
        if hasattr(fn, "loc") and hasattr(fn, "scale"):
            found[name] = (fn.loc.cpu().numpy(), fn.scale.cpu().numpy())
    return found


def sample(
    model: Any,
    num_samples: int,
    *,
    temperature: float = 1.0,
    batch_norm: str = "running",
    params: dict[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Draws from the prior: {site: (n, …)}, "x" (n, c, h, w), and "x_mean", the likelihood's mean.

    Args:
        temperature: factor on the scale of every latent's prior.
        batch_norm: see the module.
    """
    if num_samples < 1:
        raise UsageError(f"num_samples: expected at least 1, came {num_samples}")
    cool = _temperature_handler(temperature)
    with _asked(model, None, params, seed) as stack:
        generate = cool(model)
        stack.enter_context(
            _batch_norm(batch_norm, model, None, lambda: generate(n=max(num_samples, 100)))
        )
        trace = poutine.trace(generate).get_trace(n=num_samples)
    return _values(trace)


def posterior_sample(
    model: Any,
    guide: Any,
    x: Any,
    num_samples: int = 1,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> dict[str, Tensor]:
    """Draws from the guide: {site: (num_samples, n, …)}, and "x_mean", the likelihood's mean."""
    data = _data(x, model, guide)
    with _asked(model, guide, params, seed) as stack:
        stack.enter_context(_batch_norm(batch_norm, model, guide, lambda: _passes(guide, data)))
        images = data.batch(slice(None))
        draws = [_values(traces(model, guide, images)[0]) for _ in range(num_samples)]
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0] if name != "x"}


def reconstruct(
    model: Any,
    guide: Any,
    x: Any,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_norm: str = "running",
) -> Tensor:
    """Mean of p(x | z) for one draw z ~ q(z | x) an image: (n, c, h, w)."""
    return posterior_sample(model, guide, x, params=params, seed=seed, batch_norm=batch_norm)[
        "x_mean"
    ][0]


class temperature(Messenger):  # noqa: N801, a handler is named like a function
    """Handler: the scale of each latent's prior times `factor`; the data's site "x" stays as it is.

    `temperature(0.7)(model)(n=16)` draws 16 images.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["name"] == "x" or site_is_subsample(msg):
            return
        msg["fn"] = tempered(msg["fn"], self.factor)


def _temperature_handler(factor: float) -> Callable[[Any], Any]:
    if not factor > 0:
        raise UsageError(f"temperature: expected above 0, came {factor}")
    return (lambda model: model) if factor == 1.0 else temperature(factor)


def _values(trace: Any) -> dict[str, Tensor]:
    found = {
        name: site["value"].cpu()
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }
    if "x" in found:
        found["x_mean"] = trace.nodes["x"]["fn"].mean.cpu()
    return found


def _data(x: Any, model: Any, guide: Any) -> DeviceImages:
    modules = [m for m in (model, guide) if isinstance(m, nn.Module)]
    parameter = next((p for m in modules for p in m.parameters()), torch.zeros(()))
    if not modules and isinstance(x, Tensor | np.ndarray):
        parameter = torch.zeros((), dtype=torch.as_tensor(x[:0]).dtype)
        if not parameter.is_floating_point():
            parameter = torch.zeros(())
    return DeviceImages(x, parameter.device, parameter.dtype)


def _keeps_order(guide: Any) -> bool:
    return isinstance(guide, AutoGuide | AutoMessenger) and not isinstance(guide, Guide)


def _passes(guide: Any, data: DeviceImages, size: int = 256) -> None:
    for start in range(0, min(len(data), RECOMPUTED_PASSES * size), size):
        if len(data) - start > 1:  # batch norm needs two
            guide(data.batch(slice(start, start + size)))


@contextmanager
def _asked(
    model: Any, guide: Any, params: dict[str, Any] | None, seed: int
) -> Iterator[ExitStack]:
    """No gradients, evaluation mode, a random stream of its own, learned parameters in place."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(pyro.settings.context(module_local_params=True))
        stack.enter_context(quiet(model, guide))
        if params is not None:
            stack.enter_context(poutine.substitute(data=params))
        torch.manual_seed(seed)
        yield stack


@contextmanager
def _batch_norm(mode: str, model: Any, guide: Any, one_pass: Callable[[], Any]) -> Iterator[None]:
    if mode not in BATCH_NORM:
        raise UsageError(f"batch_norm: unknown {mode!r}: {nearest(mode, BATCH_NORM)}")
    norms = [
        part
        for module in (model, guide)
        if isinstance(module, nn.Module)
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    if mode == "running" or not norms:
        yield
        return
    held = [(part.running_mean.clone(), part.running_var.clone(), part.momentum) for part in norms]
    for part in norms:
        part.training = True
        part.momentum = 0.0 if mode == "batch" else None  # None averages over all passes
        if mode == "recomputed":
            part.reset_running_stats()
    try:
        if mode == "recomputed":
            for _ in range(RECOMPUTED_PASSES if guide is None else 1):
                one_pass()
            for part in norms:
                part.training = False
        yield
    finally:
        for part, (mean, var, momentum) in zip(norms, held, strict=True):
            part.training = False
            part.running_mean.copy_(mean)
            part.running_var.copy_(var)
            part.momentum = momentum
