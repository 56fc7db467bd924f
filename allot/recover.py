"""Recover: repair a planned network on calibration data, in execution order, in one pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.lockstep import Step, lockstep, once
from allot.moments import Correction as Correction
from allot.moments import Moments as Moments
from allot.moments import Share, changed, pooled
from allot.moments import affine as affine
from allot.moments import channel_dim as channel_dim
from allot.moments import channel_moments as channel_moments
from allot.moments import corrected as corrected
from allot.moments import correction as correction
from allot.moments import matchable as matchable
from allot.moments import matched as matched
from allot.moments import moments as moments
from allot.option import Option
from allot.options.formatted import Formatted
from allot.options.precision import Weight
from allot.options.standins import OnGrid
from allot.options.statistics import gram_of
from allot.options.width import kept_positions
from allot.part import Part
from allot.reconstruct.held import Batches
from allot.site import Graph, Layer
from allot.sweep import Observer, observed, rewrapped, unwrapped
from allot.task import Inputs, Task, take

# more samples than these are rounded for in batches of so many
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Recovery(Part):
    """What repairs a planned network.

    samples: calibration inputs it sees, as if they were one batch.  matched: shift and scale every
    normalized or biased layer so that mean and variance of its output equal the original's on the
    same inputs (after Nagel et al. 2019 and Sun et al. 2019; matching to the original instead of
    re-estimating is ours).  in_order: round every weight again, in execution order, for the
    inputs that the already repaired network gives it (Frantar et al. 2022).  learning: how codes
    are then learned (an `allot.reconstruct.learning.Learning`), or None.
    """

    samples: int = 256
    matched: bool = True
    in_order: bool = False
    learning: Part | None = None

    @property
    def together(self) -> bool:
        """Whether codes depend on the options around them, not on statistics alone."""
        return self.in_order or self.learning is not None

    @property
    def name(self) -> str:
        """Short name for plans and reports."""
        steps = ["rounded in order"] if self.in_order else []
        steps += [f"matched on {self.samples}"] if self.matched else []
        steps += ["reconstructed"] if self.learning is not None else []
        return ", ".join(steps) or "no recovery"


LIGHT = Recovery(samples=128)
STEADY = Recovery(samples=512)
STRONG = Recovery(samples=1024, in_order=True)
BY_NAME = {r.name: r for r in (LIGHT, STEADY, STRONG)}


def recovered(
    bank: Bank,
    task: Task,
    options: Mapping[str, Option],
    *,
    recovery: Recovery,
    original: Moments,
    known: Mapping[str, nn.Module] | None = None,
    batch: int = BATCH,
) -> dict[str, nn.Module]:
    """Stand-ins of a plan after recovery; the bank's own encodings are left as they are.

    original: `moments` of the original on the same samples.  A plan that changes nothing, and
    everything before a plan's first change, stays exactly as it was.  Rounding in order takes
    `batch` samples at a time, as if all were one batch.  known: what this gives for modules of the
    plan's beginning, where it was made before.
    """
    done = known or {}
    standins = {**bank.standins(options), **done}
    if not standins:
        return {}
    steps = [*_roundings(bank, options, standins, done)] if recovery.in_order else []
    if recovery.matched:
        matches = _matchings(bank, options, standins, original)
        steps += [s for s in matches if s.module not in done]
    if not steps:
        return standins
    samples = min(recovery.samples, len(task.calibrate))
    if recovery.in_order and once(bank.graph, (s.module for s in steps)):
        batches = Batches(task.calibrate.inputs, torch.arange(samples).split(batch))
        found = lockstep(task, bank, standins, steps, batches=batches)
    else:
        # to match alone, one run with all samples is quickest
        inputs = take(task.calibrate.inputs, slice(0, samples))
        found = _at_once(task, bank, standins, steps, inputs)
    return {**standins, **found}


@dataclass(frozen=True, kw_only=True, eq=False)
class Acting(Step):
    """changed: what the changed module gives where it gave a tensor, None for the same."""

    changed: Callable[[Tensor], Tensor | None]


def _at_once(
    task: Task,
    bank: Bank,
    standins: Mapping[str, nn.Module],
    steps: Iterable[Acting],
    inputs: Inputs,
) -> dict[str, nn.Module]:
    """What steps put in place of modules, from one run with all samples in one batch."""
    found: dict[str, nn.Module] = {}

    def observer(step: Acting) -> Observer:
        def observe(x: Tensor) -> Tensor | None:
            step.see(x)
            module = step.act()
            if module is not None:
                found[step.module] = module
            return step.changed(x)

        return observe

    observers = {(s.module, s.role): [observer(s)] for s in steps}
    with bank.trial(standins) as model, observed(model, observers), torch.no_grad():
        task.forward(model, inputs)
    return found


def _roundings(
    bank: Bank,
    options: Mapping[str, Option],
    standins: dict[str, nn.Module],
    done: Collection[str],
) -> Iterator[Acting]:
    """What rounds every layer again that is not done; their stand-ins become copies (in place)."""
    todo = [n for n, m in standins.items() if isinstance(unwrapped(m), OnGrid) and n not in done]
    for name in todo:
        option = options[f"{name}.weight"]
        if not isinstance(option, Weight | Formatted):
            continue  # its codes are not rounded by a scale and inputs: the bank's stay
        standins[name] = rewrapped(standins[name], copy.deepcopy(unwrapped(standins[name])))
        layer, plain = unwrapped(standins[name]), bank.unrounded(name, options)
        assert isinstance(layer, OnGrid)
        yield _rounding(bank.graph.layer(name), layer, plain, option)


def _rounding(site: Layer, layer: OnGrid, plain: nn.Module, option: Weight | Formatted) -> Acting:
    """Rounds a layer's float weights again for the inputs that arrive, before it sees them."""
    statistic, grams = gram_of(site), list[Tensor]()
    if isinstance(layer.inner, nn.Conv2d):
        # a narrowed depthwise layer has fewer groups than the original
        statistic = replace(statistic, groups=layer.inner.groups)

    def see(x: Tensor) -> None:
        grams[:] = [statistic.update(grams[0] if grams else None, x)]

    def act() -> None:
        layer.become_(option.encoded(plain, gram=grams.pop()))

    return Acting(module=site.module, role="in", see=see, act=act, changed=lambda x: None)


