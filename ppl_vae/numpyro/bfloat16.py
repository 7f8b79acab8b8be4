r"""Products in bfloat16 summed in float32, and all else as it was.

JAX's own setting (`jax_default_matmul_precision`) is a permission that XLA makes nothing of on a
CPU, and takes for TF32 on a GPU. Here a traced function is gone through operation by operation, and
each matrix product and convolution of float32 numbers,

.. math:: c = \sum_k a_k b_k \quad \text{becomes} \quad
          c = \sum_k \mathrm{bf16}(a_k)\, \mathrm{bf16}(b_k) \ \text{in float32}.

Of a gradient's function that is the way forward and back alike, as `torch.autocast` has it. A
product that asks for the highest precision keeps it.
"""

from __future__ import annotations

__all__ = ["in_bfloat16"]

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

PRODUCTS = ("dot_general", "conv_general_dilated")
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "core_call": "call_jaxpr", "closed_call": "call_jaxpr"}
CALLS |= {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}  # derived already


def in_bfloat16(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of arrays, its products' factors rounded; to be differentiated before.

    >>> x = jnp.float32(1 + 2**-10)  # which bfloat16 has not
    >>> float(in_bfloat16(lambda x: x * jnp.dot(x[None], x[None]))(x))
    1.0009765625
    """

    @wraps(function)
    def rounded(*args: Any) -> Any:
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        found = _run(traced.jaxpr, traced.consts, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return rounded


def _run(jaxpr: Jaxpr, consts: Any, *args: Any) -> list[Any]:
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        found = _one(eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _one(eqn: Any, values: list[Any]) -> list[Any]:
    """What one operation gives."""
    name, params = eqn.primitive.name, eqn.params
    if name in PRODUCTS and _is_rounded(params, values):
        values = [lax.convert_element_type(value, jnp.bfloat16) for value in values]
        params = {**params, "preferred_element_type": jnp.dtype(jnp.float32)}
    elif name in CALLS:
        inner = _closed(params[CALLS[name]])
        return _run(inner.jaxpr, inner.consts, *values)
    else:  # loops, choices, what is computed again: their bodies
        params = {key: _rewritten(part) for key, part in params.items()}
    found = eqn.primitive.bind(*values, **params)
    return list(found) if eqn.primitive.multiple_results else [found]


def _is_rounded(params: Any, values: list[Any]) -> bool:
    asked = params.get("precision") or ()
    highest = lax.Precision.HIGHEST in (asked if isinstance(asked, tuple) else (asked,))
    return not highest and all(value.dtype == jnp.float32 for value in values)


def _rewritten(part: Any) -> Any:
    if isinstance(part, tuple | list):
        return type(part)(map(_rewritten, part)) if any(map(_has_product, part)) else part
    if not _has_product(part):
        return part
    closed = _closed(part)
    inputs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in closed.in_avals]
    new = jax.make_jaxpr(lambda *args: _run(closed.jaxpr, closed.consts, *args))(*inputs)
    return new if isinstance(part, ClosedJaxpr) else new.jaxpr


def _closed(part: Any) -> ClosedJaxpr:
    return part if isinstance(part, ClosedJaxpr) else ClosedJaxpr(part, ())


def _has_product(part: Any) -> bool:
    """Whether a product stands in a program, or in one of its bodies."""
    if isinstance(part, tuple | list):
        return any(map(_has_product, part))
    jaxpr = part.jaxpr if isinstance(part, ClosedJaxpr) else part
    if not isinstance(jaxpr, Jaxpr):
        return False
    return any(
        eqn.primitive.name in PRODUCTS or any(map(_has_product, eqn.params.values()))
        for eqn in jaxpr.eqns
    )
