"""Passing: a network's modules swapped for one evaluation, so that spans pass as they are to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

from torch import nn

from allot.errors import ModelError
from allot.options.standins import inner_attribute
from allot.sampling.nested import first_input, hollow, refilled, some_rows
from allot.sampling.passage import Passage
from allot.sampling.probes import watched


class _Link(nn.Module):
    """Stands in for a module of a span; a network may look at what that one has."""

    def __init__(self, inner: nn.Module, *, name: str, passage: Passage) -> None:
        nn.Module.__init__(self)
        self.inner, self.name, self.passage = inner, name, passage

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        p = self.passage
        x = first_input(inputs, named)
        if self.name == p.span.modules[0]:
            p.enter(x, lambda: self.inner(*inputs, **named))
        last = self.name == p.span.modules[-1]
        if p.rows is not None and not len(p.rows):
            shapes, values = p.hollow, iter(p.predicted(None)) if last else chain([x], repeat(None))
            # others read from further results only inside the span, which does not run
            return refilled(shapes[self.name], values) if self.name in shapes else next(values)
        if p.rows is not None:
            inputs = some_rows(inputs, p.rows, len(p.x))
            mine = {k: v for k, v in named.items() if k not in p.span.shared}
            named = {**named, **some_rows(mine, p.rows, len(p.x))}
        out = self.inner(*inputs, **named)
        p.history.hollow[self.name] = hollow(out)
        return p.leave(out) if last else out


@contextmanager
def passed(network: nn.Module, passages: Sequence[Passage]) -> Iterator[None]:
    """The network with spans that pass as their passages say; restored by identity at the end.

    A span that begins or ends inside one that is left out is not kept: what it gave before stays.
    Raises ModelError for a span of which single samples are computed inside another such one.
    """
    passages = [p for p in passages if not _idle(p, passages)]
    _check(passages)
    # found before any is swapped: a stand-in has no children of its own
    places = [(p, m, *_place(network, m)) for p in passages for m in p.span.modules]
    triggers = [t for p in passages for t in (*p.watching, p.trigger) if t is not None]
    done: list[tuple[nn.Module, str, nn.Module]] = []
    with watched(network, [t.probe for t in triggers if t.probe is not None]) as watch:
        try:
            for passage, name, parent, child in places:
                passage.watch = watch
                inner = parent._modules[child]
                assert inner is not None
                done.append((parent, child, inner))
                parent._modules[child] = _Link(inner, name=name, passage=passage)
            yield
        finally:
            for parent, child, module in reversed(done):
                parent._modules[child] = module


def _idle(passage: Passage, passages: Sequence[Passage]) -> bool:
    """Whether a span would only be kept, and where it begins or ends lies in one left out."""
    if passage.predictor is not None:
        return False
    left = [m for p in passages if p.predictor is not None for m in p.span.modules]
    ends = (passage.span.modules[0], passage.span.modules[-1])
    return any(_inside(m, o) for m in ends for o in left)


def _inside(module: str, outer: str) -> bool:
    return module == outer or module.startswith(f"{outer}.")


def _place(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, child = name.rpartition(".")
    return network.get_submodule(parent), child


def _check(passages: Sequence[Passage]) -> None:
    gated = [p.span for p in passages if p.trigger is not None]
    for outer in gated:
        for inner in (p.span for p in passages if p.span is not outer):
            if any(_inside(m, o) for m in inner.modules for o in outer.modules):
                raise ModelError(
                    f"span {inner.name} lies inside {outer.name}, which is decided on sample by "
                    "sample; let one step reuse one of the two"
                )
