"""Passing: which channels an op hands on, and which changes of their basis pass with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# what may be done to the channels of a space in its writers and undone in its readers
CHANGES = ("rotate", "scale", "shift")
# elements stay what they are
_MOVES = {
    "clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "permute", "transpose",
    "slice", "select", "unsqueeze", "squeeze", "expand",
}  # fmt: skip
_VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias", "view_as"}
# ops that only ask for a tensor's kind
QUIET = {"new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "empty_like", "ones_like"}
_ATTENTION = "_scaled_dot_product"


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracked:
    """A tensor whose channels are known.

    node: the space they belong to.  ids: which channel every element is of, shaped like the
    tensor.  source: the writer that alone made it, "" where several were added.
    """

    node: int
    ids: Tensor
    source: str = ""

    def along(self, dim: int) -> bool:
        """Whether the channels are the same at every place of a dim."""
        low = self.ids.narrow(dim, 0, 1)
        return bool((self.ids == low).all())

    def last(self) -> tuple[int, ...] | None:
        """The channel of each place of the last dim, where that alone tells the channel."""
        rows = self.ids.reshape(-1, self.ids.shape[-1])
        return tuple(rows[0].tolist()) if bool((rows == rows[:1]).all()) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Passed:
    """out: the channels of an op's result.  barred: the changes that do not pass it."""

    out: Tracked
    barred: tuple[str, ...] = ()


def moved(name: str, x: Tracked, args: tuple[Any, ...], kwargs: Any) -> Tracked | None:
    """Channels of a view or copy of one tensor; None for another op."""
    if name in _VIEWS:
        shape = args[1].shape if isinstance(args[1], Tensor) else args[1]
        return None if isinstance(shape, torch.dtype) else _like(x, x.ids.reshape(shape))
    if name in _MOVES:
        op = getattr(torch.ops.aten, name)
        named = {} if name in ("_to_copy", "clone", "contiguous") else kwargs
        rest = () if name == "_to_copy" else args[1:]
        return x if name == "_to_copy" else _like(x, op(x.ids, *rest, **named))
    if name == "mean" and len(args) > 1 and args[1]:
        dims = args[1] if isinstance(args[1], list | tuple) else [args[1]]
        if not all(x.along(d) for d in dims):
            return None
        keep = bool(args[2]) if len(args) > 2 else bool(kwargs.get("keepdim", False))
        return _like(x, x.ids.amax(dim=tuple(dims), keepdim=keep))
    return None


def multiplied(x: Tracked, other: Tensor | None, out: Tensor) -> Passed:
    """x times (or over) a tensor that no writer of a space made, or a number (None)."""
    ids = x.ids.expand(out.shape)
    same = other is None or all(
        x.along(d - x.ids.dim()) or _size(other, d - x.ids.dim()) == 1 for d in range(x.ids.dim())
    )
    return Passed(out=_like(x, ids), barred=("shift",) if same else ("rotate", "shift"))


def weighted_at(name: str) -> int:
    """Which argument of an op is summed over tokens with weights from elsewhere; 0 for none."""
    if name in ("bmm", "matmul", "mm"):
        return 1
    return 2 if name.startswith(_ATTENTION) else 0


def weighted(known: Tracked, x: Tensor, out: Tensor) -> Passed | None:
    """Sums over the tokens of x [..., t, c] as attention's [..., t, c], heads in groups or not.

    A shift does not pass, since this does not look whether the weights add up to one.
    """
    if not known.along(-2):
        return None
    ids = known.ids[..., :1, :]
    if out.dim() > 3:
        ids = ids.repeat_interleave(out.shape[-3] // x.shape[-3], dim=-3)
    ids = ids.expand(out.shape)
    return Passed(out=_like(known, ids), barred=("rotate", "shift"))


def joined(parts: Sequence[Tracked], dim: int) -> Tensor | None:
    """Ids of tensors joined along a dim that their channels do not run along, or of one space."""
    if len({p.node for p in parts}) > 1 and not all(p.along(dim) for p in parts):
        return None
    return torch.cat([p.ids for p in parts], dim)


def added(a: Tracked, b: Tracked) -> Tensor | None:
    """Ids of a sum in which channel meets channel of the same number; None where they do not."""
    left, right = torch.broadcast_tensors(a.ids, b.ids)
    return left if bool((left == right).all()) else None


def _like(x: Tracked, ids: Tensor) -> Tracked:
    return Tracked(node=x.node, ids=ids, source=x.source)


def _size(t: Tensor, dim: int) -> int:
    """The size along a dim counted from the end; 1 where there is none."""
    return t.shape[dim] if -dim <= t.dim() else 1
