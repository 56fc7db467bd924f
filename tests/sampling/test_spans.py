"""Laws of predictors: polynomials in log-SNR are foretold exactly, and nothing else is promised.

Faults these laws must catch: extrapolation in the number of the step; one result too few or too
many read; a division by an infinite log-SNR.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from allot import part
from allot.part import Part
from allot.sampling.moment import Level, Moment, Request
from allot.sampling.spans import HOLD, NOTHING, Kept, Predictor, Span, Taylor
from tests.sampling import nets

GRID = nets.grid(9)


def moment(step: int) -> Moment:
    return Moment(step=step, level=GRID.level(step), request=Request())


def kept(step: int, value: Tensor) -> Kept:
    return Kept(step=step, log_snr=GRID.level(step).log_snr, value=value)


def polynomial(degree: int, seed: int = 0):  # type: ignore[no-untyped-def]
    g = torch.Generator().manual_seed(seed)
    c = torch.randn(degree + 1, 3, 2, generator=g, dtype=torch.float64)
    return lambda step: sum(c[k] * GRID.level(step).log_snr ** k for k in range(degree + 1))


@pytest.mark.parametrize("order", (0, 1, 2, 3))
@pytest.mark.parametrize("steps", ((0, 1, 2, 3), (0, 2, 3, 5), (1, 2, 5, 6)))
def test_taylor_of_order_k_is_exact_on_polynomials_of_degree_k(
    order: int, steps: tuple[int, ...]
) -> None:
    true = polynomial(order)
    past = [kept(i, true(i)) for i in steps]
    for at in (6, 7, 8):
        found = Taylor(order=order).predict(past, moment(at))
        torch.testing.assert_close(found, true(at), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("order", (1, 2))
def test_taylor_of_order_k_is_not_exact_on_degree_k_plus_one(order: int) -> None:
    true = polynomial(order + 1)
    past = [kept(i, true(i)) for i in range(4)]
    assert not torch.allclose(Taylor(order=order).predict(past, moment(6)), true(6), atol=1e-3)


def test_taylor_of_order_zero_is_hold() -> None:
    past = [kept(i, polynomial(3)(i)) for i in (0, 1, 4)]
    assert torch.equal(Taylor(order=0).predict(past, moment(5)), HOLD.predict(past, moment(5)))
    assert Taylor(order=0).needs == HOLD.needs == 1


def test_taylor_reads_as_many_results_as_there_are() -> None:
    true = polynomial(1)
    past = [kept(i, true(i)) for i in (2, 3)]
    found = Taylor(order=5).predict(past, moment(6))
    torch.testing.assert_close(found, true(6), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("end", (math.inf, -math.inf))
def test_at_an_infinite_log_snr_the_latest_result_is_held(end: float) -> None:
    level = Level(time=0, signal=float(end > 0), noise=float(end < 0))
    assert level.log_snr == end
    past = [kept(i, polynomial(2)(i)) for i in (0, 1, 4)]
    at = Moment(step=9, level=level, request=Request())
    assert torch.equal(Taylor(order=2).predict(past, at), past[-1].value)
    early = [Kept(step=0, log_snr=end, value=past[0].value), past[1]]
    assert torch.equal(Taylor(order=1).predict(early, moment(5)), past[1].value)


def test_nothing_is_zero_and_reads_nothing() -> None:
    assert NOTHING.needs == 0 and float(NOTHING.predict((), moment(3))) == 0


@pytest.mark.parametrize("p", (HOLD, Taylor(order=2), NOTHING), ids=repr)
def test_predictors_have_names_and_are_parts(p: Predictor) -> None:
    assert isinstance(p, Part) and p.label
    assert len({HOLD.label, Taylor(order=2).label, NOTHING.label}) == 3


def test_a_span_is_compared_by_value() -> None:
    assert Span(name="a", modules=("b",)) == Span(name="a", modules=("b",))
    assert len({Span(name="a", modules=("b",)), Span(name="a", modules=("b", "c"))}) == 2


@pytest.mark.skipif("allot.sampling." not in part.TRUSTED, reason="spans are not named in files")
@pytest.mark.parametrize("p", (HOLD, Taylor(order=2), Span(name="a", modules=("b",))), ids=repr)
def test_a_span_survives_a_file(p: Part) -> None:
    assert part.load(p.dump()) == p
