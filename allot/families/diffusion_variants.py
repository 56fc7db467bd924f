"""Variants: the distinct evaluations that a planned sampler's steps ask for, each as one module.

A variant leaves out some spans, whose results it is given, and tells those of others; everything
between steps (predictions, guidance, the way to the next level) stays outside.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.part import Part
from allot.sampling.nested import first_input, holes, hollow, refilled, tensors
from allot.sampling.sampler import Sampler, Step
from allot.sampling.spans import RESIDUAL, Span

OUTPUT, GIVEN, TOLD = "output", "given", "told"


@dataclass(frozen=True, kw_only=True)
class Variant(Part):
    """given: spans that are left out and whose results are inputs.  gone: those that are left out
    without one.  told: those whose results later steps read.  bits: of tensors between layers,
    None for float."""

    given: tuple[Span, ...] = ()
    gone: tuple[Span, ...] = ()
    told: tuple[Span, ...] = ()
    bits: int | None = None


def variants(sampler: Sampler) -> dict[int, Variant]:
    """Index of every step that is taken -> its variant.

    Raises InputError for steps that decide sample by sample, or predict with what is no plain data:
    a file holds neither.
    """
    found: dict[int, Variant] = {}
    taken = [s for s in sampler.steps if isinstance(s, Step)]
    wanted: tuple[Span, ...] = ()
    for step in reversed(taken):
        _check(step)
        reuse = step.way.reuse
        given = tuple(s for s, p in reuse.items() if p.needs)
        gone = tuple(s for s, p in reuse.items() if not p.needs)
        told = tuple(s for s in wanted if s not in reuse and not _inside(s, reuse))
        found[step.index] = Variant(given=given, gone=gone, told=told, bits=step.way.bits)
        wanted = tuple(dict.fromkeys((*wanted, *given)))
    return dict(reversed(found.items()))


def _inside(span: Span, given: Iterable[Span]) -> bool:
    """Whether a span does not run where others are left out."""
    last = span.modules[-1]
    return any(last == m or last.startswith(f"{m}.") for s in given for m in s.modules)


def _check(step: Step) -> None:
    if step.way.when:
        raise InputError(
            f"step {step.index} decides sample by sample what it computes, which no file holds; "
            "plan it with a fixed reuse"
        )
    for span, predictor in step.way.reuse.items():
        if not isinstance(predictor, Part):
            raise InputError(
                f"step {step.index} predicts {span.name} by {predictor.label}, which has fitted "
                "tensors and no place in a plan's file; hold or taylor have one"
            )


class Tray:
    """What enters and leaves spans during one call, by (span, what)."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Any] = {}


class _Absent(nn.Module):
    """In the place of a module that is not computed: its weights belong to no file."""

    def __init__(self, inner: nn.Module, *, span: Span, name: str, tray: Tray, shape: Any) -> None:
        nn.Module.__init__(self)
        # out of sight of `modules()`, in sight of a network that looks at what its parts have
        self.__dict__["_inside"] = (inner, span, name, tray, shape)

    def __getattr__(self, name: str) -> Any:
        if name == "_inside":
            raise AttributeError(name)
        return getattr(self.__dict__["_inside"][0], name)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        _, span, name, tray, shape = self.__dict__["_inside"]
        x = first_input(inputs, named)
        if name == span.modules[0]:
            tray.held[span.name, "entered"] = x
        if name != span.modules[-1]:
            # what follows inside the span is absent too, and reads nothing of it
            return refilled(shape, chain([x], repeat(None)))
        entered = tray.held[span.name, "entered"]
        values = tray.held.get((span.name, GIVEN))
        if values is None:
            values = [torch.zeros_like(entered)]
        if span.keeps == RESIDUAL:
            values = [entered + v for v in values]
        return refilled(shape, iter(values))


