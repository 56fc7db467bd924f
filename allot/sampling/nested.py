"""Nested results: the tensors in nested tuples and lists, and the same nest around others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor


class Hole:
    """Where a tensor was."""


HOLE = Hole()


def tensors(tree: Any) -> list[Tensor]:
    """Tensors in nested tuples and lists, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, tuple | list):
        return [x for part in tree for x in tensors(part)]
    return []


def refilled(tree: Any, values: Iterator[Any]) -> Any:
    """The nest with other things where the tensors, or the holes that they left, were."""
    if isinstance(tree, Tensor | Hole):
        return next(values)
    if isinstance(tree, tuple):
        return tuple(refilled(part, values) for part in tree)
    if isinstance(tree, list):
        return [refilled(part, values) for part in tree]
    return tree


def hollow(tree: Any) -> Any:
    """The nest with holes in the place of tensors."""
    return refilled(tree, iter([HOLE] * len(tensors(tree))))


def holes(tree: Any) -> int:
    """How many holes there are in a nest."""
    if isinstance(tree, tuple | list):
        return sum(holes(part) for part in tree)
    return int(isinstance(tree, Hole))


def first_input(args: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
    """The first argument of a call, by position or else by name."""
    x: Tensor = args[0] if args else next(iter(named.values()))
    return x


def some_rows(tree: Any, rows: Tensor, n: int) -> Any:
    """The nest (dicts too) with those rows of all tensors that are n long."""
    if isinstance(tree, Tensor):
        return tree[rows] if tree.dim() and len(tree) == n else tree
    if isinstance(tree, tuple):
        return tuple(some_rows(part, rows, n) for part in tree)
    if isinstance(tree, list):
        return [some_rows(part, rows, n) for part in tree]
    if isinstance(tree, dict):
        return {k: some_rows(part, rows, n) for k, part in tree.items()}
    return tree
