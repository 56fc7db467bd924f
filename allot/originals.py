"""Originals: which of a few rewritten networks to search, by what plain plans of each lose.

A rewrite is no option of the solver: it changes every range and every harm.  So a handful of
rewritten originals go through the cheap beginning each, and the search goes on with the best.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from allot import billed, setup
from allot.beginning import Asked, Begun, banked, begun
from allot.errors import InputError
from allot.job import Budget, Job
from allot.measure import Meter
from allot.memo import Memo
from allot.plan import weights_digest
from allot.recover import STEADY
from allot.rewrites.bn_folding import FoldNorms
from allot.rewrites.equalization import CrossLayerEqualization
from allot.rewrites.gamma_migration import MigrateGamma
from allot.rewrites.rewrite import Rewrite
from allot.rewrites.rotation import Rotate
from allot.rewrites.smoothing import ShiftScale, Smooth
from allot.space import Point, Space
from allot.task import Data, Task

NONE, ALL = "none", "auto"
# of the search samples, that plans are measured on; and at least so many
_SHARE, _LEAST = 0.25, 64
# a plan that loses nothing has no logarithm
_NOTHING = 1e-12


def known() -> dict[str, tuple[Rewrite, ...]]:
    """The rewrites that can be tried by name."""
    return {
        "equalize": (CrossLayerEqualization(),),
        "fold-equalize": (FoldNorms(), CrossLayerEqualization()),
        "smooth": (Smooth(),),
        "shift-scale": (ShiftScale(),),
        "migrate-gamma": (MigrateGamma(),),
        "rotate": (Rotate(),),
    }


def named(names: Sequence[str]) -> dict[str, tuple[Rewrite, ...]]:
    """Name -> rewrites, all of them for "auto"; raises InputError for a name that is none."""
    every = known()
    for name in names:
        if name not in (ALL, *every):
            raise InputError(
                f"--try-rewrites {name}: there is no such rewrite; there are {', '.join(every)}, "
                f"and {ALL} for all of them"
            )
    return {k: v for k, v in every.items() if k in names or ALL in names}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One rewritten original.

    loss: geometric mean of the divergences of its plans [nats], None where it does not fit;
    `refused` then says why.  plans: (labels, divergence) of each.  passes: F of measuring them.
    """

    name: str
    loss: float | None
    plans: tuple[tuple[str, float], ...] = ()
    passes: float = 0.0
    refused: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What originals are compared for.

    budgets: as asked, of the job that is written down in `job`.  memo: where what was found is
    kept.
    """

    asked: Asked
    budgets: Sequence[Budget]
    memo: Memo
    job: Job

    def tried(self, name: str, rewrites: Sequence[Rewrite], *, optional: bool = True) -> Tried:
        """One candidate measured, or read where it was before.

        Raises InputError where it does not fit, unless it is optional.
        """
        try:
            found = self.memo.get(self._key(rewrites), lambda: asdict(self._measure(rewrites)))
        except InputError as e:
            if not optional:
                raise
            return Tried(name=name, loss=None, refused=str(e))
        plans = tuple((str(label), float(loss)) for label, loss in found["plans"])
        return Tried(name=name, loss=found["loss"], plans=plans, passes=found["passes"])

    def _key(self, rewrites: Sequence[Rewrite]) -> str:
        about = [self.job.dump(), [r.dump() for r in rewrites], STEADY.dump()]
        text = json.dumps(about, sort_keys=True)
        return f"original/{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _measure(self, rewrites: Sequence[Rewrite]) -> Tried:
        start = begun(self.asked, rewrites)
        points = self._points(start.space)
        some = start.task.search.subset(slice(0, _some(start.task.search)))
        meter = Meter(start.task, banked(start), some, memo=Memo())
        plans = tuple(
            (label, meter.loss(start.space.options(p), recovery=STEADY).divergence)
            for label, p in points
        )
        logs = [math.log(max(loss, _NOTHING)) for _, loss in plans]
        mean, passes = math.exp(sum(logs) / len(logs)), _passes(start.task, len(points))
        return Tried(name="", loss=mean, plans=plans, passes=passes)

    def _points(self, space: Space) -> list[tuple[str, Point]]:
        """For each format of activations, the plain plan of most bytes within the budgets; where
        none is within, the smallest of all."""
        workload, names = self.job.workload, {b.bill for b in self.budgets}
        graph, target = self.asked.graph, self.asked.target
        bills = billed.tables(space, target, workload=workload, asked=names)
        originals = billed.originals(graph, workload=workload, asked=names, target=target)
        most = {b.bill: b.limit(originals[b.bill]) for b in self.budgets if b.bill in bills}
        # half-way down where nothing is asked that is known without timing
        most = most or {"size": setup.middle(space, bills, originals)}
        plans = sorted(plain(space), key=lambda p: -bills["size"].of(p[2]))
        if not plans:
            raise InputError(
                "rewrites make a network easier to quantize, and here nothing is quantized; leave "
                "--try-rewrites out or add precision to --axes"
            )
        found: dict[str, tuple[str, Point]] = {}
        for weights, tensors, point in plans:
            if all(bills[k].of(point) <= v for k, v in most.items()):
                found.setdefault(tensors, (_label(weights, tensors), point))
        weights, tensors, least = plans[-1]
        return list(found.values()) or [(_label(weights, tensors), least)]


def _some(data: Data) -> int:
    """Of how many search samples an original's plans are measured on."""
    return min(len(data), max(_LEAST, math.ceil(_SHARE * len(data))))


