"""Lagrange: budgets priced into the objective, which bounds the harm and finds good points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allot.errors import BudgetError
from allot.solve.descend import Limits, coordinate, fits, polish, value
from allot.solve.problem import Block, Index, Problem
from allot.table import Array, Table

# float64 sums of a few hundred numbers: what a bound gives away to stay one
SLACK = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Dual:
    """Multipliers of a relaxation; any values >= 0 give a bound, the best give the best.

    prices: per bill [K-1].  floors: weight of each free choice's floor, the last of the decided
    ones' [free + 1], sum <= 1.  messages: per block and dim [classes], any sign: what the rows
    that tie a block to its choices are worth.
    """

    prices: Array
    floors: Array
    messages: tuple[tuple[Array, ...], ...]


def free_of_charge(problem: Problem) -> Dual:
    """All multipliers zero: each choice and each block is at its own best."""
    return Dual(
        prices=np.zeros(len(problem.constant) - 1),
        floors=np.zeros(len(problem.free) + 1),
        messages=tuple(tuple(np.zeros(n) for n in b.values.shape[1:]) for b in problem.blocks),
    )


def margins(problem: Problem, dual: Dual, limits: Array) -> tuple[float, list[Array]]:
    """Lower bounds on the harm within limits [K-1]: of any point, and of those with an option.

    The dual function of the local-marginal relaxation (Geoffrion 1974; Wainwright & Jordan
    2008), safe for any multipliers: nothing of a solver's tolerances enters. Per option: [n].
    """
    floors = dual.floors / max(1.0, float(dual.floors.sum()))
    price = np.concatenate([[1.0 - floors.sum()], dual.prices])
    costs = [price @ s for s in problem.single]
    for c in np.flatnonzero(floors[:-1]):
        costs[c] = costs[c] + floors[c] * problem.floors[c]
    parts = [float(price @ problem.constant), *(-dual.prices * limits)]
    if floors[-1] > 0:
        parts.append(float(floors[-1]) * problem.floor_base)
    rises = [np.zeros(len(c)) for c in costs]
    for block, messages in zip(problem.blocks, dual.messages, strict=True):
        parts.append(_block(block, messages, price, costs, rises))
    parts += [float(c.min()) for c in costs]
    total, slack = float(sum(parts)), SLACK * float(np.abs(parts).sum())
    ups = [r + c - c.min() for r, c in zip(rises, costs, strict=True)]
    return total - slack, [total - slack + up * (1 - SLACK) for up in ups]


def _block(
    block: Block, messages: Sequence[Array], price: Array, costs: list[Array], rises: list[Array]
) -> float:
    """The least of a block less its messages, which are added to `costs` (in place, as are the
    rises of the block's least per option to `rises`)."""
    cells = np.tensordot(price, block.values, axes=1)
    for d, (a, message) in enumerate(zip(block.at, messages, strict=True)):
        cells = cells - message.reshape([-1 if i == d else 1 for i in range(cells.ndim)])
        costs[a] = costs[a] + message[block.classes[d]]
    least = float(cells.min())
    for d, (a, classes) in enumerate(zip(block.at, block.classes, strict=True)):
        others = tuple(i for i in range(cells.ndim) if i != d)
        rises[a] = rises[a] + (cells.min(axis=others) - least)[classes]
    return least


def bound(counts: Sequence[int], *, harm: Table, bill: Table, limit: float) -> float:
    """Certified lower bound on the harm of any point with bill <= limit; additive tables only.

    Maximises the concave, piecewise linear dual over the single price by bisection on the sign
    of its slope (Everett 1963; Shoham & Gersho 1988). Raises BudgetError when the cheapest
    point is above the limit.
    """
    harms = [harm.single(i, n) for i, n in enumerate(counts)]
    bills = [bill.single(i, n) for i, n in enumerate(counts)]
    least = bill.constant + sum(float(b.min()) for b in bills)
    if least > limit:
        raise BudgetError(
            f"the {bill.unit} limit is {limit}, the least is {least}",
            smallest={bill.unit: least},
        )

    def dual(price: float) -> tuple[float, float]:
        """Value at a price, and its slope: how far the best point is above the limit."""
        costs = [h + price * b for h, b in zip(harms, bills, strict=True)]
        at = [int(c.argmin()) for c in costs]
        spent = bill.constant + sum(float(b[i]) for b, i in zip(bills, at, strict=True))
        total = harm.constant + price * (bill.constant - limit)
        size = abs(harm.constant) + price * (abs(bill.constant) + abs(limit))
        size += sum(float(np.abs(c.min())) for c in costs)
        return total + sum(float(c.min()) for c in costs) - SLACK * size, spent - limit

    best, slope = dual(0.0)
    low, high = 0.0, 1e-300
    while slope > 0 and high < 1e300:
        value_there, slope = dual(high)
        best = max(best, value_there)
        low, high = (high, high * 1e10) if slope > 0 else (low, high)
    for _ in range(120):
        # prices span decades: halve the exponent, not the number
        middle = float(np.sqrt(max(low, 1e-300)) * np.sqrt(high))
        value_there, slope = dual(middle)
        best = max(best, value_there)
        low, high = (middle, high) if slope > 0 else (low, middle)
    return best


def incumbent(problem: Problem, limits: Limits, *, prices: Array | None = None) -> Index | None:
    """A good index [free] within the limits, or None where none was found (there may be one).

    At given prices the point is exact for additive tables and a coordinate-wise optimum
    otherwise (iterated conditional modes, Besag 1986). One scale for all prices is bisected;
    the direction leans towards the bills that are overrun. Every feasible point on the way is
    kept; the best are polished by moves of one and two choices.
    """
    if not problem.free:
        index = np.zeros(0, dtype=np.intp)
        return index if fits(problem, index, limits) else None
    spread = np.array([1.0, *(1.0 / w for w in _rooms(problem, limits))])
    direction = spread if prices is None else np.concatenate([[1.0], prices])
    least = coordinate(problem, np.array([1.0, *np.zeros(len(limits.at))]))
    found = [least] if fits(problem, least, limits) else []
    for _ in range(min(3, len(limits.at))):
        seen, direction = _bisect(problem, limits, direction, spread)
        found += seen
    ranked = sorted({tuple(i): i for i in found}.values(), key=lambda i: value(problem, i))
    polished = [polish(problem, i, limits) for i in ranked[:2]]
    return min(polished, key=lambda i: value(problem, i), default=None)


def _rooms(problem: Problem, limits: Limits) -> Array:
    """How wide each budget is: its limit less about the least that can be spent."""
    least = problem.constant[1:].copy()
    for s in problem.single:
        least += s[1:].min(axis=1)
    for b in problem.blocks:
        least += b.values[1:].min(axis=tuple(range(1, b.values.ndim)))
    room = np.abs(limits.at - least)
    return np.where(room > 0, room, 1.0)


def _bisect(
    problem: Problem, limits: Limits, direction: Array, spread: Array
) -> tuple[list[Index], Array]:
    """Feasible points along one direction of prices, and the next direction to try."""
    tops = [s[0].max() - s[0].min() for s in problem.single]
    tops += [b.values[0].max() - b.values[0].min() for b in problem.blocks]
    low, high = -25.0, float(np.log10(max(1e-300, *tops))) + 8.0
    low = min(low, high - 30.0)
    found, over = [], np.zeros(len(limits.at))
    index = coordinate(problem, np.concatenate([[0.0], direction[1:]]))
    if fits(problem, index, limits):
        found.append(index)
    for _ in range(18):
        middle = (low + high) / 2
        weights = np.concatenate([[1.0], direction[1:] * 10.0**middle])
        index = coordinate(problem, weights, start=index)
        if fits(problem, index, limits):
            found.append(index)
            high = middle
        else:
            over = (problem.values(index)[1:] - limits.at) * spread[1:]
            low = middle
    lean = np.exp(np.clip(4.0 * over / max(1e-300, float(np.abs(over).max())), -2.0, 2.0))
    return found, np.concatenate([[1.0], direction[1:] * lean])
