"""Laws of tables: a value is the constant and one entry of every term; files keep every bit.

Faults these laws must catch: dims of a term in another order than its choices; a pair counted
into a single; a constant lost in a file.
"""

from __future__ import annotations

import itertools
import json

import numpy as np

from allot.table import Table, Term, load

COUNTS = (3, 2, 4)


def table() -> Table:
    rng = np.random.default_rng(0)
    at = ((0,), (1,), (2,), (0, 2), (1, 2), (0,), (0, 1, 2))
    terms = tuple(Term(at=a, values=rng.normal(size=[COUNTS[i] for i in a])) for a in at)
    return Table(unit="nat", origin="drawn", constant=0.1 + 0.2, terms=terms)


def every_point() -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, COUNTS)))


def test_a_value_is_the_constant_and_one_entry_of_every_term() -> None:
    t = table()
    for a, b, c in every_point():
        v = [x.values for x in t.terms]
        want = 0.1 + 0.2 + v[0][a] + v[1][b] + v[2][c] + v[3][a, c] + v[4][b, c] + v[5][a]
        assert np.isclose(want + v[6][a, b, c], t.of((a, b, c)), rtol=1e-13)


def test_a_table_survives_a_file_to_the_last_bit() -> None:
    t = table()
    back = load(json.loads(json.dumps(t.dump())))
    assert (back.unit, back.origin, back.constant) == (t.unit, t.origin, t.constant)
    assert [back.of(p) for p in every_point()] == [t.of(p) for p in every_point()]
    assert all(x.values.dtype == np.float64 for x in back.terms)


def test_single_is_what_a_choice_decides_alone() -> None:
    t = table()
    assert np.array_equal(t.single(0, 3), t.terms[0].values + t.terms[5].values)
    assert np.array_equal(t.single(1, 2), t.terms[1].values)


def test_single_of_a_choice_without_a_term_of_its_own_is_zero() -> None:
    pair = Term(at=(0, 1), values=np.ones((3, 2)))
    assert not Table(unit="s", origin="", terms=(pair,)).single(1, 2).any()


def test_an_empty_table_is_its_constant() -> None:
    assert Table(unit="s", origin="", constant=2.5).of((0, 1)) == 2.5
