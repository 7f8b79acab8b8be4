"""From settings to the device and the optimiser."""

from __future__ import annotations

__all__ = ["clipped", "device_name", "device_of", "optimizer_of"]

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from ppl_vae.errors import UsageError
from ppl_vae.settings import TrainingSettings


def device_of(name: str | None) -> Any:
    """This process's device of that name: "cpu", "cuda" or "gpu", "gpu:1" for the second.

    None takes the first, the accelerator where there is one.

    Raises:
        UsageError: no such device here.
    """
    if name is None:
        return jax.local_devices()[0]
    kind, _, index = name.partition(":")
    try:
        backend = "gpu" if kind == "cuda" else kind
        return jax.local_devices(backend=backend)[int(index or 0)]
    except (RuntimeError, ValueError, IndexError) as error:
        raise UsageError(f"training.device: no {name!r} here: take cpu, gpu or null") from error


def device_name(name: str | None) -> str:
    """What the device of that name calls itself: "cpu", or a GPU's own name."""
    return str(device_of(name).device_kind)


def optimizer_of(settings: TrainingSettings) -> optax.GradientTransformation:
    """The update before it is multiplied by the learning rate."""
    first, second = settings.betas
    kind = optax.scale_by_adamax if settings.optimizer == "adamax" else optax.scale_by_adam
    moments = kind(b1=first, b2=second, eps=settings.eps)
    if not settings.weight_decay:
        return moments
    decay = optax.add_decayed_weights(settings.weight_decay)
    decoupled = settings.optimizer == "adamw"
    return optax.chain(moments, decay) if decoupled else optax.chain(decay, moments)


def clipped(grads: Any, norm: Array, settings: TrainingSettings) -> Any:
    """Gradients scaled down to norm `clip_norm`, then cut to ±`clip_value`, where these are set.

    Args:
        norm: (), the global norm of `grads`.
    """
    if settings.clip_norm:
        factor = jnp.minimum(1.0, settings.clip_norm / (norm + 1e-6))
        grads = jax.tree.map(lambda g: g * factor, grads)
    if settings.clip_value:
        cap = settings.clip_value
        grads = jax.tree.map(lambda g: jnp.clip(g, -cap, cap), grads)
    return grads
