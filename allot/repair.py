"""Repair: what a plan's network becomes after its recovery, learned codes among it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from allot.bank import Bank
from allot.errors import InputError
from allot.option import Option
from allot.reconstruct.reconstruct import reconstructed
from allot.reconstruct.setting import Reconstruction
from allot.recover import Moments, Recovery, recovered
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
    """Stand-ins of a plan after its whole recovery: `recovered`, then `reconstructed` if asked.

    original: `moments` of the original on the recovery's samples, empty where nothing is matched.
    """
    standins = recovered(bank, task, options, recovery=recovery, original=original)
    setting = recovery.reconstruction
    if setting is None or not standins:
        return standins
    if not isinstance(setting, Reconstruction):
        raise InputError(f"codes are learned by a Reconstruction, not a {type(setting).__name__}")
    return reconstructed(
        bank, task, options, standins=standins, setting=setting, original=original or None,
        seed=seed, progress=progress,
    )  # fmt: skip
