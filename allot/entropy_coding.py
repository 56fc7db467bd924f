"""Entropy coding: whole-number codes of weights as few bits as their histogram allows, and back.

A stream is a head of four bytes (lowest code, number of cells less one, log2 of a cell's codes,
contexts), a histogram of one byte per cell, then 32-bit words of range coding (Martin 1979) from
the library constriction.  The model of a layer is its histogram.  Where it saves more, a column is
in one of several contexts, by how large its codes in the rows before were, and every context's
histogram starts as the layer's and learns from the rows as they are read: nothing more is stored.

Tried and left out: a stored factor per row and per column, whose product tells a code's size and
stretches one histogram.  On a byte-level Llama it saves 0.2 % of the codes, at 4 as at 8 bits: rows
of 128 codes on a grid of their own differ by little more than what the factors take.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.errors import MissingError
from allot.num import histogram

Codes = NDArray[np.int8]
Bytes = NDArray[np.uint8]

# what saves less than this share of what is there stays as it is: it loads faster
PAYS = 0.003
_INSTALL = "pip install 'allot[entropy]'"
_HEAD = 4
# codes that share a cell of the histogram: 2^0 .. 2^4
_CELLS = range(5)
# bounds of a column's mean size over the layer's, between contexts: half an octave apart
_BOUNDS = 2.0 ** np.array([-0.75, -0.25, 0.25, 0.75])
# rows of average size that a column starts with
_ROWS_BEFORE = 4
# log2 of the codes that the layer's histogram counts as in each context; 0 for no contexts
_LEARNS = (0, 5, 6, 7, 8)
_WHOLE = 1 << 24


def missing() -> str:
    """ "" where weights can be coded here, else one sentence with the line that installs it."""
    try:
        import constriction  # noqa: F401
    except ImportError:
        return f"entropy-coded weights need constriction: {_INSTALL}"
    return ""


def encoded(codes: Codes, rows: int) -> Bytes:
    """The stream of codes [rows * k], row by row; decoded(encoded(codes, rows), n, rows) == codes.

    Raises MissingError without the library.
    """
    flat = codes.astype(np.int64)
    low = int(flat.min())
    shift, table = _histogram(flat - low)
    plain = _Model(low=low, shift=shift, table=table, learns=0)
    if len(table) == 1 and shift == 0:
        return plain.head()
    streams = [_written(replace(plain, learns=b), flat.reshape(rows, -1)) for b in _LEARNS]
    least = min(streams, key=len)
    return least if len(least) <= (1 - PAYS) * len(streams[0]) else streams[0]


def decoded(data: Bytes, n: int, rows: int) -> Codes:
    """The n codes of a stream.

    Raises ValueError for bytes that are no stream of n codes, MissingError without the library.
    """
    if len(data) <= _HEAD or (len(data) - _HEAD - 1 - int(data[1])) % 4:
        raise ValueError("an entropy-coded layer is cut off")
    model = _Model.read(data)
    words = data[_HEAD + len(model.table) :]
    if len(model.table) == 1 and model.shift == 0:
        return np.full(n, model.low, dtype=np.int8)
    reader = _library().stream.queue.RangeDecoder(words.copy().view("<u4").astype(np.uint32))
    found = np.empty((rows, n // rows), dtype=np.int64)
    for places, entropy in model.steps(found):
        found[places] = _read(reader, entropy, len(places[0])) + model.low
    if not reader.maybe_exhausted() or int(found.max()) > 127:
        raise ValueError("an entropy-coded layer holds other codes than its shape takes")
    return found.reshape(-1).astype(np.int8)


def _read(reader: Any, entropy: Any, n: int) -> NDArray[np.int64]:
    try:
        return np.asarray(reader.decode(entropy, n), dtype=np.int64)
    except AssertionError as e:  # what the library raises for words that no model wrote
        raise ValueError("an entropy-coded layer is damaged") from e


def _histogram(symbols: NDArray[np.int64]) -> tuple[int, Bytes]:
    """log2 of the codes per cell, and the histogram, that take least bits together."""
    best = (math.inf, 0, np.zeros(0, dtype=np.uint8))
    for shift in _CELLS:
        counts = np.bincount(symbols >> shift)
        table = histogram.costs(counts)
        bits = histogram.stored_bits(counts, table) + shift * symbols.size
        best = min(best, (bits, shift, table), key=lambda b: b[0])
    return best[1], best[2]


# rows and columns of codes that are coded together
_Places = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Model:
    """How likely codes are: the head of a stream, and what follows from it.

    low: the lowest code.  shift: log2 of the codes in a cell.  learns: one of _LEARNS.
    """

    low: int
    shift: int
    table: Bytes
    learns: int

    @classmethod
    def read(cls, data: Bytes) -> _Model:
        table = data[_HEAD : _HEAD + 1 + int(data[1])]
        if data[2] not in _CELLS or data[3] not in _LEARNS or (table == histogram.ABSENT).all():
            raise ValueError("an entropy-coded layer has no histogram of its codes")
        low = int(data[:1].view(np.int8)[0])
        return cls(low=low, shift=int(data[2]), table=table, learns=int(data[3]))

    def head(self) -> Bytes:
        first = [self.low & 0xFF, len(self.table) - 1, self.shift, self.learns]
        return np.concatenate([np.array(first, dtype=np.uint8), self.table])

    def entropy(self, cells: NDArray[np.int64]) -> Any:
        """The coder's model of shares of cells: whole numbers, the same on every machine."""
        shares = np.repeat(cells, 1 << self.shift).astype(np.float64)
        return _library().stream.model.Categorical(shares, perfect=False)

    def steps(self, codes: NDArray[np.int64]) -> Iterator[tuple[_Places, Any]]:
        """Places of codes [rows, k] that come next, and the model for them.

        Codes of the places before must be there when the next are asked for.
        """
        start = histogram.weights(self.table)
        if not self.learns:
            every, each = np.indices(codes.shape)
            yield (every.reshape(-1), each.reshape(-1)), self.entropy(start)
            return
        shares = np.tile(start, (len(_BOUNDS) + 1, 1))
        centres = np.abs(np.arange(len(start)) * (1 << self.shift) + self.low)
        mean = max(1, int((start * centres).sum())) / int(start.sum())
        sizes = np.zeros(codes.shape[1])
        for row in range(len(codes)):
            average = (sizes + _ROWS_BEFORE * mean) / (row + _ROWS_BEFORE)
            contexts = np.searchsorted(_BOUNDS, average / mean)
            for context in np.unique(contexts):
                columns = np.nonzero(contexts == context)[0]
                yield (np.full_like(columns, row), columns), self.entropy(shares[context])
                cells = (codes[row, columns] - self.low) >> self.shift
                shares[context] += (_WHOLE >> self.learns) * np.bincount(
                    cells, minlength=len(start)
                )
            sizes += np.abs(codes[row])


def _written(model: _Model, codes: NDArray[np.int64]) -> Bytes:
    coder = _library().stream.queue.RangeEncoder()
    for places, entropy in model.steps(codes):
        coder.encode((codes[places] - model.low).astype(np.int32), entropy)
    words = np.asarray(coder.get_compressed(), dtype="<u4")
    return np.concatenate([model.head(), words.view(np.uint8)])


def _library() -> Any:
    try:
        import constriction
    except ImportError as e:
        raise MissingError(missing()) from e
    return constriction
