"""Oracles of the recipes that choose by one table and an exact solver: brute force.

Faults these must catch: a front that lacks a plan; a budget that is not kept; a solver that is
given another table than the signal's; real data that leak into a method that needs none; relevance
that is lost between layers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from allot.harm.lrp import relevances
from allot.recipes import Recipe
from allot.recipes.curvature import HAWQ
from allot.recipes.data_free import ZEROQ
from allot.recipes.reconstruction import ADAQUANT
from allot.recipes.relevance import LRP_QVIT
from allot.space import Space
from allot.table import Table
from allot.task import Data
from tests import small, toys
from tests.recipes import cooking
from tests.recipes.cooking import scene

OPEN = (ADAQUANT, ZEROQ, HAWQ, LRP_QVIT)


def pareto(table: Table, size: Table, space: Space) -> list[tuple[float, float]]:
    """(bytes, harm) of the plans that no other beats, by dynamic program over the choices."""
    front = [(size.constant, table.constant)]
    for i, n in enumerate(space.counts):
        harm, bytes_ = table.single(i, n), size.single(i, n)
        sums = sorted((b + bytes_[o], h + harm[o]) for b, h in front for o in range(n))
        front = []
        for b, h in sums:
            if not front or h < front[-1][1] - 1e-15:
                front.append((b, h))
    return front


@pytest.mark.parametrize("recipe", OPEN, ids=lambda r: r.name)
def test_the_plan_at_every_budget_is_that_of_brute_force(recipe: Recipe) -> None:
    dish = cooking.small_dish(recipe)
    assert len(dish.trials.levels) == 6
    for limits in dish.trials.levels:
        within = [p for p in dish.trials.plans if dish.trials.fits(p, limits)]
        best = min(dish.tables[0].of(p) for p in within)
        assert np.isclose(dish.of(limits), best, rtol=1e-9, atol=1e-12)
    assert len(dish.trials.plans) <= len(dish.trials.levels)


def test_the_front_of_zeroq_on_five_layers_of_three_formats_is_that_of_a_dynamic_program() -> None:
    k = cooking.kit(toys.padded, ZEROQ)
    space = cooking.weights(k, most=5)
    assert space.counts == (3, 3, 3, 3, 3)
    s = scene(k, space)
    table, size = ZEROQ.signals[0](s), cooking.bills_of(space)["size"]
    whole = {(size.of(p), table.of(p)) for p in cooking.every(space)}
    unbeaten = [
        (b, h)
        for b, h in whole
        if not any((c <= b and g < h) or (c < b and g <= h) for c, g in whole)
    ]
    front = pareto(table, size, space)
    assert np.allclose(sorted(unbeaten), front, rtol=1e-9)
    dish = cooking.cook(
        replace(ZEROQ, signals=(lambda scene: table,)), s, levels=[{"size": b} for b, _ in front]
    )
    found = sorted((size.of(p), table.of(p)) for p in dish.trials.plans)
    assert np.allclose(found, front, rtol=1e-9)


def test_zeroq_decides_the_same_whatever_the_real_data_are() -> None:
    t = small.task(toys.padded)
    other = {
        name: Data(inputs=toys.images(len(getattr(t, name)), seed=seed) * 3 + 1)
        for name, seed in (("calibrate", 31), ("search", 32))
    }
    found = []
    for task in (t, replace(t, **other)):  # type: ignore[arg-type]
        k = cooking.kit_of(task, ZEROQ)
        found.append(ZEROQ.signals[0](scene(k, cooking.weights(k))))
    for a, b in zip(found[0].terms, found[1].terms, strict=True):
        assert a.at == b.at and np.array_equal(a.values, b.values)


def test_hawq_keeps_size_and_bitops_at_once() -> None:
    dish = cooking.small_dish(HAWQ, toys.separable)
    for limits in dish.trials.levels:
        assert set(limits) == {"size", "bitops"}
        best = dish.trials.best(limits)
        assert best is not None and all(best.bills[k] <= v for k, v in limits.items())


def test_adaquant_on_six_layers_is_brute_force_over_every_vector_of_bits() -> None:
    k = cooking.kit(toys.padded, ADAQUANT)
    space = cooking.weights(k)
    assert len(space.counts) == 6 and set(space.counts) == {3}
    dish = cooking.cook(ADAQUANT, scene(k, space))
    for limits in dish.trials.levels:
        within = [p for p in dish.trials.plans if dish.trials.fits(p, limits)]
        assert np.isclose(dish.of(limits), min(dish.tables[0].of(p) for p in within))


def test_relevance_is_conserved_where_the_network_is_linear_or_relu_without_bias() -> None:
    def plain() -> torch.nn.Module:
        model = toys.seeded(toys.Chain())
        for m in model.modules():
            if isinstance(m, torch.nn.Conv2d | torch.nn.Linear) and m.bias is not None:
                torch.nn.init.zeros_(m.bias)
            if isinstance(m, torch.nn.BatchNorm2d):
                torch.nn.init.zeros_(m.bias)
                torch.nn.init.zeros_(m.running_mean)  # type: ignore[arg-type]
        return model

    k = cooking.kit(plain)
    s = scene(k, cooking.weights(k))
    with torch.no_grad():  # the kit sets the last bias, so that every class is said
        s.bank.module("head").get_parameter("bias").zero_()
        logit = s.task.forward(s.bank.skeleton, s.data.inputs).max(1).values.mean()
    flows = relevances(s, [("conv1", "out"), ("conv2", "out"), ("head", "out")])
    for signed, positive in flows.values():
        assert np.isclose(signed, float(logit), rtol=1e-4) and positive >= signed - 1e-9
