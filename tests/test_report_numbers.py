"""Numbers are written as people read them, and drawn where they belong."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from allot.report import text
from allot.report.heat import STEPS, heat
from allot.report.svg import axis, linear_ticks, trim


@given(low=st.floats(-1e9, 1e9), width=st.floats(1e-6, 1e9), most=st.integers(2, 9))
@example(low=1.0, width=41.0, most=2)
@settings(max_examples=1000, deadline=None)
def test_linear_ticks_are_round_evenly_spaced_and_few(low: float, width: float, most: int) -> None:
    high = low + max(width, 1e-3 * abs(low))
    ticks = linear_ticks(low, high, most)
    room = 1e-6 * (high - low)
    assert 1 <= len(ticks) <= most + 1
    assert all(low - room <= t <= high + room for t in ticks)
    steps = [b - a for a, b in pairwise(ticks)]
    if steps:
        lead = float(f"{steps[0]:.3e}".split("e")[0])
        assert min(abs(lead - m) for m in (1, 2, 5, 10)) < 1e-2
        assert max(steps) - min(steps) <= room


@given(st.lists(st.floats(1e-8, 1e3), min_size=1, max_size=9), st.booleans())
@settings(max_examples=100, deadline=None)
def test_an_axis_keeps_order_and_stays_between_its_ends(values: list[float], log: bool) -> None:
    x = axis(values, start=50, end=650, log=log)
    places = [x.at(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(50 <= p <= 650 for p in places)
    assert all(50 <= x.at(t) <= 650 for t in x.ticks(6))


def test_equal_ratios_are_equal_steps_on_a_log_axis() -> None:
    x = axis([0.001, 1.0], start=0, end=100, log=True)
    steps = [x.at(10 * v) - x.at(v) for v in (0.001, 0.01, 0.1)]
    assert pytest.approx(steps[0]) == steps[1] == pytest.approx(steps[2])


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.size(129397), "129.4 KB"),
        (text.size(999960), "1.00 MB"),
        (text.size(512), "512 B"),
        (text.seconds(0.00612), "6.12 ms"),
        (text.seconds(8.4e-5), "84.0 µs"),
        (text.seconds(245), "4 min 5 s"),
        (text.count(41.8e9), "41.8 G"),
        (text.count(4000), "4000"),
        (text.percent(0.8806, 2), "88.06 %"),
        (text.signed(-0.342), "−0.34"),
        (text.signed(-0.001), "0.00"),
        (text.nats(0.01234), "0.0123"),
        (text.nats(3.14e-5), "3.1 × 10⁻⁵"),
        (text.size(None), "–"),
        (text.percent(math.nan), "–"),
        (trim("50.0 KB"), "50 KB"),
        (trim("2.50 G"), "2.5 G"),
        (trim("200 KB"), "200 KB"),
        (trim("0.002000"), "0.002"),
    ],
)
def test_numbers_are_written_as_people_read_them(shown: str, expected: str) -> None:
    assert expected == shown


def test_options_are_ordered_from_gentle_to_harsh() -> None:
    assert ["W8", "W4", "W2"] == sorted(["W2", "W8", "W4"], key=text.order)
    assert ["keep1", "keep0.75", "keep0.5"] == sorted(
        ["keep0.5", "keep1", "keep0.75"], key=text.order
    )
    assert "W4 ×2 · W2 ×1" == text.tally(["W2", "W4", "W4"])


def test_heat_rises_with_the_logarithm_and_ends_at_the_ends_of_the_scale() -> None:
    assert (0, 0, STEPS, STEPS) == tuple(heat(v, 1e-4, 1.0) for v in (0.0, 1e-4, 1.0, math.inf))
    steps = [heat(10**-e, 1e-4, 1.0) for e in (3, 2, 1)]
    assert sorted(steps) == steps and len(set(steps)) == 3
