"""Problem: tables cut down to the options still in question, so that the program stays small."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from allot.solve.flat import Flat, Index, flat
from allot.space import Point
from allot.table import Array, Table, Term

ROUNDING = 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """What every table adds for the joint options of some choices.

    at: two or more free choices, ascending.  classes: per dim, option -> class [n]; options of
    one class differ by a constant only, which is kept in `Problem.single`.  values: [tables,
    classes_a, classes_b, ...].
    """

    at: tuple[int, ...]
    classes: tuple[Index, ...]
    values: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """K tables, harm first, over the choices that still have two options or more.

    base: a full point in which the decided choices stand.  free: positions of the others;
    options: which options of each are left [n].  single: per free choice [K, n].  floors: per
    free choice the harm that no plan with this option may go below [n]; floor_base: the same of
    the decided ones.  For every index: constant + singles + blocks = the tables' values.
    """

    base: Point
    free: tuple[int, ...]
    options: tuple[Index, ...]
    constant: Array
    single: tuple[Array, ...]
    blocks: tuple[Block, ...]
    floors: tuple[Array, ...]
    floor_base: float

    @cached_property
    def flat(self) -> Flat:
        """The same numbers side by side."""
        blocks = [(b.at, b.classes, b.values) for b in self.blocks]
        return flat(self.constant, self.single, blocks)

    def point(self, index: Sequence[int] | Index) -> Point:
        """The full point of an index per free choice."""
        full = list(self.base)
        for at, options, i in zip(self.free, self.options, index, strict=True):
            full[at] = int(options[i])
        return tuple(full)

    def index(self, point: Point) -> Index:
        """The inverse of `point`, -1 where an option of it is not left."""
        pairs = zip(self.free, self.options, strict=True)
        found = [np.flatnonzero(o == point[at]) for at, o in pairs]
        return np.array([f[0] if len(f) else -1 for f in found], dtype=np.intp)

    def values(self, index: Index) -> Array:
        """Every table at an index [free] -> [K]."""
        return self.flat.values(np.asarray(index, dtype=np.intp))

    def given(self, index: Index, choice: int) -> Array:
        """What depends on one choice, all others as in index [free] -> [K, n]."""
        starts = self.flat.starts
        return self.flat.given(index)[:, starts[choice] : starts[choice + 1]]


def cut(tables: Sequence[Table], allowed: Sequence[Index], floors: Sequence[Array]) -> Problem:
    """The problem of the tables [K] over the allowed options per choice.

    floors: per choice [n of all its options], -inf where nothing is guarded.
    """
    free = tuple(i for i, a in enumerate(allowed) if len(a) > 1)
    place = {at: i for i, at in enumerate(free)}
    draft = _Draft(
        constant=np.array([t.constant for t in tables]),
        single=[np.zeros((len(tables), len(allowed[i]))) for i in free],
        scopes={},
    )
    for k, table in enumerate(tables):
        for term in table.terms:
            draft.take_(k, *_restrict(term, allowed, place))
    blocks = _blocks(_merge(draft.scopes), draft)
    decided = [f[a[0]] for f, a in zip(floors, allowed, strict=True) if len(a) == 1]
    return Problem(
        base=tuple(int(a[0]) for a in allowed),
        free=free,
        options=tuple(allowed[i] for i in free),
        constant=draft.constant,
        single=tuple(draft.single),
        blocks=blocks,
        floors=tuple(floors[i][allowed[i]] for i in free),
        floor_base=float(max(decided, default=-np.inf)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Draft:
    """Numbers gathered so far; `scopes` maps free choices to [K, n_a, n_b, ...]."""

    constant: Array
    single: list[Array]
    scopes: dict[tuple[int, ...], Array]

    def take_(self, k: int, at: tuple[int, ...], values: Array) -> None:
        """Adds a term of table k; what is joint in more than two choices is cut down first."""
        if not at:
            self.constant[k] += values
        elif len(at) == 1:
            self.single[at[0]][k] += values
        else:
            full = np.zeros((len(self.constant), *values.shape))
            full[k] = values
            self.add_(_collapse(at, full, self) if len(at) > 2 else _whole(at, full))

    def add_(self, block: Block) -> None:
        if block.at:
            full = block.values[np.ix_(np.arange(len(block.values)), *block.classes)]
            self.scopes[block.at] = self.scopes.get(block.at, 0) + full


def _whole(at: tuple[int, ...], values: Array) -> Block:
    """The block of [K, n_a, ...] in which every option is a class of its own."""
    return Block(at=at, classes=tuple(np.arange(n) for n in values.shape[1:]), values=values)


def _blocks(scopes: Mapping[tuple[int, ...], Array], draft: _Draft) -> tuple[Block, ...]:
    """The blocks of the scopes, cut down to classes; the rest goes into the draft."""
    alike: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for at, values in scopes.items():
        alike.setdefault(values.shape, []).append(at)
    plain: set[tuple[int, ...]] = set()
    for shape, group in alike.items():
        if len(shape) == 3:
            distinct = _distinct(np.stack([scopes[at] for at in group]))
            plain |= {at for at, d in zip(group, distinct, strict=True) if d}
    found = (_whole(at, v) if at in plain else _collapse(at, v, draft) for at, v in scopes.items())
    return tuple(b for b in found if b.at)


def _distinct(values: Array) -> NDArray[np.bool_]:
    """Whether no two options are alike in a pair of choices: [pairs, K, n_a, n_b] -> [pairs]."""
    found = np.ones(len(values), dtype=np.bool_)
    for rows in (values, values.swapaxes(2, 3)):
        n = rows.shape[2]
        for i, j in itertools.combinations(range(n), 2):
            step, size = (
                rows[:, :, i] - rows[:, :, j],
                np.abs(rows[:, :, i]) + np.abs(rows[:, :, j]),
            )
            const = np.take_along_axis(step, size.argmin(-1)[..., None], -1)
            found &= ~(np.abs(step - const) <= ROUNDING * size).all(axis=(-1, -2))
    return found


def _restrict(
    term: Term, allowed: Sequence[Index], place: Mapping[int, int]
) -> tuple[tuple[int, ...], Array]:
    """Scope in free choices and values of a term over the allowed options."""
    if not term.at:
        return (), np.asarray(term.values, dtype=np.float64)
    values = np.asarray(term.values, dtype=np.float64)[np.ix_(*(allowed[a] for a in term.at))]
    decided = tuple(d for d, a in enumerate(term.at) if a not in place)
    return tuple(place[a] for a in term.at if a in place), values.squeeze(axis=decided)


def _merge(scopes: Mapping[tuple[int, ...], Array]) -> dict[tuple[int, ...], Array]:
    """Scopes that lie inside another are added to the larger one."""
    merged: dict[tuple[int, ...], Array] = {}
    holding: dict[int, list[tuple[int, ...]]] = {}
    for at, values in sorted(scopes.items(), key=lambda x: (-len(x[0]), x[0])):
        larger = (h for h in holding.get(at[0], ()) if len(h) > len(at))
        home = next((h for h in larger if set(at) <= set(h)), None)
        for a in at if home is None and len(at) > 2 else ():
            holding.setdefault(a, []).append(at)
        if home is None:
            merged[at] = values
        else:
            dims = [1 + home.index(a) for a in at]
            shape = [values.shape[0]] + [1] * len(home)
            for d, n in zip(dims, values.shape[1:], strict=True):
                shape[d] = n
            merged[home] = merged[home] + values.reshape(shape)
    return merged


def _collapse(at: tuple[int, ...], values: Array, draft: _Draft) -> Block:
    """The block of [K, n_a, ...] with alike options as one class; the rest goes into the draft.

    Two options are alike if their slices differ by a constant, up to rounding. A dim in which
    all are alike drops out, so what is additive leaves no block at all (`at` is empty then).
    """
    kept: list[int] = []
    classes: list[Index] = []
    for d, a in enumerate(at):
        rows = np.moveaxis(values, 1 + len(kept), 0)  # [n, K, others]
        found, first, shift = _alike(rows.reshape(rows.shape[0], rows.shape[1], -1))
        draft.single[a] += shift.T
        rows = rows[first]
        if len(first) == 1:
            values = rows[0]
        else:
            values = np.moveaxis(rows, 0, 1 + len(kept))
            kept.append(d)
            classes.append(found)
    if len(kept) > 1:
        return Block(at=tuple(at[d] for d in kept), classes=tuple(classes), values=values)
    if kept:
        draft.single[at[kept[0]]] += values[:, classes[0]]
    else:
        draft.constant[:] += values
    return Block(at=(), classes=(), values=np.zeros((len(values),)))


def _alike(rows: Array) -> tuple[Index, Index, Array]:
    """Classes of rows [n, K, m] up to a constant: class [n], its first row [c], shift [n, K]."""
    n = len(rows)
    found, shift = np.arange(n, dtype=np.intp), np.zeros(rows.shape[:2])
    first: list[int] = []
    step = rows[:, None] - rows[None]  # [n, n, K, m]
    size = np.abs(rows)[:, None] + np.abs(rows)[None]
    # the element that rounding blurs least says what the constant is
    const = np.take_along_axis(step, size.argmin(-1)[..., None], -1)
    alike = np.all(np.abs(step - const) <= ROUNDING * size, axis=(-1, -2)).tolist()
    for i in range(n):
        c = next((c for c, j in enumerate(first) if alike[i][j]), len(first))
        found[i] = c
        if c == len(first):
            first.append(i)
        else:
            shift[i] = const[i, first[c], :, 0]
    return found, np.array(first, dtype=np.intp), shift
