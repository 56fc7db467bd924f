"""Asked: the one plan in which everything is as it was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from allot.table import Table
from allot.trials import Trials


def as_asked(trials: Trials, *, harm: Sequence[Table], seed: int) -> None:
    """The plan that takes the last option everywhere, measured; nothing is weighed or drawn."""
    trials.measure([tuple(n - 1 for n in trials.space.counts)])
