"""Laws of the latency model; nothing here is timed, the numbers are made up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from allot.conversions import leaving, vain
from allot.errors import InputError
from allot.latency_fit import Fit, fit
from allot.latency_model import floats, kind, layer_sums, probes, table
from allot.options.depth import Skip
from allot.runtimes import OpenVino
from allot.site import Site
from allot.space import Choice, Space
from tests.deployables import graph
from tests.test_latency import made_up, needed, space

TARGET = OpenVino()


def test_a_fit_finds_the_truth() -> None:
    rng = np.random.default_rng(0)
    sums = rng.uniform(1e-3, 2e-2, 12)
    vainly, left = rng.integers(0, 10**6, (2, 12))
    truth = Fit(a=5e-4, b=0.8, vain=2e-10, leaving=5e-10, error=0.0, n=12)
    seconds = truth.a + truth.b * sums + truth.vain * vainly + truth.leaving * left
    found = fit(list(zip(sums, vainly, left, seconds, strict=True)))
    np.testing.assert_allclose(
        [5e-4, 0.8, 2e-10, 5e-10], [found.a, found.b, found.vain, found.leaving], rtol=1e-6
    )
    assert found.error < 1e-6


def test_no_part_of_a_fit_is_negative() -> None:
    found = fit([(1.0, 0.0, 2.0, 1.0), (2.0, 5.0, 1.0, 1.5), (3.0, 9.0, 0.0, 1.0), (4, 1, 1, 1)])
    assert min(found.a, found.b, found.vain, found.leaving) >= 0
    assert found.error > 0


def test_the_error_of_a_fit_is_on_what_it_has_not_seen() -> None:
    """A sample that only its own column explains is fitted, but not foretold."""
    alike = [(1.0, 0.0, 0.0, 1.0), (2.0, 0.0, 0.0, 2.0), (3.0, 0.0, 0.0, 3.0)]
    found = fit([*alike, (2.0, 1.0, 0.0, 4.0)])
    assert 2.0 * found.b + found.vain + found.a == pytest.approx(4.0)
    assert found.error == pytest.approx(0.5 / 4)


def test_too_few_or_impossible_times_are_refused() -> None:
    for few in ([(1.0, 0.0, 0.0, 1.0)] * 3, [(1.0, 0.0, 0.0, 0.0)] * 4):
        with pytest.raises(InputError, match="four or more positive"):
            fit(few)


def test_the_table_is_the_model_of_its_sums() -> None:
    s = space()
    lat = made_up(needed(s, TARGET))
    model = Fit(a=1e-3, b=0.7, vain=1e-9, leaving=2e-9, error=0.0, n=6)
    found = table(s, TARGET, lat, model)
    parts = (
        (model.b, layer_sums(s, TARGET, lat)),
        (model.vain, vain(s, TARGET, batch=lat.batch)),
        (model.leaving, leaving(s, TARGET, batch=lat.batch)),
    )
    for point in probes(s, count=9, generator=torch.Generator().manual_seed(0)):
        assert found.of(point) == pytest.approx(model.a + sum(k * t.of(point) for k, t in parts))


def test_probes_hold_the_original_and_all_in_widest_integers() -> None:
    s = space()
    found = probes(s, count=6, generator=torch.Generator().manual_seed(0))
    assert 6 == len(found)
    assert (s.original, (1,) * 6) == found[:2]
    assert found == probes(s, count=6, generator=torch.Generator().manual_seed(0))


def test_mixtures_take_integers_from_nowhere_to_everywhere_in_few_structures() -> None:
    s = space() + droppable()
    found = probes(s, count=42, generator=torch.Generator().manual_seed(0))[2:]
    assert 4 >= len({p[6:] for p in found})
    assert s.original[6:] in {p[6:] for p in found}
    taken = [sum(x > 0 for x in p[:6]) for p in found]
    assert sum(taken[:10]) < sum(taken[10:30]) / 2 < sum(taken[30:])


def droppable() -> Space:
    """Two blocks that may be dropped, at sites of no layer."""
    sites = tuple(
        Site(name=f"{m}.block", kind="block", shape=(8,), reach=(), touches=()) for m in "xy"
    )
    g = replace(graph(), sites=(*graph().sites, *sites))
    options = (Skip(drop=False), Skip(drop=True))
    return Space(graph=g, choices=tuple(Choice(site=x.name, options=options) for x in sites))


def timed(extras: dict[str, float], n: int = 24) -> tuple[list[tuple[float, ...]], dict]:
    """Made-up plans of two kinds of layers whose floats cost what the extras say."""
    rng = np.random.default_rng(0)
    kinds = {k: rng.uniform(0, 4e-3, n) for k in ("a", "b")}
    integers, vainly, left = rng.uniform(1e-3, 2e-3, n), *rng.integers(0, 10**6, (2, n))
    sums = integers + sum(kinds.values())
    seconds = 5e-4 + 0.8 * sums + 2e-10 * vainly + 5e-10 * left
    seconds += sum(extras.get(k, 0.0) * v for k, v in kinds.items())
    return list(zip(sums, vainly, left, seconds, strict=True)), kinds


def test_floats_that_cost_more_inside_a_network_than_alone_are_found_by_kind() -> None:
    samples, kinds = timed({"a": 0.4, "b": -0.2})
    plain, found = fit(samples), fit(samples, kinds)  # type: ignore[arg-type]
    assert found.error < plain.error / 3
    assert found.extras["a"] - found.extras["b"] == pytest.approx(0.6, rel=0.1)


def test_there_are_no_extras_where_none_are_needed() -> None:
    samples, kinds = timed({})
    assert not fit(samples, kinds).extras  # type: ignore[arg-type]


def test_extras_enter_the_table_for_floats_of_their_kind_alone() -> None:
    s = space()
    lat = made_up(needed(s, TARGET))
    first = s.graph.layers[0]
    plain = Fit(a=0.0, b=1.0, vain=0.0, leaving=0.0, error=0.0, n=6)
    more = replace(plain, extras={kind(first): 0.5})
    points = probes(s, count=9, generator=torch.Generator().manual_seed(0))
    at = floats(s, TARGET, lat, points)[kind(first)]
    for point, seconds in zip(points, at, strict=True):
        difference = table(s, TARGET, lat, more).of(point) - table(s, TARGET, lat, plain).of(point)
        assert difference == pytest.approx(0.5 * seconds)
    assert at[0] > 0 == at[1]
