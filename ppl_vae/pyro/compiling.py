"""Nets that go through `torch.compile`, block by block, for as long as they train.

Compiled are the blocks that programs are made of, not the programs: an MLP, a residual cell, a
bottleneck, each by itself, so that compiling grows with the kinds of blocks and not with the depth,
and sample statements stay what they are. Modules are compiled in place: names of weights, and what
is stored, know nothing of it.
"""

from __future__ import annotations

__all__ = ["blocks", "compiled", "plain"]

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from ppl_vae.errors import UsageError

BACKEND = "inductor"
NETS = "ppl_vae.pyro.nets."
KINDS = 256  # of blocks, by class and sizes; torch gives up after eight unless told
SINGLE = (nn.modules.conv._ConvNd, nn.Linear)  # one operation: nothing to join


def blocks(*programs: Any) -> list[nn.Module]:
    """The modules of a pair that are compiled, each by itself.

    They are those of `ppl_vae.pyro.nets`, and of a user's own nets the largest that hold none of
    these: such a net must make no sample statement.
    """
    found: dict[int, nn.Module] = {}
    for program in programs:
        for part in program.children() if isinstance(program, nn.Module) else ():
            for block in _within(part):
                found[id(block)] = block
    return list(found.values())


def _within(module: nn.Module) -> list[nn.Module]:
    called = type(module).forward is not nn.Module.forward
    deeper = [block for part in module.children() for block in _within(part)]
    if not called or isinstance(module, SINGLE):
        return deeper
    if type(module).__module__.startswith(NETS):
        return [module]
    return deeper or ([module] if any(True for _ in module.children()) else [])


@contextmanager
def compiled(*programs: Any, wanted: bool = True) -> Iterator[None]:
    """Context in which the blocks of the programs are compiled, when they are first called.

    Args:
        programs: modules; plain functions stay as they are.
        wanted: False changes nothing.

    Raises:
        UsageError: on the CPU, where there is no C++ compiler.
    """
    chosen = [b for b in blocks(*programs) if b._compiled_call_impl is None] if wanted else []
    if not chosen:
        yield
        return
    _check_compiler(chosen)
    import torch._dynamo

    with ExitStack() as stack:
        limits: dict[str, Any] = {"recompile_limit": KINDS}
        limits["accumulated_recompile_limit"] = 4 * KINDS
        stack.enter_context(torch._dynamo.config.patch(limits))
        for block in chosen:
            block.compile(backend=BACKEND, dynamic=False)
            stack.callback(setattr, block, "_compiled_call_impl", None)
        yield


def plain(wanted: bool = True) -> AbstractContextManager[Any]:
    """Context in which compiled blocks run as they were written: other modes, other batches."""
    return torch.compiler.set_stance("force_eager") if wanted else nullcontext()


def _check_compiler(chosen: list[nn.Module]) -> None:
    first = next((p for block in chosen for p in block.parameters()), None)
    named = os.environ.get("CXX")
    compilers = (named,) if named else ("g++", "clang++")
    if first is None or first.device.type != "cpu" or any(map(shutil.which, compilers)):
        return
    raise UsageError(
        f"training.compile: no C++ compiler here ({' or '.join(compilers)}), which torch needs on "
        "the CPU: install one, or set it to false"
    )
