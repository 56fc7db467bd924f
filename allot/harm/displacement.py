"""Displacement: where the final samples go when one weight, one step or a run of steps is cheaper.

Measured by sampling from the same noises, from the first step that differs on, and kept as vectors
in the features of the task's judge (`allot.displaced`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from allot.displaced import Displaced, Stretch
from allot.harm.rollouts import rollouts
from allot.option import Option
from allot.options.steps import Compute, Drop, Reuse
from allot.scene import Scene
from allot.space import Point, Space
from allot.table import Array, Term, Vectors

# noises that are rolled out, and steps in a row that are left out or reuse
NOISES, DROPS, GAPS, RUNS = 32, 7, 2, 1


@dataclass(frozen=True, kw_only=True)
class Atom:
    """One thing to measure. options: site -> option.  start: first step that differs.

    less: the atom that is subtracted, for what a step adds to a run; None for none.
    """

    key: tuple[int, int] | Stretch
    options: tuple[tuple[str, Option], ...]
    start: int
    less: Stretch | None = None


def displacement(
    scene: Scene,
    *,
    progress: Callable[[float], None] = lambda share: None,
    noises: int = NOISES,
) -> Displaced:
    """What every option and every short run of steps does to the samples, each alone.

    Steps and weights beside the one in question are in float, which is what the most bits on offer
    come to; what those do is an atom of its own.  noises: of the search data, the first ones.
    """
    data = scene.data.subset(slice(0, min(noises, len(scene.data))))
    space, mild = scene.space, mildest(scene.space)
    base = space.options(quantized(space))
    runs = rollouts(scene.task, scene.bank, data, base)
    share = len(data) / len(scene.data)
    wanted = list(atoms(space, mild))
    found = [runs.displaced(space.options(mild), start=0)]
    scene.evaluator.charge(2 * share)
    alone: dict[tuple[int, int], int] = {}
    stretches: dict[Stretch, int] = {}
    for k, a in enumerate(wanted):
        moved = runs.displaced(dict(a.options), start=a.start)
        scene.evaluator.charge(share * (1 - a.start / len(runs.xs)))
        if a.less is not None:
            moved = moved - found[stretches[a.less]]
        if isinstance(a.key, Stretch):
            stretches[a.key] = len(found)
        else:
            alone[a.key] = len(found)
        found.append(moved)
        progress((k + 1) / len(wanted))
    return table(space, mild, runs.features, np.stack(found), alone, stretches)


def mildest(space: Space) -> Point:
    """Every choice at the most bits that are not float; where there are none, as it was."""
    return tuple(_mild(c.options) for c in space.choices)


def _mild(options: tuple[Option, ...]) -> int:
    for i, o in enumerate(options):
        if not o.is_original and not isinstance(o, Drop | Reuse):
            return i
    return 0


def quantized(space: Space) -> Point:
    """The original, with quantizers that only act at steps that ask for them."""
    kinds = [c.options[0].kind for c in space.choices]
    mild = mildest(space)
    return tuple(m if kind == "activation" else 0 for kind, m in zip(kinds, mild, strict=True))


def atoms(space: Space, mild: Point) -> Iterator[Atom]:
    """Everything to be measured; what is subtracted comes before what it is subtracted from."""
    steps = [i for i, c in enumerate(space.choices) if c.options[0].kind == "step"]
    for i, c in enumerate(space.choices):
        if c.options[0].kind == "weight":
            for o in range(mild[i] + 1, len(c.options)):
                named = tuple((s, c.options[o]) for s in (c.site, *c.tied))
                yield Atom(key=(i, o), options=named, start=0)
    for step, i in enumerate(steps):
        options = space.choices[i].options
        for o in range(len(options)):
            option = options[o]
            if isinstance(option, Compute) and o != mild[i] and not option.is_original:
                site = space.choices[i].site
                yield Atom(key=(i, o), options=((site, option),), start=step)
            elif isinstance(option, Reuse):
                yield from _reuses(space, steps, step, o)
    yield from _drops(space, steps)


def _drops(space: Space, steps: list[int]) -> Iterator[Atom]:
    """Runs of steps left out, by the taken step behind them (the end for none)."""
    for end in range(2, len(steps) + 1):
        for gap in range(1, min(DROPS, end - 1) + 1):
            left = _left(space, steps[end - gap : end])
            if left is None:
                break
            yield Atom(key=Stretch(step=end, option=-1, gap=gap), options=left, start=end - gap)


def _left(space: Space, choices: list[int]) -> tuple[tuple[str, Option], ...] | None:
    """Options that leave these steps out; None where one of them must be taken."""
    found = []
    for i in choices:
        drops = [o for o in space.choices[i].options if isinstance(o, Drop)]
        if not drops:
            return None
        found.append((space.choices[i].site, drops[0]))
    return tuple(found)


def _reuses(space: Space, steps: list[int], step: int, o: int) -> Iterator[Atom]:
    """A step that reuses: right behind one that computes, behind a gap, and behind another one."""
    here = space.choices[steps[step]]
    option = here.options[o]
    assert isinstance(option, Reuse)
    # as many steps before the one that computes as the predictor reads beside it
    more = max(option.predictor.needs, 1) - 1
    # in fewer bits it is measured right behind a step that computes, and nowhere else
    often = option.bits == max(x.bits or 32 for x in here.options if isinstance(x, Reuse))
    for gap in range(min(GAPS if often else 0, step - 1) + 1):
        left = _left(space, steps[step - gap : step])
        if left is None:
            break
        start = max(0, step - gap - 1 - more)
        key = Stretch(step=step, option=o, gap=gap)
        yield Atom(key=key, options=(*left, (here.site, option)), start=start)
    for run in range(1, min(RUNS if often else 0, step - 1) + 1):
        before = [space.choices[steps[i]] for i in range(step - run, step)]
        if any(o >= len(c.options) or c.options[o] != option for c in before):
            break
        named = tuple((c.site, option) for c in (*before, here))
        yield Atom(
            key=Stretch(step=step, option=o, gap=0, run=run), options=named,
            start=max(0, step - run - 1 - more),
            less=Stretch(step=step - 1, option=o, gap=0, run=run - 1),
        )  # fmt: skip


def table(
    space: Space,
    mild: Point,
    features: Array,
    found: Array,
    alone: dict[tuple[int, int], int],
    stretches: dict[Stretch, int],
) -> Displaced:
    """The parts [k, n, d] as a table: the half mean squares of options, and products of pairs."""
    counts = space.counts
    starts = np.concatenate([[0], np.cumsum(counts)])
    n, d = features.shape
    columns = np.zeros((n * d, int(starts[-1])))
    steps = [i for i, c in enumerate(space.choices) if c.options[0].kind == "step"]
    where = dict(alone)
    for s, at in stretches.items():
        if s.run == 0 and s.option >= 0 and s.gap == 0:
            where[steps[s.step], s.option] = at
        elif s.option == -1 and s.gap == 1:
            i = steps[s.step - 1]
            options = space.choices[i].options
            where[i, next(k for k, o in enumerate(options) if isinstance(o, Drop))] = at
    for (i, o), at in where.items():
        columns[:, starts[i] + o] = np.sqrt(2 * d) * found[at].reshape(-1)
    vectors = Vectors(values=columns, counts=counts)
    terms = tuple(Term(at=(i,), values=vectors.half_squares(i)) for i in range(len(counts)))
    return Displaced(
        unit="feature error", origin=f"displacement of {n} samples", terms=terms, vectors=vectors,
        space=space, mild=mild, features=features, atoms=found, alone=alone,
        stretches=stretches,
    )  # fmt: skip
