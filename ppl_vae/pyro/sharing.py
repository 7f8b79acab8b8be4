r"""A batch shared out among processes, such that each computes what one alone would have.

Process r of R has the images :math:`\lfloor rn/R \rfloor` to :math:`\lfloor (r+1)n/R \rfloor` of a
batch of n. All have the same random stream, and where one process would draw noise for the batch
each draws that noise whole, in the same order, and keeps the rows of its images: so noise,
binarisation and masks are each image's own, whatever R is, and the streams stay together. Drawing
all of it costs little beside the nets.
"""

from __future__ import annotations

__all__ = ["Own", "Share", "current", "whole"]

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppl_vae.errors import UsageError
from ppl_vae.pyro import ranks

_SHARES: list[Share] = []  # of the batch at hand, the last one


class Share:
    """A process's images of a batch.

    Args:
        total: images of the whole batch.
        rank, count: of the processes; None asks the process group.

    Attributes:
        rows: slice of its images. Where there are fewer images than processes, one without an
            image takes the first, so that it takes part, and `size` is 0: nothing of it counts.
    """

    def __init__(self, total: int, rank: int | None = None, count: int | None = None) -> None:
        rank = ranks.rank() if rank is None else rank
        count = ranks.count() if count is None else count
        start, stop = total * rank // count, total * (rank + 1) // count
        self.total, self.count, self.size = total, count, stop - start
        self.rows = slice(start, stop) if self.size else slice(0, 1)

    @property
    def weight(self) -> float:
        """Of its mean in the batch's, 0 to 1."""
        return self.size / self.total

    def of(self, places: slice | Tensor) -> slice | Tensor:
        """Its part of a batch's places in the data."""
        if isinstance(places, slice):
            begin = places.start or 0
            return slice(begin + self.rows.start, begin + self.rows.stop)
        return places[self.rows]

    def own(self, repeats: int = 1, each: int = 1) -> Own:
        """Handler for the batch with `each` rows an image, `repeats` times one after the other."""
        return Own(slice(self.rows.start * each, self.rows.stop * each), self.total * each, repeats)

    def means(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Means over the batch from those over each share, as the loss of one process has them.

        Each has the value of the whole batch's mean. Its slope is that of this process's part
        times the number of processes, because gradients are averaged over them.
        """
        local = torch.stack([value.reshape(()) for value in values])
        mean = ranks.all_sum(self.weight * local.detach())
        return list(mean + self.count * self.weight * (local - local.detach()))

    @contextmanager
    def __call__(self) -> Iterator[Share]:
        """Within it `whole` knows whose rows they are."""
        _SHARES.append(self)
        try:
            yield self
        finally:
            _SHARES.pop()


def current() -> Share | None:
    """The share that is computed at present."""
    return _SHARES[-1] if _SHARES else None


def whole(rows: Tensor) -> Tensor:
    """Rows of the whole batch, image after image, from those of this process's images.

    Alone, the rows themselves. Without a gradient.
    """
    share = current()
    if share is None:
        return rows
    each = len(rows) // (share.rows.stop - share.rows.start)
    found = rows.new_zeros(share.total * each, *rows.shape[1:])
    if share.size:
        found[share.rows.start * each : share.rows.stop * each] = rows
    return ranks.all_sum(found)


class Own(Messenger):
    """Handler: what the data's sites draw are this process's rows of what one process draws.

    Args:
        rows: this process's of the batch.
        total: rows of the batch.
        repeats: how many such batches, one after the other.
        some: slice of those batches that are computed at present; None takes all.
        strict: refuse draws that cannot be shared out; else they are made as they come.
    """

    def __init__(
        self,
        rows: slice,
        total: int,
        repeats: int = 1,
        some: slice | None = None,
        strict: bool = True,
    ) -> None:
        super().__init__()
        self.rows, self.total, self.repeats = rows, total, repeats
        self.some, self.strict = some or slice(0, repeats), strict
        self.count = (self.some.stop - self.some.start) * (rows.stop - rows.start)

    def drawing(self) -> TorchFunctionMode:
        """Context in which torch draws rows of the whole batch and gives this process's."""
        return _Rows(self)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or site_is_subsample(msg) or not self._has_rows(msg):
            return
        with self.drawing():
            msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])
        msg["done"] = True

    def _has_rows(self, msg: Any) -> bool:
        """Whether a site is drawn for each image; UsageError where not along its first axis."""
        batch = msg["fn"].batch_shape
        dims = [frame.dim for frame in msg["cond_indep_stack"] if frame.size == self.count]
        if not dims:
            return bool(len(batch)) and batch[0] == self.count
        if -dims[0] != len(batch):
            if not self.strict:
                return False
            raise UsageError(
                f"site {msg['name']}: expected the data's plate outermost where processes share a "
                f"batch, came a batch shape of {tuple(batch)}: train in one process"
            )
        return True


