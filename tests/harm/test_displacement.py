"""Laws of displacement: what is predicted of one change, or of a measured run, is what happens."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from allot.bank import Bank
from allot.displaced import Displaced, Stretch
from allot.errors import InputError
from allot.harm.displacement import displacement, mildest, quantized
from allot.harm.rollouts import eyes, rollouts
from allot.memo import Memo
from allot.options.steps import Drop, Reuse
from allot.runtimes.ideal import Ideal
from allot.samplers import space as spaces
from allot.samplers.rolled import Rolled
from allot.samplers.task import Noises, task_of
from allot.scene import Scene
from allot.space import Point, Space
from allot.task import Task
from tests import tiny_sampler as tiny

STEPS = 6


@cache
def task() -> Task:
    labels = {"label": torch.arange(tiny.CLASSES)}
    noises = Noises(calibrate=8, search=12, certify=6)
    return task_of(tiny.sampler(STEPS), tiny.SHAPE, name="tiny", conditions=labels, noises=noises)


@cache
def space() -> Space:
    family = task().family
    assert family is not None
    return spaces.whole(family.graph(task()), Ideal(), sets={"deep": (tiny.DEEP,)})


@cache
def bank() -> Bank:
    return tiny.bank_of(task(), space())


def rolled() -> Rolled:
    return Rolled(space=space(), task=task(), bank=bank(), data=task().search, memo=Memo())


@cache
def harm() -> Displaced:
    scene = Scene(space=space(), task=task(), bank=bank(), data=task().search, evaluator=rolled())
    return displacement(scene, noises=12)


def features(point: Point) -> np.ndarray:
    return eyes(task())(rolled().samples_of(point))


def float_with(options: dict[int, int]) -> Point:
    """The original with quantizers that act where a step asks, and some options."""
    return tuple(options.get(i, o) for i, o in enumerate(quantized(space())))


def of(kind: type, step: int) -> tuple[int, int]:
    """(choice, option) of the first option of a kind at a step."""
    i = space().position(f"steps.{step}")
    return i, next(k for k, o in enumerate(space().choices[i].options) if isinstance(o, kind))


def test_the_first_part_is_what_the_most_bits_move() -> None:
    want = features(mildest(space())) - features(space().original)
    np.testing.assert_allclose(harm().atoms[0], want, atol=1e-4)
    np.testing.assert_allclose(harm().moved(mildest(space())), want, atol=1e-4)


def test_one_option_alone_is_what_was_seen_of_it() -> None:
    original = features(space().original)
    for (i, o), part in list(harm().alone.items())[::5]:
        want = features(float_with({i: o})) - original
        np.testing.assert_allclose(harm().atoms[part], want, atol=1e-4)


def test_runs_of_steps_are_measured_together() -> None:
    original = features(space().original)
    gap = dict([of(Drop, 2), of(Drop, 3)])
    part = harm().stretches[Stretch(step=4, option=-1, gap=2)]
    want = features(float_with(gap)) - original
    np.testing.assert_allclose(harm().atoms[part], want, atol=1e-4)
    i, o = of(Reuse, 4)
    part = harm().stretches[Stretch(step=4, option=o, gap=2)]
    want = features(float_with({**gap, i: o})) - original
    np.testing.assert_allclose(harm().atoms[part], want, atol=1e-4)


def test_two_reuses_in_a_row_add_up_to_what_both_do() -> None:
    (i, o), (j, p) = of(Reuse, 3), of(Reuse, 4)
    first = harm().stretches[Stretch(step=3, option=o, gap=0)]
    second = harm().stretches[Stretch(step=4, option=p, gap=0, run=1)]
    want = features(float_with({i: o, j: p})) - features(space().original)
    np.testing.assert_allclose(harm().atoms[first] + harm().atoms[second], want, atol=1e-4)


def test_the_end_is_reached_from_any_step() -> None:
    i, o = of(Drop, STEPS - 1)
    part = harm().stretches[Stretch(step=STEPS, option=-1, gap=1)]
    want = features(float_with({i: o})) - features(space().original)
    np.testing.assert_allclose(harm().atoms[part], want, atol=1e-4)


def test_a_plan_of_measured_meetings_knows_all_of_them() -> None:
    (i, o), (j, p) = of(Drop, 1), of(Reuse, 4)
    point = list(mildest(space()))
    point[i], point[j] = o, p
    assert harm().parts(point)[1] == 0
    # a third reuse in a row was measured by nobody, but is foreseen all the same
    for step in (3, 5):
        c, q = of(Reuse, step)
        point[c] = q
    assert harm().parts(point)[1] == 1
    assert np.isfinite(harm().predicted(point))


def test_squares_are_those_of_the_sum() -> None:
    g = np.random.default_rng(0)
    for _ in range(5):
        point = tuple(int(g.integers(1, n)) if n > 1 else 0 for n in space().counts)
        moved = harm().moved(point)
        assert harm().squared(point) == pytest.approx((moved**2).sum() / len(moved))


def test_the_table_says_the_same_of_single_options() -> None:
    for (i, o), part in harm().alone.items():
        moved = harm().atoms[part]
        want = (moved**2).sum() / len(moved)
        assert harm().single(i, space().counts[i])[o] == pytest.approx(want)


def test_a_run_can_only_begin_where_every_step_is_taken() -> None:
    i, o = of(Drop, 2)
    with pytest.raises(InputError, match="left out"):
        rollouts(task(), bank(), task().search, space().options(float_with({i: o})))
