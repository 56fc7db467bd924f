"""Stations: all of a network, and what they replay from each boundary on.

A replay stands for a plain run as long as modules run in the order of the watched one.  Where a
network shows that it decides by values that were ghosts, or runs its modules in another order,
less is replayed from then on: real values alone, then nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.dataflow import watched
from allot.station import Now, Record, Station
from allot.task import Inputs, Task
from allot.trie import first_starts

# what code may raise that meets tensors of another kind or values than it was written for
_ODD = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError,
    ArithmeticError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """start: the moment from which all is run. live: stations whose values are read then."""

    start: int
    live: frozenset[str]


class Stations:
    """The stations of one network, and what may be replayed before each boundary.

    starts: boundaries that will be asked for.  touched: modules that stand-ins may replace.
    most_bytes: of records held at a time, apart from the saved ones.
    """

    def __init__(
        self,
        task: Task,
        bank: Bank,
        *,
        starts: Sequence[int],
        touched: Collection[str],
        most_bytes: int,
    ) -> None:
        self.task, self.bank, self.most_bytes = task, bank, most_bytes
        self.now = Now(left=most_bytes)
        self.flow = watched(bank.skeleton, task.forward, task.example())
        begun, order = first_starts(bank.graph.order), enumerate(bank.graph.order)
        # each of them is called once
        ends = {n: i for i, (n, event) in order if event == "end" and n in self.flow.replayable}
        self.by_name: dict[str, Station] = {
            n: Station(
                n, bank.module(n), now=self.now, begin=begun.get(n, -1), end=ends.get(n, math.inf)
            )
            for n in dict.fromkeys((*ends, *touched))
        }
        for name in set(ends) - self.flow.calm:
            self.by_name[name].copied = True
        self._bound({s: self.flow.read(self._ended(s), touched) for s in sorted(set(starts))})
        self._try()

    def _ended(self, start: int) -> frozenset[str]:
        return frozenset(n for n, s in self.by_name.items() if s.end < start)

    def _bound(self, live: Mapping[int, frozenset[str]]) -> None:
        """Boundaries at these starts, with the stations whose values are read there."""
        self.boundaries = [Boundary(start=s, live=names) for s, names in live.items()]
        needed = frozenset().union(*live.values())
        for name, station in self.by_name.items():
            station.needed = name in needed

    def _try(self) -> None:
        """Replays the example from every boundary; less where the output is not the plain one."""
        example = self.task.example()
        with self.installed() as model, torch.no_grad():
            self.from_start()
            plain = self.run(model, example)
            for b in tuple(self.boundaries):
                self.seek(b.start)
                while not torch.equal(self.run(model, example), plain) and self.boundaries:
                    self._replay_less()
                    self.seek(b.start)
        self.load({})

    def run(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """What the installed network puts out, from where was sought last.

        Where that fails it is run from the start, and less is replayed from then on.
        """
        replays = self.now.start >= 0
        try:
            output = self.task.forward(model, inputs)
        except _ODD:
            if not replays:
                raise
        else:
            if not (self.now.strayed or output.is_meta):
                return output
            if not replays:
                self._replay_less()
                return output
        self._replay_less()
        self.from_start()
        return self.run(model, inputs)

    def _replay_less(self) -> None:
        """Values alone after ghosts; nothing after values, or where modules ran out of order."""
        again = self.now.ghosts and not self.now.strayed
        self.now.ghosts = False
        # what ran on wrong values recorded them
        for station in self.by_name.values():
            station.forget()
        starts = [b.start for b in self.boundaries] if again else []
        self._bound({s: self.flow.reached(self._ended(s)) for s in starts})

    @contextmanager
    def installed(self) -> Iterator[nn.Module]:
        """The skeleton with every station in place."""
        with self.bank.trial(self.by_name) as model:
            yield model

    def put(self, modules: Mapping[str, nn.Module]) -> None:
        """Switches what runs at some stations."""
        for name, module in modules.items():
            self.by_name[name].put(module)

    def plain_name(self, path: str) -> str:
        """The name of a module of the installed skeleton without the wrappers around it."""
        module, names = self.bank.skeleton, []
        for part in path.split("."):
            if not getattr(module, "is_wrapper", False):
                names.append(part)
            module = module._modules[part]  # type: ignore[assignment]
        return ".".join(names)

    def from_start(self) -> None:
        """Everything is run next."""
        self.now.start, self.now.live = -1.0, frozenset()
        self.now.latest, self.now.strayed = -1, False

    def seek(self, start: int) -> None:
        """What ended before `start` is replayed next; less where its records are not there."""
        self.from_start()
        for b in reversed(self.boundaries):
            if b.start <= start and all(self._held(n) for n in b.live):
                self.now.start, self.now.live = b.start, b.live
                return

    def _held(self, name: str) -> bool:
        record = self.by_name[name].record
        return record is not None and record.whole

    def save(self, most_bytes: int) -> dict[str, Record]:
        """All records, values up to `most_bytes`; they stay as they are whatever runs next."""
        found = {n: s.record for n, s in self.by_name.items() if s.record is not None}
        for record in found.values():
            record.saved = True
            if record.tensor is not None:
                most_bytes -= record.tensor.nbytes
                if most_bytes < 0:
                    record.tensor = None
        return found

    def load(self, records: Mapping[str, Record]) -> None:
        """Puts saved records back; they do not count as held."""
        for name, station in self.by_name.items():
            station.record = records.get(name)
        self.now.left = self.most_bytes