class _Rows(TorchFunctionMode):
    """Draws whose first axis runs over the rows, or over a multiple of them, row after row."""

    def __init__(self, own: Own) -> None:
        super().__init__()
        self.own = own

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        draw = DRAWS.get(func)
        if draw is None:
            return func(*args, **(kwargs or {}))
        try:
            return draw(self, func, args, dict(kwargs or {}))
        except UsageError:  # before anything was drawn
            if self.own.strict:
                raise
            return func(*args, **(kwargs or {}))

    def in_place(self, func: Any, args: Any, kwargs: Any) -> Any:
        value, *others = args
        drawn = value.new_empty(self._shape(value.shape))
        return value.copy_(self._kept(func(drawn, *map(self._spread, others), **kwargs)))

    def like(self, func: Any, args: Any, kwargs: Any) -> Any:
        value, *others = args
        return self._kept(func(value.new_empty(self._shape(value.shape)), *others, **kwargs))

    def sized(self, func: Any, args: Any, kwargs: Any) -> Any:
        """`torch.rand` and its like; `torch.randint`'s size comes after its bounds."""
        size = kwargs.pop("size", None)
        if size is None:
            named = [arg for arg in args if not isinstance(arg, int)]
            size, args = (named[0], args[: args.index(named[0])]) if named else (args, ())
        return self._kept(func(*args, size=self._shape(tuple(size)), **kwargs))

    def of_tensors(self, func: Any, args: Any, kwargs: Any) -> Any:
        return self._kept(func(*map(self._spread, args), **kwargs))

    def refused(self, func: Any, args: Any, kwargs: Any) -> Any:
        raise UsageError(
            f"training: {func.__name__.strip('_')} takes now more, now fewer random numbers for an "
            "image, so that processes cannot share a batch: train in one process"
        )

    def _shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of the whole batch's draw, from that of this process's rows."""
        count = self.own.count
        if not shape or shape[0] % count:
            raise UsageError(
                f"training: expected noise for each of {count} rows, came shape {tuple(shape)}: "
                "train in one process"
            )
        return (shape[0] // count * self.own.total * self.own.repeats, *shape[1:])

    def _view(self, drawn: Tensor) -> Tensor:
        """(batches computed, this process's rows, …) of the whole draw."""
        own = self.own
        each = len(drawn) // (own.total * own.repeats)
        batches = drawn.unflatten(0, (own.repeats, own.total * each))
        return batches[own.some, own.rows.start * each : own.rows.stop * each]

    def _kept(self, drawn: Tensor) -> Tensor:
        return self._view(drawn).flatten(0, 1).clone()  # the rest is given back

    def _spread(self, value: Any) -> Any:
        """A parameter of a draw with rows for the others' images; what is in them is not kept."""
        if not isinstance(value, Tensor) or not value.dim():
            return value
        spread = value.new_ones(self._shape(value.shape))
        view = self._view(spread)
        view.copy_(value.reshape(view.shape))
        return spread


Draw = Callable[[_Rows, Any, Any, Any], Any]

DRAWS: dict[Any, Draw] = {
    **{
        getattr(Tensor, name): _Rows.in_place
        for name in ("normal_", "uniform_", "exponential_", "log_normal_", "cauchy_", "bernoulli_",
                     "geometric_", "random_")
    },
    **{func: _Rows.like for func in (torch.rand_like, torch.randn_like, torch.randint_like)},
    **{func: _Rows.sized for func in (torch.rand, torch.randn, torch.randint)},
    **{func: _Rows.of_tensors for func in (torch.bernoulli, torch.multinomial, torch.normal)},
    torch._standard_gamma: _Rows.refused,
    torch._sample_dirichlet: _Rows.refused,
    torch.poisson: _Rows.refused,
    torch.binomial: _Rows.refused,
}  # fmt: skip
"""What draws, and how."""
