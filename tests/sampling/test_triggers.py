"""Laws of triggers: what is compared with what, for every sample alone.

Faults these laws must catch: a total that is not reset; the change since the last step where the
one since the last computed step is meant, and the other way round; a cap off by one; a polynomial
read from the wrong end.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.sampling.moment import Moment, Request
from allot.sampling.probes import Probe, relative_change
from allot.sampling.triggers import Changed, Notes, polynomial
from tests.sampling import nets

PROBE = Probe(module="p")
GRID = nets.grid(9)


def decisions(trigger: Changed, seen: list[Tensor]) -> list[list[bool]]:
    """What a trigger says of a row of probe values, the first of which was computed."""
    notes: Notes | None = trigger.noted(seen[0], None, None)
    said = []
    for i, x in enumerate(seen[1:]):
        moment = Moment(step=i + 1, level=GRID.level(i), request=Request())
        again = trigger.decided(x, notes, moment)
        notes = trigger.noted(x, notes, again)
        said.append(again.tolist())
    return said


def steps(*values: float) -> list[Tensor]:
    return [torch.full((1, 3), v, dtype=torch.float64) for v in values]


def test_the_change_is_the_one_since_the_step_that_computed() -> None:
    t = Changed(probe=PROBE, threshold=0.25)
    #  changes since computed: .1 .21 .331(compute) then against 1.331: .1 .21 .331
    seen = steps(*(1.1**i for i in range(7)))
    assert decisions(t, seen) == [[True], [True], [False], [True], [True], [False]]


def test_changes_add_up_from_step_to_step() -> None:
    t = Changed(probe=PROBE, threshold=0.25, summed=True)
    # there and back: never far from the last computed value, but each step changes by 10 %
    seen = steps(1.0, 1.1, 1.0, 1.1, 1.0, 1.1)
    there, back = 0.1, 1 - 1 / 1.1
    assert there + back + there > 0.25 > there + back
    assert decisions(t, seen) == [[True], [True], [False], [True], [True]]
    apart = Changed(probe=PROBE, threshold=0.25)
    assert decisions(apart, seen) == [[True]] * 5


def test_a_curve_is_put_on_every_change() -> None:
    seen = steps(1.0, 1.1, 1.21, 1.331)
    square = Changed(probe=PROBE, threshold=0.025, summed=True, curve=(0.0, 0.0, 1.0))
    assert decisions(square, seen) == [[True], [True], [False]]  # .01 .02 .03


@pytest.mark.parametrize("summed", (True, False))
def test_threshold_zero_always_computes_even_what_does_not_change(summed: bool) -> None:
    t = Changed(probe=PROBE, threshold=0.0, summed=summed)
    assert decisions(t, steps(1.0, 1.0, 1.0)) == [[False], [False]]


@pytest.mark.parametrize("summed", (True, False))
def test_no_more_in_a_row_than_allowed(summed: bool) -> None:
    t = Changed(probe=PROBE, threshold=9.0, summed=summed, most=2)
    assert decisions(t, steps(*[1.0] * 8)) == [[True], [True], [False]] * 2 + [[True]]


def test_without_notes_all_is_computed() -> None:
    t = Changed(probe=PROBE, threshold=9.0)
    moment = Moment(step=1, level=GRID.level(1), request=Request())
    assert not bool(t.decided(torch.ones(4, 2), None, moment).any())


@pytest.mark.parametrize("summed", (True, False))
def test_a_sample_decides_as_it_would_alone(summed: bool) -> None:
    g = torch.Generator().manual_seed(0)
    seen = [torch.randn(6, 4, generator=g, dtype=torch.float64).cumsum(0) for _ in range(8)]
    t = Changed(probe=PROBE, threshold=1.5, summed=summed, most=3)
    whole = decisions(t, seen)
    assert any(0 < sum(d) < 6 for d in whole)
    for j in range(6):
        alone = decisions(t, [x[j : j + 1] for x in seen])
        assert [d[j] for d in whole] == [d[0] for d in alone]


def test_the_relative_change_is_by_hand() -> None:
    before = torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    now = torch.tensor([[2.0, -3.0], [1.0, 0.0]])
    found = relative_change(now, before)
    assert float(found[0]) == 0.25 and float(found[1]) > 1e30


def test_a_polynomial_has_its_constant_first() -> None:
    x = torch.tensor([0.0, 2.0])
    assert polynomial((1.0, 0.5, 3.0), x).tolist() == [1.0, 14.0]
