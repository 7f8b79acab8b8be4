"""Operations of a JAX program as XLA counts them, and the products that its loops do again.

XLA's count takes a loop's body once, however often it is gone through. The zoo's convolutions loop
over groups of images for their weights' slopes on a CPU (`ppl_vae.numpyro.nets.convolution`), so
the matrix products and convolutions of a `lax.scan` are counted here as often as it does them.
Element-wise operations of a loop stay counted once: sums of groups, and the weights' slope of
depthwise convolutions, a loop over taps. Of padded convolutions in a loop all positions count.
"""

from __future__ import annotations

__all__ = ["operations", "repeated"]

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def operations(program: Any, jaxpr: Any = None) -> float:
    """Of a compiled or lowered program: XLA's count, element-wise ones among it, and `repeated`.

    Without the traced program, loops count once.
    """
    counted = float(program.cost_analysis()["flops"])
    return counted if jaxpr is None else counted + repeated(jaxpr)


def repeated(jaxpr: Any) -> int:
    """Operations of the products in a traced program's loops beyond each body's first time.

    >>> import jax, jax.numpy as jnp
    >>> step = lambda a, b: (a @ b, None)  # 2 · 4³ operations
    >>> loop = lambda a: jax.lax.scan(step, a, jnp.ones((10, 4, 4)))[0]
    >>> repeated(jax.jit(loop).trace(jnp.eye(4)).jaxpr)
    1152
    """
    return _products(jaxpr, loops=True) - _products(jaxpr, loops=False)


def _products(part: Any, loops: bool) -> int:
    """Of all products in a program; a loop's as often as it runs, or once."""
    total = 0
    for eqn in (part.jaxpr if isinstance(part, ClosedJaxpr) else part).eqns:
        times = eqn.params["length"] if loops and eqn.primitive.name == "scan" else 1
        total += _product(eqn) + times * sum(_products(body, loops) for body in _bodies(eqn))
    return total


def _bodies(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Jaxpr | ClosedJaxpr):
                yield part


def _product(eqn: Any) -> int:
    """Twice the multiplications of one product; 0 of anything else."""
    results = math.prod(eqn.outvars[0].aval.shape) if eqn.outvars else 0
    shapes = [each.aval.shape for each in eqn.invars[:2]]
    if eqn.primitive.name == "dot_general":
        (summed, _), _ = eqn.params["dimension_numbers"]
        return 2 * results * math.prod(shapes[0][axis] for axis in summed)
    if eqn.primitive.name == "conv_general_dilated":
        outputs = shapes[1][eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2 * results * math.prod(shapes[1]) // outputs
    return 0
