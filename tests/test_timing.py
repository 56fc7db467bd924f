"""Laws of timing, on a clock of our own: turns are fair, ratios are those of what was run."""

from __future__ import annotations

import numpy as np
import pytest

from allot.target import Arrays
from allot.timing import Timing, compare, ratio


class Clock:
    """Time that passes only while a toy session runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now


class Toy:
    def __init__(self, clock: Clock, name: str, seconds: float, slowing: float = 0.0) -> None:
        self.clock, self.name, self.seconds, self.slowing = clock, name, seconds, slowing

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        self.clock.log.append(self.name)
        self.clock.now += self.seconds * (1 + self.slowing * self.clock.now)
        return {}


def test_times_are_those_of_the_sessions() -> None:
    clock = Clock()
    found = compare({n: Toy(clock, n, s) for n, s in (("a", 1.0), ("b", 4.0))}, {}, clock=clock)
    assert 1.0 == pytest.approx(found["a"].median_s)
    assert 0.25 == pytest.approx(ratio(found["a"], found["b"]).value)


def test_every_round_runs_each_once_and_each_goes_first() -> None:
    clock = Clock()
    compare({n: Toy(clock, n, 1.0) for n in "abc"}, {}, clock=clock, rounds=6, warmup=2)
    turns = clock.log[6:]
    rounds = [turns[i : i + 3] for i in range(0, len(turns), 3)]
    assert 6 == len(rounds)
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert {"a", "b", "c"} == {r[0] for r in rounds}


def test_a_machine_that_slows_down_does_not_tilt_the_ratio() -> None:
    clock = Clock()
    toys = {n: Toy(clock, n, s, slowing=0.003) for n, s in (("a", 1.0), ("b", 2.0))}
    found = ratio(*compare(toys, {}, clock=clock, rounds=40).values())
    assert 0.5 == pytest.approx(found.value, rel=0.05)


def test_the_interval_holds_the_ratio_and_tightens_with_rounds() -> None:
    rng = np.random.default_rng(0)

    def noisy(n: int, seconds: float) -> Timing:
        return Timing(samples=tuple(seconds * rng.lognormal(0, 0.2, n)), clock="cpu")

    few, many = (ratio(noisy(n, 1.0), noisy(n, 2.0)) for n in (10, 1000))
    assert few.low < 0.5 < few.high
    assert many.low < 0.5 < many.high
    assert many.high - many.low < 0.4 * (few.high - few.low)


def test_one_thread_is_timed_by_cpu_and_more_by_the_wall() -> None:
    for threads, kind in ((1, "cpu"), (2, "wall")):
        toys = {"a": Toy(Clock(), "a", 1.0)}
        assert kind == compare(toys, {}, rounds=1, threads=threads)["a"].clock
