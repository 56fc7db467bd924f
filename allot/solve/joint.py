"""Joint: columns and rows that stand for joint options, and what their multipliers mean.

For whole x, every joint column is forced to the product of its marginals, so only x need be whole
(Sherali & Adams 1990, the local-marginal rows).  In a pair the first class of either choice is
eliminated: m n columns and m + n equalities become (m - 1)(n - 1) columns and m + n - 1
inequalities of the same relaxation, which HiGHS solves in about half the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array

from allot.solve.lagrange import Dual
from allot.solve.problem import Block, Index, Problem
from allot.table import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """table: coefficients [K, columns], options first.  constant: what is added to all [K].

    starts: first column of each choice's options [free + 1].  places: of each block's cells.
    """

    table: Array
    constant: Array
    starts: Index
    places: tuple[int, ...]


def columns(problem: Problem) -> Columns:
    """The columns of a problem's options and joint classes."""
    k = len(problem.constant)
    starts = problem.flat.starts
    table = problem.flat.single.copy()
    constant, cells, places = problem.constant.copy(), [table], []
    at = table.shape[1]
    for b in problem.blocks:
        values = b.values
        if len(b.at) == 2:
            base, first, second, values = _reduced(values)
            constant += base
            for a, classes, part in zip(b.at, b.classes, (first, second), strict=True):
                table[:, starts[a] : starts[a + 1]] += part[:, classes]
        places.append(at)
        cells.append(values.reshape(k, -1))
        at += cells[-1].shape[1]
    return Columns(
        table=np.concatenate(cells, axis=1),
        constant=constant,
        starts=starts,
        places=tuple(places),
    )


def _reduced(values: Array) -> tuple[Array, Array, Array, Array]:
    """[K, m, n] as base [K] + first [K, m] + second [K, n] + the rest [K, m - 1, n - 1]."""
    base = values[:, 0, 0]
    first, second = values[:, :, 0] - base[:, None], values[:, 0] - base[:, None]
    rest = values - first[:, :, None] - second[:, None] - base[:, None, None]
    return base, first, second, rest[:, 1:, 1:]


@dataclass(kw_only=True, eq=False)
class _Rows:
    """Entries of a sparse matrix, gathered row after row."""

    count: int
    row: list[Index]
    col: list[Index]
    val: list[Array]

    @staticmethod
    def none() -> _Rows:
        return _Rows(count=0, row=[], col=[], val=[])

    def put_(self, rows: Index, cols: Index, value: float) -> None:
        self.row.append(self.count + rows)
        self.col.append(cols)
        self.val.append(np.full(len(cols), value))

    def matrix(self, width: int) -> csr_array:
        none = [np.zeros(0, dtype=np.intp)]
        at = (np.concatenate([*none, *self.row]), np.concatenate([*none, *self.col]))
        values = np.concatenate([np.zeros(0), *self.val])
        return csr_array(coo_array((values, at), shape=(self.count, width)))


def marginals(problem: Problem, made: Columns, width: int) -> tuple[csr_array, csr_array, Array]:
    """Equalities (right side 0) and inequalities with their right sides: what ties joint
    columns to options."""
    equal, most = _Rows.none(), _Rows.none()
    room: list[float] = []
    for b, place in zip(problem.blocks, made.places, strict=True):
        if len(b.at) == 2:
            _pair_(b, place, made.starts, most)
            m, n = b.values.shape[1:]
            room += [0.0] * (m + n - 2) + [1.0]
        else:
            _sums_(b, place, made.starts, equal)
    return equal.matrix(width), most.matrix(width), np.array(room)


def _pair_(block: Block, place: int, starts: Index, rows: _Rows) -> None:
    """Rows of a pair: joint classes sum to no more than either class, nor to less than both."""
    m, n = block.values.shape[1:]
    cells = np.indices((m - 1, n - 1)).reshape(2, -1)
    last = m + n - 2
    spots = place + np.arange(cells.shape[1])
    for d, (a, classes) in enumerate(zip(block.at, block.classes, strict=True)):
        shift = (m - 1) * d
        taken = np.flatnonzero(classes > 0)
        rows.put_(shift + cells[d], spots, 1.0)
        rows.put_(shift + classes[taken] - 1, starts[a] + taken, -1.0)
        rows.put_(np.full(len(taken), last), starts[a] + taken, 1.0)
    rows.put_(np.full(len(spots), last), spots, -1.0)
    rows.count += last + 1


def _sums_(block: Block, place: int, starts: Index, rows: _Rows) -> None:
    """Rows of a larger block: joint classes sum to the options of each class."""
    shape = block.values.shape[1:]
    cells = np.indices(shape).reshape(len(shape), -1)
    for d, (a, classes) in enumerate(zip(block.at, block.classes, strict=True)):
        rows.put_(cells[d], place + np.arange(cells.shape[1]), 1.0)
        rows.put_(classes, starts[a] + np.arange(len(classes)), -1.0)
        rows.count += shape[d]


def messages_(problem: Problem, dual: Dual, price: Array, equal: Array, most: Array) -> None:
    """Fills in a dual's messages from the multipliers of both kinds of rows, in harm."""
    e = m = 0
    for b, messages in zip(problem.blocks, dual.messages, strict=True):
        if len(b.at) > 2:
            for message in messages:
                message[:] = equal[e : e + len(message)]
                e += len(message)
            continue
        _, first, second, _ = _reduced(b.values)
        own, other = len(messages[0]) - 1, len(messages[1]) - 1
        last = most[m + own + other]
        messages[0][:], messages[1][:] = price @ first, price @ second
        messages[0][1:] += last - most[m : m + own]
        messages[1][1:] += last - most[m + own : m + own + other]
        m += own + other + 1
