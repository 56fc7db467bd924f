"""An option is struck out only where no choice of its neighbours makes it pay."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from allot.dominated import cut, dominated
from allot.options.precision import Weight
from allot.site import Graph, Site, Touch
from allot.space import Choice, Space
from allot.table import Table, Term

WIDTHS = (32, 8, 6, 4)


def space(counts: tuple[int, ...]) -> Space:
    names = [f"l{i}.weight" for i in range(len(counts))]
    sites = tuple(
        Site(
            name=n, kind="weight", shape=(4, 4), reach=(n,),
            touches=(Touch(module=n, role="weight", index=()),),
        )
        for n in names
    )  # fmt: skip
    return Space(
        graph=Graph(sites=sites, layers=(), norms=(), order=()),
        choices=tuple(
            Choice(site=n, options=tuple(Weight(bits=b) for b in WIDTHS[:k]))
            for n, k in zip(names, counts, strict=True)
        ),
    )


def table(unit: str, *terms: tuple[tuple[int, ...], object]) -> Table:
    found = tuple(Term(at=at, values=np.asarray(v, dtype=float)) for at, v in terms)
    return Table(unit=unit, origin="made up", terms=found)


BYTES = table("byte", ((0,), [32, 8]), ((1,), [32, 8]))


def test_an_option_that_is_slower_for_every_neighbour_goes() -> None:
    seconds = table("s", ((0,), [1.0, 1.4]), ((0, 1), [[0, 0.1], [0.1, 0]]))
    reasons = dominated(space((2, 2)), seconds=seconds, others=[BYTES])
    assert list(reasons) == ["l0.weight"]
    assert "slower than the original" in reasons["l0.weight"]["W8"]


def test_an_option_that_loses_alone_and_wins_beside_its_like_stays() -> None:
    # 10 % slower by itself, but it spares a conversion of 30 % where the neighbour is an integer
    seconds = table("s", ((0,), [1.0, 1.1]), ((0, 1), [[0, 0.3], [0.3, 0]]))
    assert "l0.weight" not in dominated(space((2, 2)), seconds=seconds, others=[])


def test_a_width_off_the_staircase_goes_and_the_step_below_it_stays() -> None:
    seconds = table("s", ((0,), [1.0, 1.2, 0.8]))
    smaller = table("byte", ((0,), [32, 8, 6]))
    reasons = dominated(space((3,)), seconds=seconds, others=[smaller])
    assert list(reasons["l0.weight"]) == ["W8"]
    left = cut(space((3,)), [("l0.weight", "W8", reasons["l0.weight"]["W8"])])
    assert [o.label for o in left.choices[0].options] == ["float", "W6"]
    assert left.choices[0].struck == (("W8", reasons["l0.weight"]["W8"]),)


def test_what_is_no_faster_and_no_smaller_goes_and_what_is_smaller_stays() -> None:
    seconds = table("s", ((0,), [1.0, 1.0]), ((1,), [1.0, 1.0]))
    reasons = dominated(
        space((2, 2)), seconds=seconds, others=[table("byte", ((0,), [32, 32]), ((1,), [32, 8]))]
    )
    assert list(reasons) == ["l0.weight"]
    assert "neither faster nor smaller" in reasons["l0.weight"]["W8"]


def test_a_pinned_option_stays_however_slow() -> None:
    pinned = space((2, 2)).pin("l0.weight", "W8")
    seconds = table("s", ((0,), [9.0]), ((1,), [1.0, 1.0]))
    reasons = dominated(pinned, seconds=seconds, others=[table("byte", ((1,), [32, 8]))])
    assert not reasons


numbers = st.lists(st.integers(0, 8), min_size=12, max_size=12)


@given(alone=numbers, pairs=numbers, stored=numbers)
@settings(max_examples=200, deadline=None)
def test_what_is_struck_out_is_beaten_in_every_plan(
    alone: list[int], pairs: list[int], stored: list[int]
) -> None:
    counts = (4, 3)
    seconds = table("s", ((0,), alone[:4]), ((0, 1), np.reshape(pairs, counts)))
    smaller = table("byte", ((0,), stored[:4]), ((1,), stored[4:7]))
    whole = space(counts)
    reasons = dominated(whole, seconds=seconds, others=[smaller])
    for i, choice in enumerate(whole.choices):
        labels = [o.label for o in choice.options]
        for k in (labels.index(x) for x in reasons.get(choice.site, {})):
            rest = [range(n) if j != i else (0,) for j, n in enumerate(counts)]
            plans = list(itertools.product(*rest))
            assert any(_beats(p, k, i, plans, seconds, smaller) for p in range(len(labels)))


def _beats(
    p: int, k: int, i: int, plans: list[tuple[int, ...]], seconds: Table, smaller: Table
) -> bool:
    """Option p is never slower than k, and never has more to show for it."""

    def at(table: Table, plan: tuple[int, ...], option: int) -> float:
        return table.of((*plan[:i], option, *plan[i + 1 :]))

    faster = [at(seconds, x, p) < at(seconds, x, k) for x in plans]
    no_slower = [at(seconds, x, p) <= at(seconds, x, k) for x in plans]
    as_small = [at(smaller, x, p) <= at(smaller, x, k) for x in plans]
    return p != k and (all(faster) or (all(no_slower) and all(as_small)))
