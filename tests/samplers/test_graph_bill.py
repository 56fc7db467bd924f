"""Laws of a sampler's sites and bills: one site a step, and BitOPs summed over steps."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch

from allot.options.by_step import ByStep
from allot.options.precision import Weight
from allot.options.steps import Compute, Drop, Reuse, StepOption
from allot.runtimes.ideal import Ideal
from allot.samplers import bill
from allot.samplers import space as spaces
from allot.samplers.graph import graph_of
from allot.site import Graph
from allot.space import Point, Space
from tests import tiny_sampler as tiny

STEPS = 4


@cache
def graph() -> Graph:
    noise = torch.randn(2, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    return graph_of(tiny.sampler(STEPS), {"noise": noise, "label": torch.tensor([0, 1])})


@cache
def space() -> Space:
    return spaces.whole(graph(), Ideal(), sets={"deep": (tiny.DEEP,)})


def points(count: int) -> list[Point]:
    generator = torch.Generator().manual_seed(1)
    return [
        tuple(int(torch.randint(n, (1,), generator=generator)) for n in space().counts)
        for _ in range(count)
    ]


def by_hand(point: Point) -> float:
    """BitOPs from the plan's own words."""
    options, total = space().options(point), 0.0
    for layer in graph().layers:
        weight, tensor = options[f"{layer.module}.weight"], options[layer.input]
        assert isinstance(weight, Weight) and isinstance(tensor, ByStep)
        for i in range(STEPS):
            step = options[f"steps.{i}"]
            assert isinstance(step, StepOption)
            inside = any(layer.module.startswith(f"denoiser.{m}.") for m in tiny.DEEP.modules)
            if isinstance(step, Drop) or (isinstance(step, Reuse) and inside):
                continue
            quantized = step.bits is not None and not tensor.is_original
            total += layer.macs * weight.bits * (step.bits if quantized else 32)  # type: ignore[operator]
    return total


def test_every_step_is_a_site_and_the_weights_are_there_once() -> None:
    kinds = [s.kind for s in graph().sites]
    assert kinds.count("step") == STEPS
    assert kinds.count("weight") == len(graph().layers) == 9


def test_bitops_are_those_of_the_plans_own_words() -> None:
    costs = bill.Costs(space=space(), target=Ideal())
    table = costs.table()
    for p in (space().original, *points(40)):
        assert costs.of(p) == pytest.approx(by_hand(p), rel=1e-12)
        assert table.of(p) == pytest.approx(by_hand(p), rel=1e-12)


def test_the_original_costs_its_macs_in_float_at_every_step() -> None:
    costs = bill.Costs(space=space(), target=Ideal())
    assert costs.of(space().original) == bill.originals(graph(), STEPS)["bitops"]


def test_eight_bits_everywhere_cost_a_sixteenth() -> None:
    costs = bill.Costs(space=space(), target=Ideal())
    whole = costs.of(space().original)
    assert bill.eight_bit(space(), costs) == pytest.approx(whole / 16)


def test_nothing_costs_less_than_the_least() -> None:
    costs = bill.Costs(space=space(), target=Ideal())
    least = costs.least()
    assert all(least <= costs.of(p) for p in points(100))
    # brute force over the steps with all else at its fewest bits
    at = [i for i, c in enumerate(space().choices) if isinstance(c.options[0], StepOption)]
    rest = [2 if isinstance(c.options[0], Weight) else 1 for c in space().choices]
    found = []
    for ways in itertools.product(*(range(space().counts[i]) for i in at)):
        point = list(rest)
        for i, k in zip(at, ways, strict=True):
            point[i] = k
        found.append(costs.of(point))
    assert least == min(found)


def test_the_first_step_is_always_taken() -> None:
    options = space().choices[space().position("steps.0")].options
    assert all(isinstance(o, Compute) for o in options)


def test_weights_are_stored_once_whatever_the_steps_do() -> None:
    size = bill.size(space())
    a = space().original
    at = space().position("steps.2")
    b = tuple(len(space().choices[at].options) - 1 if i == at else v for i, v in enumerate(a))
    assert size.of(a) == size.of(b)
    assert bill.least_size(space()) < size.of(a)
