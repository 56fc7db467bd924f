"""Carry: which ops let a positive scale per channel pass, and where they move the channels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allot.moves import Channels, Known, moved
from allot.provenance import tensors

# f(s x) = s f(x) for s > 0, element by element
_RECTIFIERS = {"relu", "relu_", "leaky_relu", "leaky_relu_", "_prelu_kernel", "abs"}
# linear in the one factor that is followed
_PRODUCTS = {"mul", "mul_", "div", "div_"}
# the same, over places of one channel; a zero stays zero under a scale, not under a shift
_REDUCTIONS = {
    "max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "mean", "sum",
    "amax", "amin", "constant_pad_nd",
}  # fmt: skip
# elements stay what they are
_MOVES = {
    "clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "view_as", "view",
    "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "slice", "select",
    "unsqueeze", "squeeze", "expand",
}  # fmt: skip
# ops that only ask for a tensor's kind
_QUIET = {"new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "empty_like", "ones_like"}


def carried(
    name: str, args: tuple[Any, ...], outs: Sequence[Tensor], known: Known, *, rectified: bool
) -> list[Channels] | None:
    """Channels of what an op returns; None where a scale per channel does not pass.

    rectified: whether relu and the like, products with what is not followed, pools and reductions
    over places may lie in between; without, only moves of elements may.
    """
    if name in _QUIET:
        return []
    if name == "cat":
        return _joined(args, known)
    followed = [t for t in tensors(args) if known(t) is not None]
    if len(followed) != 1 or not outs:
        return None
    if rectified and name in _PRODUCTS:
        return _product(name, followed[0], args, outs, known)
    first = known(args[0]) if isinstance(args[0], Tensor) else None
    return None if first is None else _moved(name, first, args, outs, known, rectified)


def _moved(
    name: str, first: Channels, args: tuple[Any, ...], outs: Sequence[Tensor], known: Known,
    rectified: bool,
) -> list[Channels] | None:  # fmt: skip
    """Channels of an op of one tensor."""
    if rectified and name in _RECTIFIERS:
        return [first]
    rule = _RULES.get(name)
    if rule is not None:
        return rule(first, args, outs)
    filled = name == "constant_pad_nd" and len(args) > 2 and bool(args[2])
    if filled or name not in (_MOVES | _REDUCTIONS if rectified else _MOVES):
        return None
    found = moved(name, args, outs[0], known)
    return None if found is None else [found]


def _joined(args: tuple[Any, ...], known: Known) -> list[Channels] | None:
    parts: list[Tensor] = [t for t in args[0] if t.numel()]
    along = (args[1] if len(args) > 1 else 0) % parts[0].dim()
    found = [known(t) for t in parts]
    if {c.dim for c in found if c is not None} != {along}:
        return None
    filled = [
        np.full(t.shape[along], -1) if c is None else c.ids
        for t, c in zip(parts, found, strict=True)
    ]
    return [Channels(dim=along, ids=np.concatenate(filled))]


def _product(
    name: str, x: Tensor, args: tuple[Any, ...], outs: Sequence[Tensor], known: Known
) -> list[Channels] | None:
    c = known(x)
    assert c is not None
    dim = c.dim + outs[0].dim() - x.dim()
    divides = name.startswith("div") and args[0] is not x
    if divides or outs[0].shape[dim] != len(c.ids):
        return None
    return [Channels(dim=dim, ids=c.ids)]


def _split(c: Channels, args: tuple[Any, ...], outs: Sequence[Tensor]) -> list[Channels]:
    along = (args[2] if len(args) > 2 else 0) % args[0].dim()
    if along != c.dim:
        return [c for _ in outs]
    starts = np.cumsum([0, *(t.shape[along] for t in outs)])
    return [Channels(dim=c.dim, ids=c.ids[a:b]) for a, b in pairwise(starts)]


def _unbound(c: Channels, args: tuple[Any, ...], outs: Sequence[Tensor]) -> list[Channels] | None:
    along = (args[1] if len(args) > 1 else 0) % args[0].dim()
    if along == c.dim:
        return None
    return [Channels(dim=c.dim - (along < c.dim), ids=c.ids) for _ in outs]


def _indexed(c: Channels, args: tuple[Any, ...], outs: Sequence[Tensor]) -> list[Channels] | None:
    """Rows picked by positions or by a mask: the channel dim stays where it is from the end."""
    used = 0
    for index in args[1]:
        used += index.dim() if index is not None and index.dtype is torch.bool else 1
    if used > c.dim:
        return None
    return [Channels(dim=c.dim + outs[0].dim() - args[0].dim(), ids=c.ids)]


def _selected(c: Channels, args: tuple[Any, ...], outs: Sequence[Tensor]) -> list[Channels]:
    if args[1] % args[0].dim() != c.dim:
        return [c]
    return [Channels(dim=c.dim, ids=c.ids[args[2].cpu().numpy()])]


_RULES = {
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _unbound,
    "index": _indexed,
    "index_select": _selected,
}
