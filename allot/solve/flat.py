"""Flat: a problem's numbers side by side, so that whole points are priced without a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allot.table import Array

Index = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, eq=False)
class Flat:
    """K tables over all options of all free choices, and over all joint classes of all blocks.

    starts: where the options of each choice begin [free + 1].  single: [K, options].  cells:
    [K, joint classes].  entries: one per block and dim of it, ascending by choice: block,
    choice.  steps: what an option adds to the position of its block's cell, per entry and option
    of its choice, one after the other; rows: entry of each of these, own: the option it is of.
    """

    starts: Index
    constant: Array
    single: Array
    cells: Array
    first: Index
    block: Index
    choice: Index
    steps: Index
    begin: Index
    rows: Index
    own: Index

    def cell(self, index: Index) -> Index:
        """Position of the joint class that every block is in at an index [free] -> [blocks]."""
        at = self.first.copy()
        np.add.at(at, self.block, self.steps[self.begin + index[self.choice]])
        return at

    def values(self, index: Index) -> Array:
        """Every table at an index [free] -> [K]."""
        total: Array = self.constant + self.single[:, self.starts[:-1] + index].sum(axis=1)
        return total + self.cells[:, self.cell(index)].sum(axis=1)

    def given(self, index: Index) -> Array:
        """What depends on each choice alone, all others as in index [free] -> [K, options]."""
        total: Array = self.single.copy()
        if not len(self.rows):
            return total
        now = self.steps[self.begin + index[self.choice]]
        at = self.cell(index)[self.block][self.rows] - now[self.rows] + self.steps
        for k, cells in enumerate(self.cells):
            total[k] += np.bincount(self.own, weights=cells[at], minlength=total.shape[1])
        return total

    def mine(self, index: Index) -> Index:
        """Columns of the options that an index [free] takes -> [free]."""
        return self.starts[:-1] + index


def flat(
    constant: Array,
    single: Sequence[Array],
    blocks: Sequence[tuple[tuple[int, ...], tuple[Index, ...], Array]],
) -> Flat:
    """The numbers of a problem side by side; blocks: (choices, classes, values [K, ...])."""
    k = len(constant)
    sizes = [s.shape[1] for s in single]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.intp)]).astype(np.intp)
    cells = [v.reshape(k, -1) for _, _, v in blocks]
    first = np.concatenate([[0], np.cumsum([c.shape[1] for c in cells])])[:-1].astype(np.intp)
    found = []  # choice, block, steps of its options
    for b, (at, classes, values) in enumerate(blocks):
        strides = np.cumprod([1, *values.shape[:0:-1]])[-2::-1]
        found += [(a, b, s * c) for a, c, s in zip(at, classes, strides, strict=True)]
    found.sort(key=lambda e: e[:2])
    choice = np.array([e[0] for e in found], dtype=np.intp)
    lengths = [len(e[2]) for e in found]
    own = [starts[a] + np.arange(len(s)) for a, _, s in found]
    none = [np.zeros(0, dtype=np.intp)]
    return Flat(
        starts=starts,
        constant=constant,
        single=np.concatenate([np.zeros((k, 0)), *single], axis=1),
        cells=np.concatenate([np.zeros((k, 0)), *cells], axis=1),
        first=first,
        block=np.array([e[1] for e in found], dtype=np.intp),
        choice=choice,
        steps=np.concatenate([*none, *(e[2] for e in found)]).astype(np.intp),
        begin=np.concatenate([[0], np.cumsum(lengths, dtype=np.intp)])[:-1].astype(np.intp),
        rows=np.repeat(np.arange(len(found)), lengths).astype(np.intp),
        own=np.concatenate([*none, *own]).astype(np.intp),
    )