def _passes(task: Task, plans: int) -> float:
    """F of one original: itself once; every plan and what its recovery looks at."""
    some, seen = _some(task.search), min(STEADY.samples, len(task.calibrate))
    return (some + plans * (some + seen)) / len(task.search)


def expected(task: Task, space: Space, candidates: Collection[str]) -> float:
    """F of comparing candidates and none of them, at most: what does not fit is not measured."""
    count = 1 + len(candidates) if candidates else 0
    return count * _passes(task, len(_labels(space, "activation")))


def _label(weights: str, tensors: str) -> str:
    return " ".join(x for x in (weights, tensors) if x)


def plain(space: Space) -> Iterator[tuple[str, str, Point]]:
    """Plans that take one option of weights and one of activations wherever it is offered, and
    the original elsewhere: (label, label, point), without the original itself."""
    for weights in _labels(space, "weight"):
        for tensors in _labels(space, "activation"):
            wanted = {"weight": weights, "activation": tensors}
            point = tuple(
                next((i for i, o in enumerate(c.options) if wanted.get(o.kind) == o.label), 0)
                for c in space.choices
            )
            if point != space.original:
                yield weights, tensors, point


def _labels(space: Space, kind: str) -> Collection[str]:
    """Labels of the options of one kind, as they are offered; one empty one where there is none."""
    return dict.fromkeys(o.label for c in space.choices for o in c.options if o.kind == kind) or (
        "",
    )


def best(tried: Sequence[Tried]) -> Tried:
    """The one that loses least, the first of equals."""
    return min((t for t in tried if t.loss is not None), key=lambda t: t.loss or 0.0)


def compared(
    comparison: Comparison,
    candidates: Mapping[str, Sequence[Rewrite]],
    *,
    before: Sequence[Rewrite] = (),
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Tried, ...]:
    """The network without any candidate, then every candidate, tried.

    before: rewrites that come first in any case.  A candidate that does not fit is said to, and
    never the best.
    """
    found = [comparison.tried(NONE, before, optional=False)]
    for name, rewrites in candidates.items():
        progress(len(found) / (len(candidates) + 1))
        found.append(comparison.tried(name, (*before, *rewrites)))
    return tuple(found)


def sentence(tried: Sequence[Tried]) -> str:
    """What was found, for people."""
    fit = [t for t in tried if t.loss is not None]
    plans = "; ".join(label for label, _ in fit[0].plans)
    numbers = ", ".join(f"{t.name} {t.loss:.3g}" for t in fit)
    text = (
        f"rewrite taken: {best(tried).name}; loss of plain plans ({plans}) in nats: {numbers}; "
        f"this took {sum(t.passes for t in tried):.1f} forward passes"
    )
    unfit = [f"{t.name} ({re.split(r': |; | [(]', t.refused)[0]})" for t in tried if t.refused]
    return text + (f"; what does not fit: {', '.join(unfit)}" if unfit else "")


def document(tried: Sequence[Tried]) -> dict[str, Any]:
    """What was found, as JSON data; empty where nothing was compared."""
    return {} if not tried else {"chosen": best(tried).name, "tried": [asdict(t) for t in tried]}


def on_best(
    given: Asked,
    job: Job,
    tried: Sequence[Tried],
    originals: Mapping[str, Sequence[Rewrite]],
) -> tuple[Begun, Job]:
    """The beginning on the best of the originals, and the job as it then is."""
    more = originals.get(best(tried).name, ())
    rewrites = (*setup.rewrites(job), *more)
    start = begun(given, rewrites)
    return start, replace(
        job,
        graph=start.space.graph.digest,
        weights=weights_digest(start.task.model),
        rewrites=rewrites,
        originals=tuple((name, tuple(rs)) for name, rs in originals.items()),
    )
