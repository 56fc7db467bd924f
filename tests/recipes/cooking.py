"""Cooking: recipes run on toys with everything but the frame of a whole job."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from allot import bill
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.in_process import InProcess
from allot.measure import Loss, Meter
from allot.memo import Memo
from allot.options import depth, precision, width
from allot.options.width import removals
from allot.recipes import Recipe
from allot.recover import LIGHT
from allot.runtimes.ideal import Ideal
from allot.scene import Scene
from allot.space import Choice, Point, Space
from allot.table import Table
from allot.task import Task
from allot.trace import trace
from allot.trials import Limits, Spent, Trials
from tests import small, toys

BITS = ("W8", "W4", "W2")


class Replay:
    """An evaluator that knows the losses of every plan and takes one F for each."""

    def __init__(self, space: Space, known: Mapping[Point, Loss]) -> None:
        self.space, self.known = space, known
        self.samples, self.recovery = len(next(iter(known.values())).divergences), "replayed"
        self.spent = 0.0
        self.seen: set[Point] = set()

    def charge(self, passes: float) -> None:
        self.spent += passes

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        return [0.0 if p in self.seen else share for p in points]

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        assert share == 1
        self.spent += sum(self.costs(points))
        self.seen |= set(points)
        return [self.known[p] for p in points]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dish:
    """What a recipe came to: its tables and the trials that its searcher left."""

    scene: Scene
    tables: tuple[Table, ...]
    trials: Trials

    def of(self, limits: Limits) -> float:
        """Least foretold harm within limits over every plan of the space, by looking at each."""
        return least(self.tables[0], self.trials.bills, limits, self.scene.space)


def kit(
    make: Callable[[], nn.Module], recipe: Recipe | None = None, **changes: object
) -> small.Kit:
    """A toy's kit, its data prepared as the recipe wants."""
    return kit_of(small.task(make, **changes), recipe)  # type: ignore[arg-type]


def kit_of(t: Task, recipe: Recipe | None = None) -> small.Kit:
    graph = trace(t.model, t.forward, t.example())
    if recipe is not None and recipe.prepare is not None:
        t = recipe.prepare(t, graph)
    space = precision.space(graph, Ideal()) + width.space(graph, Ideal())
    space = space + depth.space(graph, Ideal())
    stats = calibrate(t, t.model, needed(space), batch=10)
    stats |= removals(t.model, graph, stats)
    bank = Bank(t.model, graph=graph, stats=stats)
    meter = Meter(t, bank, t.search, memo=Memo(), batch=7)
    return small.Kit(task=t, graph=graph, space=space, bank=bank, meter=meter)


def scene(k: small.Kit, space: Space) -> Scene:
    """The kit's network before a space, measured as a job would."""
    evaluator = InProcess(
        space=space, task=k.task, bank=k.bank, data=k.task.search, recovery=LIGHT, memo=Memo()
    )
    return Scene(space=space, task=k.task, bank=k.bank, data=k.task.search, evaluator=evaluator)


def cut(choice: Choice, labels: Sequence[str]) -> Choice:
    """The options of these labels, in the order of the choice."""
    return replace(choice, options=tuple(o for o in choice.options if o.label in labels))


def weights(k: small.Kit, *, labels: Sequence[str] = BITS, most: int = 99) -> Space:
    """The formats of the first weights; there is no other choice, so the rest stays float."""
    found = [c for c in k.space.choices if c.options[0].kind == "weight"]
    return replace(k.space, choices=tuple(cut(c, labels) for c in found[:most]))


def bills_of(space: Space) -> dict[str, Table]:
    return {"size": bill.size(space, header=0), "bitops": bill.bitops(space, Ideal())}


def levels_of(space: Space, bills: Mapping[str, Table], *, count: int = 6) -> list[Limits]:
    """Budgets of all bills from the largest plan to the smallest, loose to tight."""
    low = {k: min(b.of(p) for p in every(space)) for k, b in bills.items()}
    high = {k: max(b.of(p) for p in every(space)) for k, b in bills.items()}
    return [
        {k: low[k] + s * (high[k] - low[k]) for k in bills}
        for s in np.linspace(1, 0.02, count).tolist()
    ]


def every(space: Space) -> list[Point]:
    return list(itertools.product(*map(range, space.counts)))


def least(table: Table, bills: Mapping[str, Table], limits: Limits, space: Space) -> float:
    return min(
        (
            table.of(p)
            for p in every(space)
            if all(bills[k].of(p) <= v + 1e-9 for k, v in limits.items())
        ),
        default=np.inf,
    )


def cook(
    recipe: Recipe,
    s: Scene,
    *,
    levels: Sequence[Limits] = (),
    evaluations: float = np.inf,
    seed: int = 0,
) -> Dish:
    """The recipe's signals and searcher on a scene."""
    bills = bills_of(s.space)
    tables = tuple(signal(s) for signal in recipe.signals)
    trials = Trials(
        evaluator=s.evaluator,
        bills=bills,
        originals={k: b.of(s.space.original) for k, b in bills.items()},
        levels=list(levels) or levels_of(s.space, bills),
        evaluations=evaluations,
    )
    try:
        recipe.searcher(trials, harm=tables, seed=seed)
    except Spent:
        assert trials.left < evaluations
    return Dish(scene=s, tables=tables, trials=trials)


def small_dish(recipe: Recipe, make: Callable[[], nn.Module] = toys.chain) -> Dish:
    """The recipe on the weights of a toy, three formats each."""
    k = kit(make, recipe)
    return cook(recipe, scene(k, weights(k)))