class Evaluation(nn.Module):
    """One variant of a network as a plain module: x, time, conditions and given results to its
    output and the results that it tells.

    network: one that nobody else uses; it is changed.  shapes: what modules of spans return (see
    `shapes_of`).  names: inputs of the network.  counts: span -> how many tensors leave it.
    """

    def __init__(
        self,
        network: nn.Module,
        variant: Variant,
        *,
        shapes: Mapping[str, Any],
        names: Sequence[str],
    ) -> None:
        nn.Module.__init__(self)
        self.network, self.variant, self.tray = network, variant, Tray()
        self.counts = {
            s.name: holes(shapes[s.modules[-1]]) for s in (*variant.given, *variant.told)
        }
        for span in variant.told:
            self._listen(span)
        for span in (*variant.given, *variant.gone):
            for name in span.modules:
                self._leave_out(span, name, shapes[name])
        self.names = tuple(names)
        # the exporter reads the inputs off the forward's signature
        self.forward = MethodType(_signed(_evaluated, (*names, *self.given())), self)

    def given(self) -> tuple[str, ...]:
        """Names of the inputs with results of spans, in order."""
        return _entries(GIVEN, self.variant.given, self.counts)

    def told(self) -> tuple[str, ...]:
        """Names of the outputs with results of spans, in order."""
        return _entries(TOLD, self.variant.told, self.counts)

    def _listen(self, span: Span) -> None:
        held = self.tray.held

        def enter(m: nn.Module, args: Any, named: Any) -> None:
            held[span.name, "entered"] = first_input(args, named)

        def leave(m: nn.Module, args: Any, out: Any) -> None:
            values = tensors(out)
            if span.keeps == RESIDUAL:
                values = [v - held[span.name, "entered"] for v in values]
            held[span.name, TOLD] = values

        first = self.network.get_submodule(span.modules[0])
        first.register_forward_pre_hook(enter, with_kwargs=True)
        self.network.get_submodule(span.modules[-1]).register_forward_hook(leave)

    def _leave_out(self, span: Span, name: str, shape: Any) -> None:
        parent, _, child = name.rpartition(".")
        place = self.network.get_submodule(parent)
        inner = place._modules[child]
        assert inner is not None
        place._modules[child] = _Absent(inner, span=span, name=name, tray=self.tray, shape=shape)


def _evaluated(self: Evaluation, **inputs: Tensor) -> tuple[Tensor, ...]:
    held, variant = self.tray.held, self.variant
    at = 0
    given = self.given()
    for span in variant.given:
        n = self.counts[span.name]
        held[span.name, GIVEN] = [inputs[k] for k in given[at : at + n]]
        at += n
    try:
        output: Tensor = self.network(**{k: inputs[k] for k in self.names})
        told = [v for span in variant.told for v in held[span.name, TOLD]]
    finally:
        held.clear()
    return (output, *told)


def _signed(function: Any, names: Sequence[str]) -> Any:
    """The function under a signature with these names."""

    def forward(self: Evaluation, *args: Tensor, **inputs: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = function(self, **dict(zip(names, args, strict=False)), **inputs)
        return found

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(n, kind) for n in ("self", *names)]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return forward


def _entries(what: str, spans: Sequence[Span], counts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"{what}_{i}_{j}" for i, s in enumerate(spans) for j in range(counts[s.name]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """What spans give in one evaluation. shapes: module -> what it returns, tensors left out.
    values: span -> tensors, as they are kept."""

    shapes: Mapping[str, Any]
    values: Mapping[str, list[Tensor]]


def results_of(network: nn.Module, inputs: Mapping[str, Tensor], spans: Sequence[Span]) -> Results:
    """What some spans of a network give for these inputs; the network is left as it was."""
    shapes: dict[str, Any] = {}
    entered: dict[str, Tensor] = {}
    left: dict[str, list[Tensor]] = {}
    handles = []
    for name in dict.fromkeys(m for s in spans for m in s.modules):

        def note(m: nn.Module, args: Any, named: Any, out: Any, name: str = name) -> None:
            shapes[name], left[name] = hollow(out), tensors(out)
            entered[name] = first_input(args, named)

        module = network.get_submodule(name)
        handles.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        with torch.no_grad():
            network(**inputs)
    finally:
        for h in handles:
            h.remove()
    values = {}
    for s in spans:
        values[s.name] = left[s.modules[-1]]
        if s.keeps == RESIDUAL:
            values[s.name] = [v - entered[s.modules[0]] for v in values[s.name]]
    return Results(shapes=shapes, values=values)
