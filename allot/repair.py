"""Repair: what a plan's network becomes after its recovery, learned codes among it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from allot.bank import Bank
from allot.errors import InputError
from allot.option import Option
from allot.reconstruct.learning import Learning, Planned
from allot.recover import Moments, Recovery, moments, recovered
from allot.task import Task


def repaired(
    bank: Bank,
    task: Task,
    options: Mapping[str, Option],
    *,
    recovery: Recovery,
    original: Moments,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, nn.Module]:
    """Stand-ins of a plan after its whole recovery: `recovered`, then learned if asked.

    original: `moments` of the original on the recovery's samples, empty where nothing is matched.
    """
    standins = recovered(bank, task, options, recovery=recovery, original=original)
    learning = recovery.learning
    if learning is None or not standins:
        return standins
    if not isinstance(learning, Learning):
        raise InputError(f"codes are learned by a Learning, not by a {type(learning).__name__}")
    if recovery.matched and learning.samples != recovery.samples:
        # what is matched to is of the inputs on which it is matched
        original = moments(task, bank.skeleton, bank.graph, samples=learning.samples)
    planned = Planned(
        bank=bank, task=task, options=options, standins=standins, original=original or None,
        seed=seed, progress=progress,
    )  # fmt: skip
    return learning.learned(planned)
