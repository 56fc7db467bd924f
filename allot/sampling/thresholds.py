"""Thresholds: where a trigger takes again as much as is asked, found without sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from allot.errors import InputError
from allot.sampling.grid import Grid
from allot.sampling.moment import Moment, Request
from allot.sampling.triggers import Changed, Notes


def share_again(
    trigger: Changed, values: Sequence[Tensor], grid: Grid, *, steps: Sequence[int]
) -> float:
    """Share of the original's results [all steps x samples] that the trigger would take again.

    values: of its probe at every step of the original's run, [n, ...] each.  steps: those at which
    it decides; the others compute.
    """
    notes: Notes | None = None
    taken = 0
    for i, seen in enumerate(values):
        again = None
        if i in steps and i > 0:
            moment = Moment(step=i, level=grid.level(i), request=Request())
            again = trigger.decided(seen, notes, moment)
            taken += int(again.sum())
        notes = trigger.noted(seen, notes, again)
    return taken / (len(values) * len(values[0]))


def for_share(
    trigger: Changed,
    values: Sequence[Tensor],
    grid: Grid,
    *,
    steps: Sequence[int],
    share: float,
    rounds: int = 40,
) -> Changed:
    """The trigger with the least threshold that reaches the share, by bisection.

    What is reached in a run of its own differs a little, as the probe is then another.  Raises
    InputError for a share beyond what the steps allow.
    """
    if share == 0:
        return replace(trigger, threshold=0.0)
    high = 1.0
    while share_again(replace(trigger, threshold=high), values, grid, steps=steps) < share:
        high *= 2
        if high > 1e9:
            most = share_again(replace(trigger, threshold=high), values, grid, steps=steps)
            raise InputError(
                f"no threshold takes {share:.0%} of the results again; at most {most:.0%} of them "
                "are at steps that may"
            )
    low = 0.0
    for _ in range(rounds):
        middle = (low + high) / 2
        reached = share_again(replace(trigger, threshold=middle), values, grid, steps=steps)
        low, high = (low, middle) if reached >= share else (middle, high)
    return replace(trigger, threshold=high)
