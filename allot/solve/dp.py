"""Dp: the exact best point of additive tables under one limit, without a general solver.

Choice after choice, only those partial plans are kept that no other beats in harm and bill, and
whose bound is below what is already in hand (dynamic programming with the bound of Morin & Marsten
1976; the bound is the Lagrangian at the best price, so it is nearly tight and few are left).
"""

from __future__ import annotations

import numpy as np

from allot.solve import lagrange
from allot.solve.problem import Index, Problem
from allot.table import Array

LABELS = 200_000  # partial plans, beyond which the general solver is the better way


def price(problem: Problem, limit: float) -> tuple[float, float]:
    """The price per bill at which the Lagrangian bound is highest, and that bound.

    The dual is concave and piecewise linear in the price, so the sign of its slope is bisected
    (Everett 1963); every price gives a valid bound.
    """
    flat = problem.flat
    harm, bill = flat.single

    def over(p: float) -> float:
        costs = harm + p * bill
        least = np.minimum.reduceat(costs, flat.starts[:-1])
        tied = costs <= np.repeat(least, np.diff(flat.starts))
        cheapest = np.minimum.reduceat(np.where(tied, bill, np.inf), flat.starts[:-1])
        return float(flat.constant[1] + cheapest.sum() - limit)

    low, high = -300.0, 300.0  # decades
    if over(0.0) <= 0:
        return 0.0, _bound(problem, 0.0, limit)
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if over(10.0**middle) > 0 else (low, middle)
    return max(
        ((p, _bound(problem, p, limit)) for p in (10.0**low, 10.0**high)), key=lambda x: x[1]
    )


def _bound(problem: Problem, price: float, limit: float) -> float:
    dual = lagrange.free_of_charge(problem)
    dual.prices[:] = price
    return lagrange.margins(problem, dual, np.array([limit]))[0]


def best(problem: Problem, limit: float, *, price: float, aim: float) -> tuple[Index | None, bool]:
    """The index [free] of least harm below `aim` with the bill within the limit, by the sums of
    a problem without blocks; and whether that is proven (False: too many partial plans).

    None, True: no point below the aim is within the limit.
    """
    order = np.argsort([-float(np.ptp(s[1])) for s in problem.single], kind="stable")
    stages = [problem.single[c] for c in order]
    rest = _after(stages, price, limit)
    now, kept = problem.constant[:, None].copy(), []
    for stage, (harm_left, bill_left, dual_left) in zip(stages, rest, strict=True):
        n = stage.shape[1]
        new = (now[:, :, None] + stage[:, None, :]).reshape(2, -1)
        bounds = np.maximum(new[0] + price * new[1] + dual_left, new[0] + harm_left)
        # what rounding blurs is kept
        ok = np.flatnonzero((bounds < aim + 1e-9 * abs(aim)) & (new[1] + bill_left <= limit))
        ok = ok[_unbeaten(new[:, ok])]
        if len(ok) > LABELS:
            return None, False
        if not len(ok):
            return None, True
        now = new[:, ok]
        kept.append((ok // n, ok % n))
    at = int(now[0].argmin())
    index = np.zeros(len(stages), dtype=np.intp)
    for c, (parent, option) in zip(order[::-1], kept[::-1], strict=True):
        index[c] = option[at]
        at = int(parent[at])
    return index, True


def _after(stages: list[Array], price: float, limit: float) -> list[tuple[float, float, float]]:
    """Per stage, of all that follow it: least harm, least bill, least of the priced sum less
    the limit's worth."""
    found, left = [], (0.0, 0.0, -price * limit)
    for harm, bill in reversed(stages):
        found.append(left)
        parts = (float(harm.min()), float(bill.min()), float((harm + price * bill).min()))
        left = (left[0] + parts[0], left[1] + parts[1], left[2] + parts[2])
    return found[::-1]


def _unbeaten(labels: Array) -> Index:
    """Positions of the [harm, bill] columns than which no other is better in both."""
    order = np.lexsort((labels[0], labels[1]))
    harm = labels[0, order]
    before = np.minimum.accumulate(np.concatenate([[np.inf], harm[:-1]]))
    found: Index = order[harm < before]
    return found
