"""Asked: the one plan in which everything is as it was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from allot.errors import InputError
from allot.space import Space
from allot.table import Table
from allot.trials import Trials


def as_asked(trials: Trials, *, harm: Sequence[Table], seed: int) -> None:
    """The plan that takes the last option everywhere, measured; nothing is weighed or drawn.

    Raises InputError where the target has no kernel for what was asked.
    """
    available(trials.space)
    trials.measure([tuple(n - 1 for n in trials.space.counts)])


def available(space: Space) -> None:
    """Raises InputError where the target has no kernel for what was asked at some site."""
    for choice in space.choices:
        if choice.struck and len(choice.options) == 1:
            label, reason = choice.struck[-1]
            raise InputError(
                f"{choice.site} cannot be {label}: {reason}; ask for other --bits or take another "
                "--target"
            )
