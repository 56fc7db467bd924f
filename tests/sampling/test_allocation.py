"""How many inputs come from which step.

Faults these laws must catch: counts that do not sum; a step asked for more than it has; weights
of the wrong sign.
"""

from __future__ import annotations

import pytest
import torch

from allot.errors import DataError, InputError
from allot.part import load
from allot.sampling.allocation import DenseAndVaried, Strided, counts


def test_strides_take_their_steps_equally() -> None:
    shares = Strided(every=3).shares(torch.zeros(7, 0))
    assert shares.tolist() == [1 / 3, 0, 0, 1 / 3, 0, 0, 1 / 3]
    assert counts(Strided().shares(torch.zeros(4, 0)), 10, most=5) == [3, 3, 2, 2]
    with pytest.raises(InputError, match="1 or more"):
        Strided(every=0)


@pytest.mark.parametrize("total", (0, 1, 9, 20))
def test_counts_sum_and_none_is_above_what_there_is(total: int) -> None:
    shares = torch.tensor([0.7, 0.2, 0.1, 0.0], dtype=torch.float64)
    found = counts(shares, total, most=5)
    assert sum(found) == total and max(found) <= 5
    assert found == sorted(found, reverse=True)
    with pytest.raises(DataError, match="draw more noises"):
        counts(shares, 21, most=5)


def test_steps_that_many_resemble_and_those_unlike_the_rest_are_preferred() -> None:
    # four alike, two that stand alone, of which one points elsewhere
    f = torch.tensor([[1.0, 0], [1.01, 0], [0.99, 0], [1, 0.01], [3, 0], [0, 3.0]])
    rule = DenseAndVaried(module="", radius=0.01)
    shares = rule.shares(f)
    assert float(shares.sum()) == pytest.approx(1)
    assert float(shares[5]) > float(shares[0]) > float(shares[4])
    assert float(DenseAndVaried(module="", weight=0.0).shares(f)[5]) == 0
    same = DenseAndVaried(module="").shares(torch.ones(3, 2))
    assert same.tolist() == pytest.approx([1 / 3] * 3)


def test_rules_are_parts() -> None:
    for rule in (Strided(every=2), DenseAndVaried(module="mid", weight=5.0)):
        assert load(rule.dump()) == rule
