"""Laws of histories: every sample has its own past, and no more is kept than someone reads.

Faults these laws must catch: rows in the wrong place; a result forgotten that one sample still
needs, or kept that none does; samples of different pasts read together.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.sampling.history import History, kept_bytes, past, scattered
from allot.sampling.moment import Moment, Request
from allot.sampling.sampler import Way
from allot.sampling.spans import HOLD, Taylor
from tests.sampling import nets

GRID = nets.grid(9)
N = 5


def moment(step: int) -> Moment:
    return Moment(step=step, level=GRID.level(step), request=Request())


def history(table: Tensor, most: int) -> History:
    """Of [steps, n] which samples were computed when; the value is the step's number."""
    h = History()
    for step, has in enumerate(table):
        rows = has.nonzero()[:, 0]
        if len(rows):
            value = torch.full((len(rows), 2), float(step))
            h.add(moment(step), [value], None if len(rows) == N else rows, N)
            h.forget(most)
    return h


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("most", (1, 2, 3))
def test_every_sample_reads_its_own_latest_results(seed: int, most: int) -> None:
    g = torch.Generator().manual_seed(seed)
    table = torch.rand(7, N, generator=g) < 0.5
    table[0] = True
    h = history(table, most)
    assert h.complete
    read: dict[int, list[int]] = {}
    for rows, entries in h.alike(None):
        for kept in past(entries[-most:], rows, 0):
            assert bool((kept.value == kept.step).all())
        for j in range(N) if rows is None else rows.tolist():
            read[j] = [e.step for e in entries][-most:]
    for j in range(N):
        assert read[j] == table[:, j].nonzero()[:, 0].tolist()[-most:]


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_kept_that_no_sample_reads(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    table = torch.rand(7, N, generator=g) < 0.4
    table[0] = True
    for e in history(table, 1).entries:
        later = table[e.step + 1 :].any(0)
        assert bool((e.has & ~later).any())


def test_some_rows_alone_are_read_in_their_order() -> None:
    table = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0]]).bool()
    h = history(table, 1)
    found = {}
    for rows, entries in h.alike(torch.tensor([3, 0])):
        assert rows is not None
        found |= {j: entries[-1].step for j in rows.tolist()}
    assert found == {3: 1, 0: 0}


def test_a_history_is_complete_once_every_sample_was_computed() -> None:
    h = History()
    assert not h.complete
    h.add(moment(0), [torch.ones(2, 1)], torch.tensor([0, 3]), N)
    assert not h.complete
    h.add(moment(1), [torch.ones(3, 1)], torch.tensor([1, 2, 4]), N)
    assert h.complete


def test_rows_go_where_they_belong() -> None:
    x = torch.tensor([[1.0], [2.0]])
    assert scattered(x, torch.tensor([3, 0]), 4).flatten().tolist() == [2.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("predictor", (HOLD, Taylor(order=2)))
def test_bytes_are_those_of_as_many_results_as_are_read(predictor) -> None:  # type: ignore[no-untyped-def]
    original = nets.blocks(steps=8)
    s = nets.seeds(3, original)
    way = Way(reuse={nets.BLOCKS: predictor})
    request = Request()
    plan = nets.planned(original, dict.fromkeys((4, 7), way))
    with torch.no_grad():
        plan.run(s.noise, s.conditions, request)
    assert kept_bytes(request) == predictor.needs * 3 * 6 * 8 * 8  # samples, tokens, channels
