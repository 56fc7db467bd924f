"""Moves: how ops of one tensor (views, pools, pads, means) move its channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """dim: the channel dim of a tensor.  ids: class of each position, -1 where it has none."""

    dim: int
    ids: Ids


Known = Callable[[Tensor], Channels | None]

_POOLS = {
    "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "reflection_pad2d",
    "replication_pad2d", "max_pool2d",
}  # fmt: skip
_COPIES = {"clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "view_as"}
_MEANS = {"mean", "sum", "amax", "amin", "std", "var"}
_SOFT = {"_softmax", "_log_softmax"}
_VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias"}


def moved(name: str, args: tuple[Any, ...], out: Tensor, known: Known) -> Channels | None:
    """Channels of what an op of one tensor returns; None where it is not understood."""
    x = args[0]
    c = known(x)
    if c is None or not isinstance(x, Tensor):
        return None
    if name in _COPIES:
        return c
    if name in _POOLS:
        return c if c.dim < x.dim() - 2 else None
    if name in _VIEWS:
        return _viewed(c, tuple(x.shape), tuple(out.shape))
    if name in _MEANS:
        return _reduced(c, x, args, out)
    if name in _SOFT:
        return c if args[1] % x.dim() != c.dim else None
    rule = _MOVES.get(name)
    return None if rule is None else rule(c, x, args, out)


def _viewed(c: Channels, old: tuple[int, ...], new: tuple[int, ...]) -> Channels | None:
    """A reshape that keeps the channel dim, or merges it whole with its neighbours."""
    size, before, after = old[c.dim], math.prod(old[: c.dim]), math.prod(old[c.dim + 1 :])
    best: tuple[int, int, int, int] | None = None
    for k, width in enumerate(new):
        lead = math.prod(new[:k])
        if lead == 0 or size == 0 or before % lead:
            continue
        outer = before // lead
        inner, rest = divmod(width, outer * size)
        if rest or inner == 0 or after % inner:
            continue
        candidate = (outer, inner, k, width)
        best = candidate if best is None or candidate[:2] < best[:2] else best
    if best is None:
        return None
    outer, inner, k, _ = best
    return Channels(dim=k, ids=np.tile(np.repeat(c.ids, inner), outer))


def _reduced(c: Channels, x: Tensor, args: tuple[Any, ...], out: Tensor) -> Channels | None:
    if len(args) < 2 or not isinstance(args[1], int | list | tuple):
        return None
    given = [args[1]] if isinstance(args[1], int) else list(args[1])
    dims = {d % x.dim() for d in given}
    if not dims or c.dim in dims:
        return None
    dim = c.dim if out.dim() == x.dim() else c.dim - sum(d < c.dim for d in dims)
    return Channels(dim=dim, ids=c.ids)


def _permuted(c: Channels, x: Tensor, args: tuple[Any, ...], out: Tensor) -> Channels:
    order = [d % x.dim() for d in args[1]]
    return Channels(dim=order.index(c.dim), ids=c.ids)


def _transposed(c: Channels, x: Tensor, args: tuple[Any, ...], out: Tensor) -> Channels:
    a, b = (args[1] % x.dim(), args[2] % x.dim()) if len(args) > 2 else (0, x.dim() - 1)
    return Channels(dim={a: b, b: a}.get(c.dim, c.dim), ids=c.ids)


def _sliced(c: Channels, x: Tensor, args: tuple[Any, ...], out: Tensor) -> Channels:
    given: list[Any] = [*args[1:], *[0, None, None, 1][len(args) - 1 :]]
    along, start, end, step = given
    if along % x.dim() != c.dim:
        return c
    return Channels(dim=c.dim, ids=c.ids[slice(start, end, step)])


def _selected(c: Channels, x: Tensor, args: tuple[Any, ...], out: Tensor) -> Channels | None:
    along = args[1] % x.dim()
    return None if along == c.dim else Channels(dim=c.dim - (along < c.dim), ids=c.ids)


def _unsqueezed(c: Channels, x: Tensor, args: tuple[Any, ...], out: Tensor) -> Channels:
    return Channels(dim=c.dim + (args[1] % out.dim() <= c.dim), ids=c.ids)


def _squeezed(c: Channels, x: Tensor, args: tuple[Any, ...], out: Tensor) -> Channels | None:
    given: Sequence[int] = range(x.dim()) if len(args) < 2 else args[1]
    given = [given] if isinstance(given, int) else given
    gone = {d % x.dim() for d in given if x.shape[d] == 1}
    return None if c.dim in gone else Channels(dim=c.dim - sum(d < c.dim for d in gone), ids=c.ids)


def _expanded(c: Channels, x: Tensor, args: tuple[Any, ...], out: Tensor) -> Channels | None:
    dim = c.dim + out.dim() - x.dim()
    return Channels(dim=dim, ids=c.ids) if out.shape[dim] == len(c.ids) else None


def _padded(c: Channels, x: Tensor, args: tuple[Any, ...], out: Tensor) -> Channels | None:
    """New positions belong to no class: they stay, whatever is narrowed."""
    at = 2 * (x.dim() - 1 - c.dim)
    before, after = args[1][at : at + 2] if at < len(args[1]) else (0, 0)
    if before < 0 or after < 0:
        return None
    return Channels(dim=c.dim, ids=np.pad(c.ids, (before, after), constant_values=-1))


_MOVES: dict[str, Callable[[Channels, Tensor, tuple[Any, ...], Tensor], Channels | None]] = {
    "permute": _permuted,
    "transpose": _transposed,
    "t": _transposed,
    "slice": _sliced,
    "select": _selected,
    "unsqueeze": _unsqueezed,
    "squeeze": _squeezed,
    "expand": _expanded,
    "constant_pad_nd": _padded,
}
