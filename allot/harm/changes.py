"""Changes: the tensors that an option changes when all that comes before is the original's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.harm.tape import Arguments, Place, Tape
from allot.option import Option
from allot.options.narrow import positions
from allot.options.standins import OnGrid
from allot.recover import channel_dim
from allot.site import Site, Touch
from allot.sweep import rewrapped, unwrapped


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """One tensor that an option changes.

    at: where.  source: the recorded tensor from which it is made.  through: modules run on it in
    turn, the first with all that the original was called with.  takes, gives: (dim, positions)
    of the input that `through` still reads and of the output that it still has; None for all.
    gain, shift: correction of every channel (along `dim`) of the new tensor, [channels].  macs: of
    `through`, per sample.
    """

    at: Place
    source: Place
    through: tuple[nn.Module, ...]
    takes: tuple[int, Tensor] | None = None
    gives: tuple[int, Tensor] | None = None
    dim: int = 1
    gain: Tensor | None = None
    shift: Tensor | None = None
    macs: int = 0

    def made(self, tape: Tape, call: int) -> Tensor:
        """The new tensor before any correction: [n, ...]."""
        name, role = self.source
        x = cut(tape.values(self.source)[call], self.takes)
        alone = Arguments(args=(x,), named={})
        whole = role == "in" and not self.at_boundary
        given = tape.arguments[name][call].beginning(x) if whole else alone
        x = given.run(self.through[0])
        for module in self.through[1:]:
            x = Arguments(args=(x,), named={}).run(module)
        return x

    @property
    def at_boundary(self) -> bool:
        """Whether it is made by wrappers alone, around an identity."""
        return isinstance(unwrapped(self.through[0]), nn.Identity)

    def original(self, tape: Tape, call: int) -> Tensor:
        """What the new tensor is to be compared with: [n, ...]."""
        return cut(tape.values(self.at)[call], self.gives)

    def difference(self, tape: Tape, call: int) -> Tensor:
        """New minus original tensor: [n, ...]."""
        y = self.original(tape, call)
        new = self.made(tape, call)
        if self.gain is not None and self.shift is not None:
            new = new.transpose(self.dim, -1) * self.gain.to(new) + self.shift.to(new)
            new = new.transpose(self.dim, -1)
        return new - y


def cut(x: Tensor, part: tuple[int, Tensor] | None) -> Tensor:
    """The tensor at some positions of a dim."""
    return x if part is None else x.index_select(part[0], part[1].to(x.device))


def changes(bank: Bank, options: Mapping[str, Option]) -> tuple[Change, ...]:
    """Every tensor that the options (site -> option, of one choice) change.

    A weight or the width is seen at the layer's output, behind the batch norm where one follows
    alone; channels that leave count where they are read.  An activation's wrapper changes one
    module's input or output alone.
    """
    standins = bank.standins(options)
    sites = [bank.graph.site(s) for s, o in options.items() if not o.is_original]
    touches: dict[str, list[tuple[Touch, Site]]] = {}
    for site in sites:
        for touch in site.touches:
            touches.setdefault(touch.module, []).append((touch, site))
    norms = {x.norm: x.module for x in bank.graph.layers if x.norm}
    found: list[Change] = []
    for name, module in standins.items():
        if module is bank.module(name) or norms.get(name) in standins:
            continue
        if all(s.kind == "channels" and t.role != "in" for t, s in touches[name]):
            continue  # what stays is as it was; what leaves is missed where it is read
        wraps = unwrapped(module) is bank.module(name)
        if wraps and all(s.kind == "activation" for _, s in touches[name]):
            boundary = rewrapped(module, nn.Identity())
            places = [(name, t.role) for t, _ in touches[name]]
            found += [Change(at=p, source=p, through=(boundary,)) for p in places]
        else:
            found.append(_at_output(bank, name, module, standins))
    return tuple(found)


def _at_output(
    bank: Bank, name: str, module: nn.Module, standins: Mapping[str, nn.Module]
) -> Change:
    change = _behind(bank, name, module, standins)
    inner = unwrapped(module)
    inner = inner.inner if isinstance(inner, OnGrid) else inner
    if not isinstance(inner, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
        return change
    dim = -1 if isinstance(inner, nn.Linear) else 1
    takes, gives = (
        (dim, torch.tensor(here)) if here != positions(bank.module(name), side) else None
        for side, here in ((s, positions(inner, s)) for s in ("in", "out"))
    )
    return replace(change, takes=takes, gives=gives)


def _behind(bank: Bank, name: str, module: nn.Module, standins: Mapping[str, nn.Module]) -> Change:
    """The change at the module's output, or at that of the batch norm that follows alone."""
    inside = [x for x in bank.graph.layers if x.module == name or x.module.startswith(f"{name}.")]
    norm = next((x.norm for x in inside if x.module == name), "")
    computes = any(True for _ in module.parameters())
    return Change(
        at=(norm or name, "out"),
        source=(name, "in"),
        through=(module, standins.get(norm, bank.module(norm))) if norm else (module,),
        dim=channel_dim(bank.graph, norm or name),
        macs=sum(x.macs for x in inside) if computes else 0,
    )
