"""Repair: what a plan's network becomes after its recovery, learned codes among it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from allot.bank import Bank
from allot.errors import InputError
from allot.option import Option
from allot.overlays import Overlays, Standins
from allot.reconstruct.learning import Learning, Planned
from allot.recover import Moments, Recovery, moments, recovered
from allot.task import Task


def repaired(
    bank: Bank,
    task: Task,
    options: Mapping[str, Option],
    *,
    recovery: Recovery,
    original: Moments | Callable[[], Moments],
    seed: int = 0,
    overlays: Overlays | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, nn.Module]:
    """Stand-ins of a plan after its whole recovery: `recovered`, then learned if asked.

    original: `moments` of the original on the recovery's samples, empty where nothing is matched;
    or what finds them, asked where they are needed.  overlays: where what is made of a plan
    together is kept, and read.
    """
    first, learning = replace(recovery, learning=None), recovery.learning
    goals = functools.cache(original) if callable(original) else lambda: original

    def rounded(known: Standins) -> Standins:
        return recovered(bank, task, options, recovery=first, original=goals(), known=known)

    def started() -> Standins:
        if overlays is None or not first.in_order:
            return rounded({})
        return overlays.get(options, first, rounded)

    def learned(known: Standins) -> Standins:
        return _learned(
            bank, task, options, recovery, standins=started(), goals=goals, known=known,
            seed=seed, progress=progress,
        )  # fmt: skip

    if learning is None:
        return dict(started())
    return dict(learned({}) if overlays is None else overlays.get(options, recovery, learned))


def _learned(
    bank: Bank,
    task: Task,
    options: Mapping[str, Option],
    recovery: Recovery,
    *,
    standins: Standins,
    goals: Callable[[], Moments],
    known: Standins,
    seed: int,
    progress: Callable[[float], None],
) -> Standins:
    """What learning makes of stand-ins, but for those that are known."""
    learning = recovery.learning
    if not standins:
        return {}
    if not isinstance(learning, Learning):
        raise InputError(f"codes are learned by a Learning, not by a {type(learning).__name__}")
    original = goals() if recovery.matched else {}
    if recovery.matched and learning.samples != recovery.samples:
        # what is matched to is of the inputs on which it is matched
        original = moments(task, bank.skeleton, bank.graph, samples=learning.samples)
    planned = Planned(
        bank=bank, task=task, options=options, standins={**standins, **known},
        original=original or None, known=frozenset(known), seed=seed, progress=progress,
    )  # fmt: skip
    return learning.learned(planned)
