"""Dominated: options that never pay, whatever is chosen beside them, conversions included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from allot.space import Space
from allot.table import Table

# what a layer's measured time may be wrong by; below it nothing is called slower
MARGIN = 0.05

# site -> label of an option that is dominated -> why
Reasons = Mapping[str, Mapping[str, str]]


def dominated(
    space: Space, *, seconds: Table, others: Sequence[Table], margin: float = MARGIN
) -> Reasons:
    """The options that are neither faster nor, at no more time, cheaper in another bill.

    seconds: of every plan, with what conversions between neighbours cost in its terms.  others:
    further bills (bytes, BitOPs).  An option stays where for some choice of its neighbours it is
    faster than the original, or cheaper by another bill and not slower by more than `margin` of the
    seconds at stake; it goes, too, where an option that takes at least as many bytes is faster by
    more than that for every choice.  Bounds are sums over terms of their best cases, so an
    option is never struck out that pays somewhere.
    """
    found: dict[str, dict[str, str]] = {}
    for i, choice in enumerate(space.choices):
        labels = [o.label for o in choice.options]
        for k, option in enumerate(choice.options):
            # what stands alone is pinned: there is nothing to take in its place
            if option.is_original or len(labels) == 1:
                continue
            reason = _against(i, k, labels, seconds, others, margin)
            if reason:
                found.setdefault(choice.site, {})[option.label] = reason
    return found


def cut(space: Space, struck: Sequence[tuple[str, str, str]]) -> Space:
    """The space without the options of (site, label, why), which its choices list as struck out."""
    reasons = {(name, label): why for name, label, why in struck}
    return space.only(lambda option, site: reasons.get((site.name, option.label), ""))


def _against(
    i: int,
    k: int,
    labels: Sequence[str],
    seconds: Table,
    others: Sequence[Table],
    margin: float,
) -> str:
    """Why option k of choice i never pays, "" where it does."""
    slack = margin * _at_stake(seconds, i)
    cheaper = any(_least(t, i, k, 0) < 0 for other in others for t in other.flat())
    change = _least(seconds, i, k, 0)
    if change >= 0 and not cheaper:
        return "neither faster nor smaller than the original, whatever is chosen beside it"
    for p in (p for p in range(len(labels)) if p != k):
        gentler = all(_least(t, i, p, k) >= 0 for other in others for t in other.flat())
        if gentler and _least(seconds, i, k, p) > slack:
            than = "the original" if p == 0 else labels[p]
            return f"slower than {than}, whatever is chosen beside it"
    return ""


def _least(table: Table, i: int, k: int, p: int) -> float:
    """A lower bound of what a bill changes by from option p to k, over all other choices."""
    total = 0.0
    for t in table.terms:
        if i in t.at:
            at = t.at.index(i)
            change = np.take(t.values, k, axis=at) - np.take(t.values, p, axis=at)
            total += float(np.min(change))
    return total


def _at_stake(table: Table, i: int) -> float:
    """The seconds of the terms that a choice has a part in, at most."""
    return sum(float(np.max(t.values)) for t in table.terms if i in t.at)
