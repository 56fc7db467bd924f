"""Laws of tails: bounds hold as often as they say, shares add up and go to what caused them.

All times are made up; nothing is timed here.

Faults that must be caught: a rank off by one, a bound for too few calls, interactions counted for
one of their factors, a combination left out, work beside the network that is never halted.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allot.errors import InputError
from allot.repetition import BUSY, IDLE, busy, repeated
from allot.tail import calls_needed, quantile, spread

FACTORS = {"a": ["x", "y", "z"], "b": ["0", "1"]}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_too_few_calls_give_no_bound() -> None:
    """0.99^298 > 0.05 > 0.99^299: the largest of 299 calls is the first bound."""
    assert 299 == calls_needed(0.99)
    some = rng().random(299)
    assert some.max() == quantile(some.tolist(), 0.99).upper_s
    assert math.inf == quantile(some[:298].tolist(), 0.99).upper_s
    assert 5 == calls_needed(0.5)


def test_the_bound_holds_in_as_many_worlds_as_it_says() -> None:
    """2000 worlds of 400 calls with a long tail, whose true 99th percentile is known."""
    true = math.exp(2.3263478740408408)
    worlds = np.exp(rng().standard_normal((2000, 400)))
    held = np.mean([quantile(w.tolist(), 0.99).upper_s >= true for w in worlds])
    assert held >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 2000)
    assert held < 1  # and it is no idle bound


def test_a_quantile_is_one_of_the_calls_and_bounds_are_ordered() -> None:
    samples = rng(1).random(500)
    for p in (0.5, 0.9, 0.99):
        found = [quantile(samples.tolist(), p, confidence=c) for c in (0.5, 0.9, 0.99)]
        assert all(f.value_s in samples and f.upper_s >= f.value_s for f in found)
        assert found[0].upper_s <= found[1].upper_s <= found[2].upper_s
        assert np.mean(samples <= found[0].value_s) >= p > np.mean(samples < found[0].value_s)


def test_a_rising_change_of_units_carries_over() -> None:
    samples = rng(2).random(400)
    a, b = (quantile(x.tolist(), 0.95) for x in (samples, np.exp(3 * samples)))
    assert math.exp(3 * a.upper_s) == pytest.approx(b.upper_s, rel=1e-12)


def test_no_calls_no_quantile() -> None:
    with pytest.raises(InputError, match="needs calls"):
        quantile([], 0.5)


def test_shares_add_up_whatever_the_times() -> None:
    times = np.exp(rng().standard_normal((3, 2, 7)))
    found = spread(times, FACTORS)
    assert 1 == pytest.approx(sum(s.share for s in found.sources), rel=1e-12)
    assert 1 == pytest.approx(sum(s.chance for s in found.sources), rel=1e-12)
    assert times.var() == pytest.approx(found.variance, rel=1e-12)
    assert ["a", "b", "together", "call to call"] == [s.name for s in found.sources]


@pytest.mark.parametrize("cause", ["a", "b", "together", "call to call"])
def test_the_whole_share_goes_to_the_only_cause(cause: str) -> None:
    a, b = np.array([1.0, 2.0, 4.0])[:, None, None], np.array([3.0, 7.0])[None, :, None]
    call = np.array([-1.0, 2.0, 0.5, -1.5])[None, None]
    both = (a - a.mean()) * (b - b.mean())
    chosen = {"a": a, "b": b, "together": both, "call to call": call}[cause]
    times = 100 + np.broadcast_to(chosen, (3, 2, 4))
    found = spread(times, FACTORS)
    assert 1 == pytest.approx(found.of(cause).share, abs=1e-9)
    assert all(s.share < 1e-9 for s in found.sources if s.name != cause)


def test_shares_are_what_least_squares_explains() -> None:
    """A main effect of a balanced design is what a regression on indicators explains."""
    times = rng(3).random((3, 2, 5))
    found = spread(times, FACTORS)
    centred = (times - times.mean()).ravel()
    for dim, name in enumerate(FACTORS):
        column = np.broadcast_to(
            np.arange(times.shape[dim]).reshape([-1 if d == dim else 1 for d in range(3)]),
            times.shape,
        ).ravel()
        design = np.eye(times.shape[dim])[column]
        fitted = design @ np.linalg.lstsq(design, centred, rcond=None)[0]
        explained = float(fitted @ fitted) / float(centred @ centred)
        assert explained == pytest.approx(found.of(name).share, rel=1e-9)


def test_without_any_effect_shares_are_those_of_chance() -> None:
    draws = [spread(rng(s).standard_normal((3, 2, 6)), FACTORS) for s in range(400)]
    for name in ("a", "b", "together", "call to call"):
        shares = [d.of(name).share for d in draws]
        error = np.std(shares) / math.sqrt(len(shares))
        assert abs(np.mean(shares) - draws[0].of(name).chance) < 4 * error, name


def test_units_and_order_of_levels_do_not_matter() -> None:
    times = rng(4).random((3, 2, 5))
    shares = [s.share for s in spread(times, FACTORS).sources]
    changed = 5 + 1000 * times[::-1]
    np.testing.assert_allclose(shares, [s.share for s in spread(changed, FACTORS).sources])


@pytest.mark.parametrize("shape", [(3, 2), (2, 3, 4), (3, 2, 1)])
def test_a_design_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="two or more"):
        spread(np.zeros(shape), FACTORS)


class World:
    """A made-up machine: its clock goes on by what a call costs, and by nothing else."""

    def __init__(self, **costs: Any) -> None:
        self.now, self.busy, self.calls, self.costs = 0.0, False, [], costs
        self.loaded = 0

    def load(self, threads: int) -> World.Network:
        self.loaded += 1
        return World.Network(self, threads, self.loaded)

    class Network:
        def __init__(self, world: World, threads: int, number: int) -> None:
            self.world, self.threads, self.number = world, threads, number

        def run(self, inputs: Any) -> dict[str, Any]:
            w, x = self.world, float(inputs["x"][0])
            w.calls.append((x, self.threads, w.busy, self.number))
            w.now += 1 + w.costs.get("data", 0) * x + w.costs.get("threads", 0) / self.threads
            w.now += w.costs.get("load", 0) * w.busy + w.costs.get("loading", 0) * self.number
            return {}

    def resume(self) -> None:
        assert not self.busy
        self.busy = True

    def pause(self) -> None:
        self.busy = False


INPUTS = [{"x": np.array([float(i)])} for i in range(3)]


def seen(world: World, **changes: Any) -> Any:
    given = {"threads": (1, 2), "background": world, "loadings": 2, "calls": 12} | changes
    return repeated(world.load, INPUTS, clock=lambda: world.now, **given)


@pytest.mark.parametrize(
    ("cost", "source"),
    [("data", "inputs"), ("threads", "threads"), ("load", "background load")],
)
def test_what_costs_time_gets_the_share(cost: str, source: str) -> None:
    found = seen(World(**{cost: 3.0})).spread
    assert 1 == pytest.approx(found.of(source).share, abs=1e-9)


def test_loadings_that_differ_get_the_share_on_one_thread_count() -> None:
    found = seen(World(loading=2.0), threads=(1,)).spread
    assert 1 == pytest.approx(found.of("loading").share, abs=1e-9)


def test_every_combination_is_called_equally_often() -> None:
    world = World()
    seen(world)
    calls = world.calls[4:]  # one to warm each network up
    assert {calls.count(c) for c in set(calls)} == {2}
    assert 3 * 2 * 2 * 2 == len(set(calls))
    assert not world.busy


def test_calls_come_in_another_order_each_round_and_by_seed() -> None:
    worlds = [World() for _ in range(3)]
    for w, seed in zip(worlds, (0, 0, 1), strict=True):
        seen(w, seed=seed)
    assert worlds[0].calls == worlds[1].calls != worlds[2].calls
    # four stretches follow the four calls of warming up: idle, busy, idle, busy
    rest = worlds[0].calls[4:]
    stretches = [rest[i : i + 12] for i in range(0, 48, 12)]
    assert [False, True, False, True] == [s[0][2] for s in stretches]
    assert stretches[0] != stretches[2]


def test_quantiles_of_each_condition() -> None:
    found = seen(World(load=5.0, threads=4.0))
    medians = {(c.threads, c.load): c.p50.value_s for c in found.conditions}
    assert {(1, IDLE): 5.0, (2, IDLE): 3.0, (1, BUSY): 10.0, (2, BUSY): 8.0} == medians


def test_as_many_calls_as_bound_the_tail() -> None:
    world = World()
    found = repeated(world.load, INPUTS, threads=(1,), clock=lambda: world.now)
    (only,) = found.conditions
    assert only.p99.n >= 299 and math.isfinite(only.p99.upper_s)
    assert math.isinf(seen(World()).conditions[0].p99.upper_s)


def test_the_result_is_plain_json() -> None:
    data = json.loads(json.dumps(seen(World(data=1.0)).dump(), allow_nan=False))
    assert data["conditions"][0]["p99"]["upper_s"] is None
    assert 1 == pytest.approx(sum(s["share"] for s in data["spread"]["sources"]))


def test_the_background_is_halted_after_a_failure() -> None:
    world = World()
    kept = World.Network.run

    def fails(self: World.Network, inputs: Any) -> dict[str, Any]:
        if self.world.busy:
            raise ZeroDivisionError
        return kept(self, inputs)

    class Failing(World.Network):
        run = fails

    with pytest.raises(ZeroDivisionError):
        repeated(
            lambda n: Failing(world, n, 0), INPUTS, threads=(1,), background=world, calls=6,
            clock=lambda: world.now,
        )  # fmt: skip
    assert not world.busy


def test_nothing_to_repeat_is_refused() -> None:
    with pytest.raises(InputError, match="one or more of each"):
        repeated(World().load, [], threads=(1,))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_busy_processes_are_halted_run_and_gone() -> None:
    def states() -> list[str]:
        return [Path(f"/proc/{i}/stat").read_text().rpartition(")")[2].split()[0] for i in ids]

    with busy(1) as found:
        ids = [p.pid for p in found._processes]
        found.resume()
        assert "T" not in states()
        found.pause()
    assert all(p.poll() is not None for p in found._processes)
    assert not any(Path(f"/proc/{i}").exists() for i in ids)
