"""Laws of coverage: a mode that is gone is not covered, outliers cover nothing.

Faults these must catch: a sample counted as its own neighbour, both arguments exchanged, the k-th
neighbour off by one, a histogram distance beyond 1.
"""

from __future__ import annotations

import pytest
import torch
from judges import cloud
from torch import Tensor

from allot.errors import DataError
from allot.judging.coverage import covered, histogram_distance, recalled, shares


def slow_radius(x: Tensor, i: int, k: int) -> float:
    others = sorted(float((x[i] - x[j]).norm()) for j in range(len(x)) if j != i)
    return others[k - 1]


def test_both_are_what_their_definitions_say_sample_by_sample() -> None:
    a, b, k = cloud(12, 2, seed=1), cloud(9, 2, seed=2, shift=0.5), 3
    in_own = [
        any(float((a[i] - y).norm()) <= slow_radius(a, i, k) for y in b) for i in range(len(a))
    ]
    in_theirs = [
        any(float((x - b[j]).norm()) <= slow_radius(b, j, k) for j in range(len(b))) for x in a
    ]
    assert covered(a, b, k=k).tolist() == [float(v) for v in in_own]
    assert recalled(a, b, k=k).tolist() == [float(v) for v in in_theirs]


def test_a_set_covers_itself() -> None:
    x = cloud(100, 4)
    assert covered(x, x).min() == 1 and recalled(x, x).min() == 1


def test_a_mode_that_is_gone_is_not_covered_and_the_rest_is() -> None:
    kept, gone = cloud(60, 3, seed=1), cloud(40, 3, seed=2) + 50
    for share in (covered, recalled):
        found = share(torch.cat([kept, gone]), kept)
        assert found.tolist() == 60 * [1.0] + 40 * [0.0]


def test_one_far_sample_enlarges_recall_but_not_coverage() -> None:
    real = cloud(200, 2, seed=1)
    few = torch.cat([real[:6], torch.tensor([[60.0, 60.0]]).double()])
    # the far one lies within its own sphere, which holds nearly everything
    assert recalled(real, few).mean() > 0.98
    assert covered(real, few).mean() < 0.7


def test_shares_are_the_predicted_class_and_their_distance_lies_between_zero_and_one() -> None:
    hot = shares(torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 0.0]]))
    assert hot.tolist() == [[0, 1, 0], [1, 0, 0]]
    a, b = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    assert histogram_distance(a, b) == 1 and histogram_distance(a, a) == 0
    moved = torch.tensor([0.3, 0.5, 0.2])
    assert float(histogram_distance(a, moved)) == pytest.approx(0.2)


def test_more_neighbours_than_others_are_refused() -> None:
    with pytest.raises(DataError, match="more than 5"):
        covered(cloud(5, 2), cloud(5, 2))
