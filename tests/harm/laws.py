"""Laws that every signal keeps, asked of it by its own test file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from allot.scene import Scene
from allot.space import Choice, Space
from allot.table import Table
from tests import small, toys
from tests.harm import scenes

Signal = Callable[[Scene], Table]

LABELS = ("float", "W8", "W4", "W2", "A8", "A4")
MILD = ("W8", "W4", "W2", "A8", "A4")


def cut(space: Space, kinds: Sequence[str], labels: Sequence[str] = LABELS) -> Space:
    """The choices at sites of these kinds, with the options of these labels."""
    choices = tuple(
        replace(c, options=tuple(o for o in c.options if o.label in labels))
        for c in space.choices
        if space.graph.site(c.site).kind in kinds
    )
    return replace(space, choices=choices)


def tied(space: Space, *, backward: bool = False) -> Space:
    """One choice for all sites of each kind, named from the first to the last or backward."""
    groups: dict[str, list[Choice]] = {}
    for c in space.choices:
        groups.setdefault(space.graph.site(c.site).kind, []).append(c)
    choices = []
    for group in groups.values():
        first, *rest = reversed(group) if backward else group
        choices.append(replace(first, tied=tuple(c.site for c in rest)))
    return replace(space, choices=tuple(choices))


def scene(
    *kinds: str,
    labels: Sequence[str] = LABELS,
    shape: Callable[[Space], Space] = lambda space: space,
    seed: int = 0,
) -> Scene:
    """The chain with few options at sites of these kinds, without them all three kinds."""
    wanted = kinds or ("weight", "activation")
    return scenes.scene(
        toys.chain, space=lambda _, space: shape(cut(space, wanted, labels)), seed=seed
    )


def values(table: Table) -> list[np.ndarray]:
    return [t.values for t in table.terms]


def same(a: Table, b: Table) -> bool:
    return a.constant == b.constant and all(
        np.array_equal(x, y) for x, y in zip(values(a), values(b), strict=True)
    )


def says_one_term_a_choice(signal: Signal) -> None:
    """Every kind of option gets a finite number, the original 0, harsher weights more."""
    s = scenes.scene(toys.chain)
    table = signal(s)
    assert table.unit == "nat" and table.origin and table.of(s.space.original) == 0
    assert [t.at for t in table.terms] == [(i,) for i in range(len(s.space.choices))]
    for choice, found in zip(s.space.choices, values(table), strict=True):
        assert found.shape == (len(choice.options),) and found[0] == 0
        assert bool(np.isfinite(found).all()) and bool((found >= 0).all())
        if s.space.graph.site(choice.site).kind == "weight":
            by = {o.label: v for o, v in zip(choice.options, found, strict=True)}
            assert by["W2"] > by["W3"] > by["W4"] > by["W8"] > 0


def leaves_no_trace(signal: Signal) -> None:
    """Neither the user's network nor the bank's copy is any different afterwards."""
    s = scene()
    models = (s.task.model, s.bank.skeleton)
    before = [(small.state(m), small.identities(m)) for m in models]
    wanted = [[p.requires_grad for p in m.parameters()] for m in models]
    spent = s.evaluator.spent
    signal(s)
    for m, (state, identities), grads in zip(models, before, wanted, strict=True):
        assert small.same_state(small.state(m), state) and small.identities(m) == identities
        assert small.hooks(m) == 0 and [p.requires_grad for p in m.parameters()] == grads
        assert all(p.grad is None for p in m.parameters())
    assert s.evaluator.spent > spent


def repeats_itself(signal: Signal) -> None:
    """Two scenes of one seed: the same numbers to the last bit, and progress that never falls."""
    assert same(signal(scene()), signal(scene()))


def progresses(run: Callable[[Scene, Callable[[float], None]], Table]) -> None:
    shares: list[float] = []
    run(scene(), shares.append)
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)


def asks_not_in_which_order_sites_are_tied(signal: Signal) -> None:
    forward = signal(scene(shape=tied))
    backward = signal(scene(shape=lambda s: tied(s, backward=True)))
    for a, b in zip(values(forward), values(backward), strict=True):
        assert a == pytest.approx(b, rel=1e-9)


def sums_over_tied_weights(signal: Signal) -> None:
    """A choice at several weights is worth what separate choices are worth together."""
    apart = values(signal(scene("weight")))
    (together,) = values(signal(scene("weight", shape=tied)))
    assert together == pytest.approx(np.sum(apart, axis=0), rel=1e-9)


def says_the_first_option_too(signal: Signal) -> None:
    """Without the original, weights say the same of each option as with it: nothing is 0."""
    whole = values(signal(scene("weight")))
    mild = values(signal(scene("weight", labels=MILD)))
    for a, b in zip(whole, mild, strict=True):
        assert b == pytest.approx(a[1:], rel=1e-9) and b[0] > 0


# of any signal with a table over a scene
EVERY = (
    says_one_term_a_choice,
    leaves_no_trace,
    repeats_itself,
    asks_not_in_which_order_sites_are_tied,
)
# of one that takes every option from the float original and adds up over tied weights
ADDITIVE = (*EVERY, sums_over_tied_weights, says_the_first_option_too)