def _matchings(
    bank: Bank, options: Mapping[str, Option], standins: Mapping[str, nn.Module], original: Moments
) -> Iterator[Acting]:
    """What corrects modules at and after the first change to the original's moments."""
    for name in _after_change(bank.graph, set(standins)):
        kept = kept_positions(name, options, graph=bank.graph, stats=bank.stats)
        goal = (original[name][0][kept], original[name][1][kept])
        module = standins.get(name, bank.module(name))
        yield _matching(name, module, goal, channel_dim(bank.graph, name))


def _matching(name: str, module: nn.Module, goal: tuple[Tensor, Tensor], dim: int) -> Acting:
    """Corrects a module's output to a goal, for all that comes after it."""
    parts: list[Share] = []

    def see(x: Tensor) -> None:
        parts.append((x.numel(), *channel_moments(x, dim)))

    def by() -> Correction:
        return correction(pooled(parts), goal)

    return Acting(
        module=name, role="out", see=see, act=lambda: corrected(module, by()),
        changed=lambda y: changed(y, by(), dim),
    )  # fmt: skip


def _after_change(graph: Graph, touched: set[str]) -> list[str]:
    """Matchable modules that run at or after the first touched one."""
    names = [name for name, event in graph.order if event == "start"]
    first = min(i for i, name in enumerate(names) if name in touched)
    later = set(names[first:])
    return [name for name in matchable(graph) if name in later]
