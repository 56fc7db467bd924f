"""A tiny sampler's space with its displacements, for tests of searches over time."""

from __future__ import annotations

from functools import cache

import torch

from allot.bank import Bank
from allot.displaced import Displaced
from allot.harm.displacement import displacement, mildest
from allot.memo import Memo
from allot.runtimes.ideal import Ideal
from allot.samplers import bill
from allot.samplers import space as spaces
from allot.samplers.rolled import Rolled
from allot.samplers.task import Noises, task_of
from allot.scene import Scene
from allot.space import Space
from allot.task import Task
from allot.trials import Trials
from tests import tiny_sampler as tiny

STEPS = 5


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


def rolled(memo: Memo | None = None) -> Rolled:
    return Rolled(space=space(), task=task(), bank=bank(), data=task().search, memo=memo or MEMO)


# plans of all tests, so that none is sampled twice
MEMO = Memo()


@cache
def harm() -> Displaced:
    evaluator = rolled()
    return displacement(
        Scene(space=space(), task=task(), bank=bank(), data=task().search, evaluator=evaluator),
        noises=12,
    )


@cache
def bitops() -> bill.Table:
    return bill.Costs(space=space(), target=Ideal()).table()


def trials(*shares: float, evaluations: float = float("inf")) -> Trials:
    """Levels at shares of the BitOPs of all in 8 bits."""
    eight = bitops().of(mildest(space()))
    return Trials(
        evaluator=rolled(), bills={"bitops": bitops(), "size": bill.size(space())},
        originals={}, levels=[{"bitops": s * eight} for s in shares], evaluations=evaluations,
    )  # fmt: skip
