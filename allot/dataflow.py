"""Dataflow: which modules may be replayed, and which replayed outputs are then really read.

One watched run says what every op read, made and wrote, by storage.  A replayed output that
nothing real reads may be a ghost: a tensor of the right shape without values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from allot.provenance import tensors

Storages = frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Step:
    """An op, or a module's start or end. inside: modules that are open around it.

    reads, makes, writes: storages.  module: whose boundary it is ("" for an op).  valued: an op
    that gives something else than tensors, so it needs the values.
    """

    inside: frozenset[str]
    reads: Storages = frozenset()
    makes: Storages = frozenset()
    writes: Storages = frozenset()
    module: str = ""
    valued: bool = False


@dataclass(kw_only=True)
class Dataflow:
    """A watched run. output: storages of what the network put out.

    replayable: modules that are called once, put out one tensor of their own, and change none of
    their inputs.  calm: those of them whose output nothing changes in place afterwards; it needs
    no copy.
    """

    steps: list[Step] = field(default_factory=list)
    output: Storages = frozenset()
    replayable: frozenset[str] = frozenset()
    calm: frozenset[str] = frozenset()

    def read(self, ended: Collection[str], touched: Collection[str]) -> frozenset[str]:
        """Replayed modules whose values are read when all of `ended` are replayed.

        touched: modules with a stand-in, whose boundaries may compute something.
        """
        steps = self._outside(ended)
        ghosts, run = set(ended), set(touched) - set(ended)
        while found := self._real(steps, ghosts, run):
            ghosts -= found
        return self.reached(ended) - ghosts

    def reached(self, ended: Collection[str]) -> frozenset[str]:
        """Replayed modules that are called when all of `ended` are: none inside another."""
        return frozenset(s.module for s in self._outside(ended) if s.module in ended)

    def _outside(self, ended: Collection[str]) -> list[Step]:
        return [s for s in self.steps if s.inside.isdisjoint(ended)]

    def _real(
        self, steps: list[Step], ghosts: Collection[str], touched: Collection[str]
    ) -> frozenset[str]:
        """Ghosts that meet something real; none where all of them may be ghosts."""
        tainted: dict[int, frozenset[str]] = {}
        for s in steps:
            if s.module and s.module in ghosts:
                tainted |= dict.fromkeys(s.makes, frozenset((s.module,)))
                continue
            sources = _sources(tainted, s.reads | (s.makes if s.module else frozenset()))
            if not sources:
                continue
            mixed = s.valued or any(r not in tainted for r in s.reads)
            if s.module in touched or (not s.module and mixed):
                return sources
            for made in s.makes if not s.module else ():
                tainted[made] = tainted.get(made, frozenset()) | sources
        return _sources(tainted, self.output)


def _sources(tainted: dict[int, frozenset[str]], storages: Storages) -> frozenset[str]:
    return frozenset().union(*(tainted.get(s, frozenset()) for s in storages))


def watched(model: nn.Module, forward: Callable[[nn.Module, Any], Any], example: Any) -> Dataflow:
    """The dataflow of `forward(model, example)`; leaves no trace in the model."""
    watch, handles = _Watch(), []
    single: set[str] = set()
    try:
        for name, module in model.named_modules():
            if not name:
                continue
            before, after = watch.hooks(name, single)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
        with torch.no_grad(), watch:
            output = forward(model, example)
    finally:
        for h in handles:
            h.remove()
    found = Dataflow(steps=watch.steps, output=watch.storages(output))
    calm: set[str] = set()
    found.replayable = frozenset(n for n in single if _replayable(found.steps, n, calm))
    found.calm = frozenset(calm)
    return found


def one_tensor(output: Any) -> bool:
    """Whether a module puts out a tensor, or a tuple that starts with its only one."""
    if isinstance(output, Tensor):
        return True
    first = isinstance(output, tuple) and bool(output) and isinstance(output[0], Tensor)
    return first and all(x is None for x in output[1:])


def _replayable(steps: list[Step], name: str, calm: set[str]) -> bool:
    at = [i for i, s in enumerate(steps) if s.module == name]
    if len(at) != 2:
        return False
    begin, end = (steps[i] for i in at)
    changed = frozenset().union(*(s.writes for s in steps[at[0] : at[1]]))
    if begin.reads & (changed | end.makes):
        return False
    if not any(s.writes & (begin.reads | end.makes) for s in steps[at[1] :]):
        calm.add(name)
    return True


class _Watch(TorchDispatchMode):
    """Writes down every op and every module boundary."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.steps: list[Step] = []
        self.open: list[str] = []
        self.alive: list[Tensor] = []

    def storages(self, tree: Any) -> Storages:
        found = tensors(tree)
        self.alive += found  # a storage's address is only a name while a tensor holds it
        return frozenset(t.untyped_storage()._cdata for t in found)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        written = [
            args[i] if i < len(args) else kwargs.get(a.name)
            for i, a in enumerate(func._schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        ]
        out = func(*args, **kwargs)
        self.steps.append(
            Step(
                inside=frozenset(self.open),
                reads=self.storages((args, kwargs)),
                makes=self.storages(out),
                writes=self.storages(written),
                valued=not tensors(out),
            )
        )
        return out

    def hooks(self, name: str, single: set[str]) -> tuple[Callable[..., None], Callable[..., None]]:
        """Hooks around a module; `single` gets its name where it puts out one tensor."""

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            reads = self.storages((args, kwargs))
            self.steps.append(Step(inside=frozenset(self.open), reads=reads, module=name))
            self.open.append(name)

        def after(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            self.open.pop()
            makes = self.storages(output)
            self.steps.append(Step(inside=frozenset(self.open), makes=makes, module=name))
            if one_tensor(output):
                single.add(name)

        return before, after
