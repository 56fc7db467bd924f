"""Laws of the clipped measurement: it is what the evaluator says, and never nothing.

Faults these laws must catch: a clipped original; a base that is not taken off; an option measured
beside another; the constant forgotten.
"""

from __future__ import annotations

import pytest

from allot.harm.adaquant import adaquant
from allot.harm.single import only
from tests.harm import laws


@pytest.mark.parametrize("law", laws.EVERY)
def test_it_is_a_signal(law: object) -> None:
    law(adaquant)  # type: ignore[operator]


def test_progress() -> None:
    laws.progresses(lambda s, f: adaquant(s, progress=f))


@pytest.mark.parametrize("labels", (laws.LABELS, laws.MILD))
def test_every_option_alone_is_what_was_measured(labels: tuple[str, ...]) -> None:
    s = laws.scene(labels=labels)
    table = adaquant(s)
    (first,) = s.evaluator.losses([s.space.original])
    assert table.constant == first.divergence == table.of(s.space.original)
    assert (table.constant > 0) == (labels == laws.MILD)
    for i, n in enumerate(s.space.counts):
        for o in range(1, n):
            point = only(s.space.original, {i: o})
            (loss,) = s.evaluator.losses([point])
            want = max(loss.divergence, first.divergence + 1e-6)
            assert table.of(point) == pytest.approx(want, rel=1e-9)


def test_what_helps_still_costs_a_little() -> None:
    """Counted from a harsh first option, milder ones measure below it and stay above 0."""
    s = laws.scene("weight", shape=lambda space: space)
    harsh = laws.cut(s.space, ("weight",))
    turned = type(harsh)(
        graph=harsh.graph,
        choices=tuple(
            type(c)(site=c.site, options=tuple(reversed(c.options))) for c in harsh.choices
        ),
    )
    s = laws.scene("weight", shape=lambda _: turned)
    for t in adaquant(s).terms:
        assert t.values[0] == 0 and (t.values[1:] >= 1e-6).all()
        assert (t.values[1:] == 1e-6).any()
