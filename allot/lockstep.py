"""Lockstep: batches run through a network side by side, all to one step before any to the next.

A step looks at a tensor of every batch, then changes the module there.  As if all samples were one
batch, with no more in memory than one batch makes: what modules put out that is read again lies in
files, and everything before a step is replayed from them (see `allot.stations`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.reconstruct.held import Held
from allot.site import Graph
from allot.station import Record
from allot.stations import Stations
from allot.sweep import find, left_out, unwrapped
from allot.task import Inputs, Task

# of records in memory: one batch's, however large
_NO_BOUND = 2**62


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """Something that is done at the input ("in") or output ("out") of a module called once.

    see: looks at the tensor of a batch.  act: after all of them; what takes the module's place, or
    None where it stays, perhaps changed in place.
    """

    module: str
    role: str
    see: Callable[[Tensor], None]
    act: Callable[[], nn.Module | None]


class _Stop(Exception):
    """Ends a forward whose rest is not wanted."""

    def __init__(self, seen: Tensor) -> None:
        Exception.__init__(self)
        self.seen = seen


def lockstep(
    task: Task,
    bank: Bank,
    standins: Mapping[str, nn.Module],
    steps: Iterable[Step],
    *,
    batches: Sequence[Inputs],
) -> dict[str, nn.Module]:
    """Takes every step in execution order, on a network with these stand-ins.

    Returns what takes the place of modules then.  A module that a batch does not reach is not seen
    for it; no step is taken where none does.
    """
    lanes = _Lanes(task, bank, standins, _in_order(bank, steps), batches)
    with lanes.stations.installed() as model, torch.no_grad():
        lanes.stations.put(standins)
        for step in lanes.steps:
            if not left_out(model, step.module):
                lanes.take(model, step)
    return lanes.found


def once(graph: Graph, modules: Iterable[str]) -> bool:
    """Whether every one of the modules is called once, as those of steps must be."""
    starts = [name for name, event in graph.order if event == "start"]
    return all(starts.count(name) == 1 for name in modules)


def _in_order(bank: Bank, steps: Iterable[Step]) -> list[Step]:
    at = {event: i for i, event in enumerate(bank.graph.order)}
    return sorted(steps, key=lambda s: at[s.module, "start" if s.role == "in" else "end"])


class _Lanes:
    """All batches with what was made of them.  reached: modules that ended before are replayed."""

    def __init__(
        self,
        task: Task,
        bank: Bank,
        standins: Mapping[str, nn.Module],
        steps: list[Step],
        batches: Sequence[Inputs],
    ) -> None:
        order = bank.graph.order
        self.steps, self.batches = steps, batches
        self.found: dict[str, nn.Module] = {}
        self.begin = {s.module: order.index((s.module, "start")) for s in steps}
        self.stopped = False
        self._forward, self.reached = task.forward, -1
        self._kept: dict[str, _Kept] = {}
        # of each batch, what stands for outputs whose values are not read
        self._shapes: list[dict[str, Record]] = [{} for _ in batches]
        self.stations = Stations(
            replace(task, forward=self._until),
            bank,
            starts=[*self.begin.values()],
            touched=list(dict.fromkeys((*standins, *self.begin))),
            most_bytes=_NO_BOUND,
        )

    def _until(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """The network's output, or what a step wants to see, where the forward ends there."""
        self.stopped = False
        try:
            return self._forward(model, inputs)
        except _Stop as s:
            self.stopped = True
            return s.seen

    def take(self, model: nn.Module, step: Step) -> None:
        """One step, on all batches."""
        begin, seen = self.begin[step.module], False
        with self._stopping(model, step):
            for i, batch in enumerate(self.batches):
                values = {n: k.get(i) for n, k in self._kept.items() if k.has(i)}
                self.stations.load({**self._shapes[i], **values})
                self.stations.seek(self.reached)
                x = self.stations.run(model, batch)
                if self.stopped:
                    seen = True
                    step.see(x)
                self._keep(i, self._live(begin))
        self.stations.load({})
        if not seen:
            return
        module = step.act()
        if module is not None:
            self.found[step.module] = module
            self.stations.put({step.module: module})
        # a changed module runs again, as it then is
        self.reached = begin
        live = self._live(begin)
        self._kept = {n: k for n, k in self._kept.items() if n in live}

    def _live(self, start: int) -> frozenset[str]:
        """Modules whose outputs are read from a moment on."""
        return next((b.live for b in self.stations.boundaries if b.start == start), frozenset())

    def _keep(self, i: int, names: Iterable[str]) -> None:
        """Takes over what a batch recorded: shapes of all, values of some."""
        for name, station in self.stations.by_name.items():
            if station.record is not None and name not in self._shapes[i]:
                self._shapes[i][name] = replace(station.record, tensor=None, saved=True)
        for name in names:
            record, kept = self.stations.by_name[name].record, self._kept.get(name)
            if record is None or not record.whole or (kept is not None and kept.has(i)):
                continue
            self._kept.setdefault(name, _Kept()).put(i, record)

    @contextmanager
    def _stopping(self, model: nn.Module, step: Step) -> Iterator[None]:
        """Forwards end at the step for a while."""
        module = unwrapped(find(model, step.module))

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args:  # called by keywords only: there is no first input to see
                raise _Stop(args[0])

        def leave(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            raise _Stop(output)

        if step.role == "in":
            handle = module.register_forward_pre_hook(enter)
        else:
            handle = module.register_forward_hook(leave)
        try:
            yield
        finally:
            handle.remove()


class _Kept:
    """What one module put out, by batch, in a file."""

    def __init__(self) -> None:
        self._held, self._at = Held[Record](), dict[int, int]()

    def has(self, i: int) -> bool:
        return i in self._at

    def put(self, i: int, record: Record) -> None:
        self._at[i] = len(self._held)
        self._held.append(record)

    def get(self, i: int) -> Record:
        return replace(self._held[self._at[i]], version=0, saved=True)
