"""Laws of timing, on a clock of our own: turns are fair, ratios are those of what was run."""

from __future__ import annotations

import numpy as np
import pytest

from allot.target import Arrays
from allot.timing import Timing, compare, paired, ratio


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


def test_a_session_that_times_itself_is_asked() -> None:
    class Device:
        def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
            return {}

        def call_seconds(self, inputs: Arrays) -> float:
            return 0.25

    found = compare({"own": Device()}, {}, rounds=3, clock=lambda: 1.0)["own"]
    assert (0.25, 0.25, 0.25) == found.samples and "device" == found.clock


class Warming(Toy):
    """Slow at the first call after another session ran, as with cold caches."""

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        cold = not self.clock.log or self.clock.log[-1] != self.name
        self.clock.now += 5.0 * cold
        return Toy.run(self, inputs)


def test_calls_that_settle_a_session_are_not_timed() -> None:
    for settle, seconds in ((0, 6.0), (1, 1.0), (3, 1.0)):
        clock = Clock()
        toys = {n: Warming(clock, n, 1.0) for n in "ab"}
        found = compare(toys, {}, clock=clock, rounds=4, settle=settle)
        # the first turn of all follows the warm-up of the other session
        assert seconds == pytest.approx(found["a"].median_s)
        assert clock.log.count("a") == 3 + 4 * (1 + settle)


def test_what_slows_a_round_cancels_in_paired_ratios() -> None:
    rng = np.random.default_rng(0)
    weather, own = rng.lognormal(0, 1.0, 60), rng.lognormal(0, 0.01, 60)
    a = Timing(samples=tuple(weather), clock="cpu")
    b = Timing(samples=tuple(2 * weather * own), clock="cpu")
    found = paired(b, a)
    assert found.low <= found.value <= found.high
    assert 1.98 < found.low and found.high < 2.02
    back = paired(a, b)
    assert back.value == pytest.approx(1 / found.value, rel=1e-3)
    assert paired(a, a).value == paired(a, a).low == paired(a, a).high == 1.0
