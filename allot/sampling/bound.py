"""Bound: what was found for the steps of one sampler serves no other steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from allot.errors import PlanError
from allot.sampling.moment import Moment


def bound_step(times: Tensor, moment: Moment, *, what: str) -> int:
    """The moment's step in a table over steps.

    times: [steps], what the network was told at each when the table was made.  what: the table, as
    in "ranges were".  Raises PlanError for a moment of other steps.
    """
    told, known = moment.level.time, [float(t) for t in times]
    if moment.step >= len(known) or not math.isclose(told, known[moment.step], abs_tol=1e-9):
        raise PlanError(
            f"{what} found for {len(known)} steps, at times {_few(known)}; step {moment.step} at "
            f"time {told:g} is none of these: find them for this sampler"
        )
    return moment.step


def _few(times: Sequence[float]) -> str:
    """The first and the last of them."""
    shown = [f"{t:g}" for t in times]
    return ", ".join(shown if len(shown) < 5 else [*shown[:2], "...", shown[-1]])
