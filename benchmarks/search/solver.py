"""How long does the exact solver take as networks grow, and does it agree with brute force?

Two budgets (bytes, BitOPs), four options per group, pair terms for neighbours and for twice as
many pairs drawn at random.  Harm is heavy-tailed over decades; a pair term is 2 rho sqrt(h_i h_j)
with rho the cosine of drawn vectors, as for products of per-sample changes.  In one instance of
three it is rho sqrt(h_i h_j) with rho uniform in [-0.8, 0.9], of both signs as no vectors have.
Seconds are of the processor, of one thread: the wall clock of a shared machine says little.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allot.errors import BudgetError
from allot.solve import Solution, solve
from allot.table import Array, Table, Term
from benchmarks.figures import Figure, at_most

SIZES = (8, 16, 32, 64, 128, 224, 448)
BITS = np.array([32.0, 8.0, 4.0, 2.0])
SHARES = (0.12, 0.2)  # of the original's bytes; of its BitOPs nine tenths of that
SECONDS, GAP = 5.0, 1e-3


@dataclass(frozen=True, kw_only=True)
class Instance:
    counts: tuple[int, ...]
    harm: Table
    bills: dict[str, Table]

    def limits(self, share: float) -> dict[str, float]:
        """The budgets at a share of the original."""
        top = {k: b.of((0,) * len(self.counts)) for k, b in self.bills.items()}
        return {"size": share * top["size"], "bitops": 0.9 * share * top["bitops"]}


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Processor seconds and gap per size, and how many small instances agree."""
    figures: dict[str, Figure] = {}
    for n in SIZES[:5] if quick else SIZES:
        seconds, gaps, counts = [], [], 2 if quick else 6
        for i, share in itertools.product(range(counts), SHARES):
            case = draw(np.random.default_rng([seed, n, i]), n, harsh=i % 3 == 2)
            took, found = timed(case, case.limits(share))
            seconds.append(took)
            gaps.append(found.gap)
        figures[f"solver seconds at {n} groups, largest"] = at_most(
            max(seconds), SECONDS, n=len(seconds), seeds=[seed], median=float(np.median(seconds)),
            gap=max(gaps),
        )  # fmt: skip
        figures[f"solver gap at {n} groups, largest"] = at_most(
            max(gaps), GAP, n=len(gaps), seeds=[seed]
        )
    small = 100 if quick else 500
    wrong = sum(not agrees(np.random.default_rng([seed, 3, i])) for i in range(small))
    figures["instances on which solver and brute force differ"] = at_most(
        wrong, 0, n=small, seeds=[seed]
    )
    return figures


def timed(case: Instance, limits: dict[str, float]) -> tuple[float, Solution]:
    """Processor seconds and the solution, to a gap of 1e-3; time enough on a busy machine."""
    start = time.process_time()
    found = solve(
        case.counts, harm=case.harm, bills=case.bills, limits=limits, gap=GAP, time_limit=3600.0
    )
    return time.process_time() - start, found


def draw(rng: np.random.Generator, n: int, *, harsh: bool = False) -> Instance:
    """An instance of n groups and four options, the first of which is the original."""
    k = len(BITS)
    steps = 10 ** rng.uniform(0.3, 1.2, (n, k - 1))
    alone = np.cumprod(steps, axis=1) * 10 ** rng.normal(-3.3, 1.0, (n, 1))
    harm = np.concatenate([np.zeros((n, 1)), alone], axis=1)
    weights = 10 ** rng.normal(4.5, 0.6, n)
    macs = np.round(weights * 10 ** rng.normal(2, 0.5, n))
    terms = [Term(at=(i,), values=h) for i, h in enumerate(harm)]
    angles = vectors(rng, n, k)
    for i, j in pairs(rng, n):
        rho = 2 * angles[i] @ angles[j].T
        if harsh:
            rho = rng.uniform(-0.8, 0.9) + 0.1 * rng.normal(size=(k, k))
        terms.append(Term(at=(i, j), values=rho * np.sqrt(np.outer(harm[i], harm[j]))))
    return Instance(
        counts=(k,) * n,
        harm=Table(unit="nat", origin="drawn", terms=tuple(terms)),
        bills={
            "size": additive("byte", np.ceil(weights[:, None] * BITS / 8)),
            "bitops": additive("bitop", macs[:, None] * BITS * 32),
        },
    )


def additive(unit: str, values: Array) -> Table:
    """A table of one term per choice from values [choices, options]."""
    terms = (Term(at=(i,), values=v) for i, v in enumerate(values))
    return Table(unit=unit, origin="drawn", terms=tuple(terms))


def vectors(rng: np.random.Generator, n: int, k: int, *, dim: int = 16) -> Array:
    """Unit vectors [n, k, dim]: a share in common, one of the group, one of the option."""
    shared = rng.normal(size=dim) / np.sqrt(dim)
    own = rng.normal(size=(n, 1, dim)) / np.sqrt(dim)
    found: Array = 0.5 * shared + own + 0.5 * rng.normal(size=(n, k, dim)) / np.sqrt(dim)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def pairs(rng: np.random.Generator, n: int) -> list[tuple[int, int]]:
    """Neighbours, and 2 n further pairs (or all there are)."""
    found = {(i, i + 1) for i in range(n - 1)}
    while len(found) < min(3 * n - 1, n * (n - 1) // 2):
        i, j = sorted(rng.choice(n, 2, replace=False).tolist())
        found.add((i, j))
    return sorted(found)


def agrees(rng: np.random.Generator) -> bool:
    """Whether the solver finds the best of all points: six choices of three, with floors, two
    budgets and exclusions; or says rightly that there is none."""
    whole = draw(rng, 6, harsh=bool(rng.integers(2)))
    kept = np.sort(rng.choice(4, 3, replace=False))
    case = Instance(
        counts=(3,) * 6,
        harm=narrowed(whole.harm, kept),
        bills={k: narrowed(b, kept) for k, b in whole.bills.items()},
    )
    points = list(itertools.product(range(3), repeat=6))
    quantile = float(rng.uniform(0.01, 0.9))
    limits = {
        k: float(np.quantile([b.of(p) for p in points], quantile)) for k, b in case.bills.items()
    }
    alone = [case.harm.single(i, 3) for i in range(6)]
    harm = {
        p: max(case.harm.of(p), *(a[i] for a, i in zip(alone, p, strict=True)))
        for p in points
        if all(case.bills[k].of(p) <= limits[k] for k in limits)
    }
    excluded = sorted(harm, key=harm.__getitem__)[: int(rng.integers(4))]
    left = [v for p, v in harm.items() if p not in excluded]
    try:
        found = solve(
            case.counts, harm=case.harm, bills=case.bills, limits=limits, excluded=excluded,
            gap=0.0,
        )  # fmt: skip
    except BudgetError:
        return not left
    within = found.point in harm and found.point not in excluded
    return within and abs(harm[found.point] - min(left)) <= 1e-9 * abs(min(left))


def narrowed(table: Table, kept: NDArray[np.int64]) -> Table:
    """The table over some of the options of every choice."""
    terms = (Term(at=t.at, values=t.values[np.ix_(*[kept] * len(t.at))]) for t in table.terms)
    return Table(unit=table.unit, origin=table.origin, terms=tuple(terms))


if __name__ == "__main__":
    for name, figure in run(quick=False, seed=0).items():
        print(name, figure, flush=True)
