"""Stream: many plans of one space run one after the other, each from where it differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allot import probe
from allot.bank import Bank
from allot.errors import ModelError
from allot.options.standins import inner_attribute
from allot.places import Place, Places
from allot.recover import Correction, Moments, Recovery, corrected, matched, moments
from allot.space import Point, Space
from allot.stations import Record, Stations
from allot.sweep import rewrapped, unwrapped
from allot.task import Inputs, Task, take
from allot.trie import trie

# corrections of the modules that ran for a point, and not for the one before it
Corrections = Mapping[str, Correction]


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """What the space's first point left behind for one batch of inputs."""

    inputs: Inputs
    output: Tensor
    records: Mapping[str, Record]


# what stands in a place for one point
Put = Callable[[Place], nn.Module]


class Matcher(nn.Module):
    """A layer or norm whose output is matched to a goal; found: the correction that did it."""

    def __init__(self, inner: nn.Module, goal: tuple[Tensor, Tensor], dim: int) -> None:
        nn.Module.__init__(self)
        self.inner, self.goal, self.dim = inner, goal, dim
        self.found: Correction | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.found, y = matched(self.inner(x), self.goal, self.dim)
        return y

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)


class Stream:
    """Runs sorted points of a space over batches of inputs; replays what they share.

    A network that decides by values what it runs may be replayed less or not at all (`Stations`);
    what it puts out is that of plain runs all the same.

    most_bytes: of activations held for one batch, and once more of those kept of the space's
    first point for all batches; what goes beyond is run again.
    """

    def __init__(
        self, space: Space, task: Task, bank: Bank, *, recovery: Recovery, most_bytes: int = 2**30
    ) -> None:
        self.space, self.task, self.bank, self.recovery = space, task, bank, recovery
        self.tree = trie(space)
        self.calibrates = recovery.matched and recovery.samples > 0
        goals: Moments = {}
        if self.calibrates:
            goals = moments(task, bank.skeleton, bank.graph, samples=recovery.samples)
        self._places = Places(space, bank, goals)
        self.stations = Stations(
            task,
            bank,
            starts=self.tree.starts,
            touched=[p.name for p in self._places.all],
            most_bytes=most_bytes,
        )
        self._left = most_bytes
        self._of_base: Corrections = {}
        self._places.encode([space.original])
        self._calibration = self._calibrated_base() if self.calibrates else None

    @property
    def calibration(self) -> int:
        """Calibration inputs that recovery sees for every point."""
        return min(self.recovery.samples, len(self.task.calibrate)) if self.calibrates else 0

    def base(self, inputs: Inputs) -> Base:
        """The space's first point, recovered, run on a batch of inputs."""
        return self._run_base(inputs, self._putting(self.space.original, self._of_base))

    def _putting(self, point: Point, corrections: Corrections) -> Put:
        """What puts a point's modules in place with corrections found before."""

        def put(place: Place) -> nn.Module:
            encoded, found = self._places.at(place, point), corrections.get(place.name)
            return encoded.module if found is None else corrected(encoded.module, found)

        return put

    def _run_base(self, inputs: Inputs, put: Put) -> Base:
        stations = self.stations
        stations.load({})
        with stations.installed() as model, torch.no_grad():
            stations.put({p.name: put(p) for p in self._places.all})
            stations.from_start()
            output = stations.run(model, inputs)
        records = stations.save(self._left)
        self._left -= sum(r.tensor.nbytes for r in records.values() if r.tensor is not None)
        return Base(inputs=inputs, output=output, records=records)

    def _calibrated_base(self) -> Base:
        inputs = take(self.task.calibrate.inputs, slice(0, self.recovery.samples))
        put, found = self._matching(self.space.original)
        base = self._run_base(inputs, put)
        self._of_base = found()
        return base

    def _matching(self, point: Point) -> tuple[Put, Callable[[], Corrections]]:
        """What matches a point's modules as they run, and a look at what it found."""
        matchers: dict[str, Matcher] = {}
        changed = self._places.changed(point)

        def put(place: Place) -> nn.Module:
            encoded = self._places.at(place, point)
            if encoded.goal is None or place.dim is None or place.start < changed:
                return encoded.module
            inner = unwrapped(encoded.module)
            matchers[place.name] = Matcher(inner, encoded.goal, place.dim)
            return rewrapped(encoded.module, matchers[place.name])

        def found() -> Corrections:
            return {n: m.found for n, m in matchers.items() if m.found is not None}

        return put, found

    def corrections(self, points: Sequence[Point]) -> list[Corrections]:
        """What recovery corrects at every one of the sorted points, where it leaves the last."""
        if self._calibration is None:
            return [{} for _ in points]
        found: list[Corrections] = []
        look: Callable[[], Corrections] = dict

        def put(i: int) -> Put:
            nonlocal look
            made, look = self._matching(points[i])
            return made

        def each(i: int, output: Tensor) -> None:
            nonlocal look
            found.append(look())
            look = dict  # the space's first point is not run, so it looks at nothing

        first, _ = self._matching(self.space.original)
        self._walk(points, self._calibration, first, put, each)
        return found

    def outputs(
        self,
        points: Sequence[Point],
        base: Base,
        corrections: Sequence[Corrections],
        each: Callable[[int, Tensor], None],
    ) -> None:
        """Calls each(i, output) for every one of the sorted points on the batch of `base`.

        Raises ModelError for an output that is not finite; names the first such module.
        """

        def checked(i: int, output: Tensor) -> None:
            if not bool(output.isfinite().all()):
                raise ModelError(self._not_finite(points[i], base.inputs))
            each(i, output)

        first = self._putting(self.space.original, self._of_base)
        put = [self._putting(p, c) for p, c in zip(points, corrections, strict=True)]
        self._walk(points, base, first, put.__getitem__, checked)

    def _walk(
        self,
        points: Sequence[Point],
        base: Base,
        first: Put,
        put: Callable[[int], Put],
        each: Callable[[int, Tensor], None],
    ) -> None:
        """Every point from where it leaves the one before it; the first from the base."""
        self._places.encode(points)
        stations, before = self.stations, self.space.original
        stations.load(base.records)
        with stations.installed() as model, torch.no_grad():
            stations.put({p.name: first(p) for p in self._places.all})
            for i, point in enumerate(points):
                rank = self.tree.fork(before, point)
                if rank == len(self.tree.order):
                    each(i, base.output)
                    continue
                start, module = self.tree.starts[rank], put(i)
                stations.put({p.name: module(p) for p in self._places.all if p.start >= start})
                stations.seek(start)
                each(i, stations.run(model, base.inputs))
                before = point

    def _not_finite(self, point: Point, inputs: Inputs) -> str:
        """Which module of the point that stands in the stations is the first not to be finite."""
        self.stations.from_start()
        found = probe.outputs(self.bank.skeleton, self.task.forward, inputs)
        bad = [n for n, group in found.items() if not all(bool(t.isfinite().all()) for t in group)]
        labels = ", ".join(f"{s} {o.label}" for s, o in self.space.options(point).items())
        return (
            f"module {self.stations.plain_name(bad[0])!r} puts out values that are NaN or infinite "
            f"under the plan {labels}: it can't be measured; exclude the option that does this"
        )
