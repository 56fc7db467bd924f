"""Levels: the budgets at which a search looks for a plan, around those that were asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping

from allot.trials import Limits


def levels(
    count: int,
    *,
    limits: Limits,
    least: Mapping[str, float],
    originals: Mapping[str, float],
) -> list[dict[str, float]]:
    """Limits from loose to tight, on a log scale, through the asked ones; of the size where
    nothing was asked.

    limits: asked.  least: the smallest that every bill can be.  Two fifths of the levels lie
    below what was asked, where the certificate may need none and the user may want them.
    """
    names = list(limits) or ["size"]
    inner = max(1, round(count * 0.4)) if limits else 0
    goal = {k: limits.get(k, least[k] * 1.05) for k in names}
    found = []
    for i in range(count - inner):
        share = i / max(1, count - inner - 1)
        found.append({k: _between(originals[k] * 0.98, goal[k], share) for k in names})
    for i in range(1, inner + 1):
        share = i / (inner + 0.5)
        found.append({k: _between(limits[k], least[k] * 1.02, share) for k in names})
    return found


def _between(a: float, b: float, share: float) -> float:
    return math.exp((1 - share) * math.log(a) + share * math.log(b))
