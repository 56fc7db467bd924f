"""Tracking: one run of a network under watch tells its spaces of channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from allot.provenance import tensors
from allot.rewrites import passing
from allot.rewrites.layers import copied
from allot.rewrites.nodes import Nodes
from allot.rewrites.norms import norm_kind
from allot.rewrites.passing import CHANGES, Passed, Tracked
from allot.rewrites.spaces import Reader, Space
from allot.task import Task

_ADDS, _PRODUCTS = {"add", "add_", "sub", "sub_"}, {"mul", "mul_", "div", "div_"}
# scales by positive numbers pass
_RECTIFIERS = {"relu", "relu_", "leaky_relu", "leaky_relu_"}


def spaces(task: Task) -> tuple[Space, ...]:
    """Every space of channels that linears, convolutions, embeddings, norms or parameters write.

    From one run of a copy of `task.model` on calibration inputs; in order of their first writer.
    Sums of tensors, views, means over tokens and, for scales only, products and attention's sums
    over tokens lie inside a space; any other op bars what does not pass it.
    """
    model = copied(task)
    watch, handles = _Watch(model), []
    try:
        for name, module in model.named_modules():
            if name in watch.nodes.kinds:
                before = watch.before(name)
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                handles.append(module.register_forward_hook(watch.after(name)))
        with torch.no_grad(), watch:
            output = task.forward(model, task.example())
    finally:
        for handle in handles:
            handle.remove()
    for t in tensors(output):
        watch.bar(t, "it is an output of the network")
    return watch.nodes.spaces()


def _kinds(model: nn.Module) -> dict[str, str]:
    """Modules taken as wholes, by name."""
    exact = {nn.Linear: "linear", nn.Conv2d: "conv", nn.Embedding: "embedding"}
    found = {n: exact.get(type(m)) or norm_kind(m) for n, m in model.named_modules()}
    return {n: k for n, k in found.items() if k}


class _Watch(TorchDispatchMode):
    """Follows channels through every op outside the modules taken as wholes."""

    def __init__(self, model: nn.Module) -> None:
        TorchDispatchMode.__init__(self)
        self.nodes, self.inside = Nodes(kinds=_kinds(model)), 0
        self.parameters = {id(p): n for n, p in model.named_parameters()}
        self.tracked: dict[int, Tracked] = {}
        self.alive: list[Tensor] = []  # an id is only a name while the tensor lives

    def known(self, t: Tensor) -> Tracked | None:
        if id(t) not in self.tracked and id(t) in self.parameters and t.dim():
            name, size = self.parameters[id(t)], t.shape[-1]
            ids = torch.arange(size).expand(t.shape)
            self.set(t, Tracked(node=self.nodes.of(name, "parameter", size), ids=ids, source=name))
        return self.tracked.get(id(t))

    def set(self, t: Tensor, found: Tracked | None) -> None:
        self.alive.append(t)
        self.tracked.pop(id(t), None)
        if found is not None:
            self.tracked[id(t)] = found

    def bar(self, t: Tensor, why: str, changes: tuple[str, ...] = CHANGES) -> None:
        found = self.known(t)
        if found is not None:
            self.nodes.bar(found.node, why, changes)

    # modules as wholes

    def before(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [] if self.inside else tensors((args, kwargs))
            if given and self.known(given[0]) is not None:
                self._read(name, self.nodes.kinds[name], given[0])
            self.inside += 1

        return hook

    def _read(self, name: str, kind: str, x: Tensor) -> None:
        found = self.known(x)
        assert found is not None
        index = found.last()
        if index is None or kind in ("conv", "embedding"):
            self.bar(x, f"{name} reads it along another dim")
        elif kind == "linear":
            width = self.nodes.size[found.node]
            reader = Reader(name=name, index=index, width=width, source=found.source)
            self.nodes.read(found.node, reader)
        else:
            whole = index == tuple(range(self.nodes.size[found.node]))
            self.nodes.normed(found.node, name, whole=whole)

    def after(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> None:
            self.inside -= 1
            if self.inside:
                return
            dim = y.dim() - 3 if self.nodes.kinds[name] == "conv" else y.dim() - 1
            size = y.shape[dim]
            ids = torch.arange(size).view(-1, *[1] * (y.dim() - 1 - dim)).expand(y.shape)
            self.set(y, Tracked(node=self.nodes.of(name, "out", size), ids=ids, source=name))

        return hook

    # single ops

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if self.inside or name in passing.QUIET:
            return out
        given = [t for t in tensors((args, kwargs)) if self.known(t) is not None]
        if not given:
            return out
        first = next(iter(tensors(out)), None)
        found = None if first is None else self._passed(name, args, kwargs, given, first)
        for t in given:
            changes = CHANGES if found is None else found.barred
            self.bar(t, f"it meets {name!r}", changes)
        if first is not None:
            self.set(first, None if found is None else found.out)
        return out

    def _passed(
        self, name: str, args: tuple[Any, ...], kwargs: Any, given: list[Tensor], out: Tensor
    ) -> Passed | None:
        if name == "cat":
            return self._joined(args, given)
        if name in _ADDS:
            return self._added(given)
        if name in _PRODUCTS:
            return self._multiplied(name, args, given, out)
        at = passing.weighted_at(name)
        if at:
            return self._weighted(args, at, given, out)
        if len(given) > 1:
            return None
        found = self.known(given[0])
        assert found is not None
        if name in _RECTIFIERS:
            return Passed(out=found, barred=("rotate", "shift"))
        same = passing.moved(name, found, args, kwargs)
        return Passed(out=same) if same else None

    def _weighted(
        self, args: tuple[Any, ...], at: int, given: list[Tensor], out: Tensor
    ) -> Passed | None:
        """Attention's values pass; what its weights are made of does not."""
        found = self.known(args[at])
        twice = sum(t is args[at] for t in args) > 1
        if found is None or twice:
            return None
        for t in given:
            if t is not args[at]:
                self.bar(t, "attention weighs with it")
        return passing.weighted(found, args[at], out)

    def _joined(self, args: tuple[Any, ...], given: list[Tensor]) -> Passed | None:
        every = [p for t in args[0] if (p := self.known(t)) is not None]
        if len(every) != len(args[0]):
            return None
        ids = passing.joined(every, args[1] if len(args) > 1 else 0)
        return None if ids is None else self._united(every, ids)

    def _added(self, given: list[Tensor]) -> Passed | None:
        if len(given) != 2:
            return None
        a, b = (self.known(t) for t in given)
        assert a is not None and b is not None
        ids = passing.added(a, b)
        if ids is None:
            return None
        # two shifts add up, also those of one writer
        return replace(self._united([a, b], ids), barred=("shift",))

    def _united(self, parts: list[Tracked], ids: Tensor) -> Passed:
        for p in parts[1:]:
            self.nodes.unite(parts[0].node, p.node)
        sources = {p.source for p in parts}
        source = sources.pop() if len(sources) == 1 else ""
        return Passed(out=Tracked(node=parts[0].node, ids=ids, source=source))

    def _multiplied(
        self, name: str, args: tuple[Any, ...], given: list[Tensor], out: Tensor
    ) -> Passed | None:
        """A parameter that multiplies is no part of a space; neither is what divides."""
        writers = [t for t in given if id(t) not in self.parameters]
        if len(writers) != 1 or (name.startswith("div") and args[0] is not writers[0]):
            return None
        others = [t for t in args if isinstance(t, Tensor) and t is not writers[0]]
        found = self.known(writers[0])
        assert found is not None
        return passing.multiplied(found, others[0] if others else None, out)
