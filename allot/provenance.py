"""Provenance: which channel class every position of a tensor comes from, op by op."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allot.moves import Channels, Ids, Known, moved


class Classes:
    """Classes of channels that must stay or leave together (union-find), some of them fixed."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reason: dict[int, str] = {}

    def fresh(self, n: int) -> Ids:
        start = len(self._parent)
        self._parent.extend(range(start, start + n))
        return np.arange(start, start + n)

    def find(self, c: int) -> int:
        while self._parent[c] != c:
            self._parent[c] = c = self._parent[self._parent[c]]
        return c

    def tie(self, a: Ids, b: Ids, *, why: str) -> Ids:
        """Union position by position; a class that meets a position without one is fixed."""
        for i, j in zip(a.tolist(), b.tolist(), strict=True):
            if i >= 0 and j >= 0:
                self._union(self.find(i), self.find(j))
            elif max(i, j) >= 0:
                self.fix([max(i, j)], why)
        return np.maximum(a, b)

    def _union(self, i: int, j: int) -> None:
        if i == j:
            return
        low, high = min(i, j), max(i, j)
        self._parent[high] = low
        reason = self._reason.pop(high, "")
        if reason:
            self._reason.setdefault(low, reason)

    def fix(self, ids: Iterable[int], why: str) -> None:
        """These classes may not be narrowed; the first reason stands."""
        for c in ids:
            if c >= 0:
                self._reason.setdefault(self.find(int(c)), why)

    def reason(self, c: int) -> str:
        return self._reason.get(self.find(c), "")


Result = list[tuple[Tensor, Channels]]

# elementwise ops that carry no tag which says so
_ELEMENTWISE = {"hardswish", "hardsigmoid", "_prelu_kernel", "rsub", "mish", "softplus", "elu"}
_EMPTY = {"new_zeros", "new_ones", "new_full", "new_empty"}


def follow(
    classes: Classes, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any,
    known: Known,
) -> Result:  # fmt: skip
    """Channels of what an op returns; what is not understood fixes every class it touches."""
    name = func.overloadpacket.__name__
    given = [t for t in tensors((args, kwargs)) if known(t) is not None]
    if not given or name in _EMPTY:
        return []
    outs = tensors(out)
    result: Result | None = None
    if torch.Tag.pointwise in func.tags or name.rstrip("_") in _ELEMENTWISE:
        result = _pointwise(classes, tensors((args, kwargs)), outs[0], known)
    elif name == "cat":
        result = _cat(classes, args, outs[0], known)
    elif name in ("split", "split_with_sizes"):
        result = _split(args, outs, known)
    elif len(given) == 1 and args and outs and not func._schema.is_mutable:
        channels = moved(name, args, outs[0], known)
        result = None if channels is None else [(outs[0], channels)]
    if result is None:
        for t in given:
            channels = known(t)
            assert channels is not None
            classes.fix(channels.ids.tolist(), f"its channels meet {name!r}, which is not followed")
        return []
    return result


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of nested tuples, lists and dicts, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, tuple | list):
        return [t for branch in tree for t in tensors(branch)]
    return []


def _pointwise(classes: Classes, args: list[Tensor], out: Tensor, known: Known) -> Result | None:
    """Classes of all inputs are tied, position by position, as they broadcast."""
    dims = {out.dim() - t.dim() + c.dim for t in args if (c := known(t)) is not None}
    if len(dims) != 1:
        return None
    (dim,) = dims
    size, ids = out.shape[dim], None
    for t in args:
        channels, at = known(t), dim - (out.dim() - t.dim())
        width = t.shape[at] if at >= 0 else 1
        if width == 1 and size != 1:
            classes.fix([] if channels is None else channels.ids.tolist(), "it is broadcast")
            continue
        if channels is None and (t.dim() == 0 or at < 0):
            continue
        new = np.full(size, -1) if channels is None else channels.ids
        why = "it is combined with channels that stay, such as those of a constant pad"
        ids = new if ids is None else classes.tie(ids, new, why=why)
    return [] if ids is None else [(out, Channels(dim=dim, ids=ids))]


def _cat(classes: Classes, args: tuple[Any, ...], out: Tensor, known: Known) -> Result | None:
    parts: list[Tensor] = [t for t in args[0] if t.numel()]
    along = (args[1] if len(args) > 1 else 0) % out.dim()
    found = [known(t) for t in parts]
    dims = {c.dim for c in found if c is not None}
    if len(dims) != 1:
        return None
    (dim,) = dims
    filled = [
        np.full(t.shape[dim], -1) if c is None else c.ids
        for t, c in zip(parts, found, strict=True)
    ]  # fmt: skip
    if along == dim:
        return [(out, Channels(dim=dim, ids=np.concatenate(filled)))]
    ids = filled[0]
    for new in filled[1:]:
        ids = classes.tie(ids, new, why="it is joined with a tensor whose channels stay")
    return [(out, Channels(dim=dim, ids=ids))]


def _split(args: tuple[Any, ...], outs: list[Tensor], known: Known) -> Result | None:
    channels = known(args[0])
    assert channels is not None
    along = (args[2] if len(args) > 2 else 0) % args[0].dim()
    if along != channels.dim:
        return [(t, channels) for t in outs]
    starts = np.cumsum([0, *(t.shape[along] for t in outs)])
    return [
        (t, Channels(dim=along, ids=channels.ids[a:b]))
        for t, a, b in zip(outs, starts[:-1], starts[1:], strict=True)
    ]
