"""Reconstruct: all units of a planned network learned in execution order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.option import Option
from allot.options.standins import OnGrid
from allot.options.width import kept_positions
from allot.reconstruct.learn import learned, loss_of
from allot.reconstruct.opened import opened, variables
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.streams import Standins, calls, run
from allot.reconstruct.units import Unit, inside
from allot.reconstruct.work import Source, Work, source, work
from allot.recover import (
    Moments,
    channel_dim,
    channel_moments,
    corrected,
    correction,
    matchable,
)
from allot.sweep import Observer, left_out, observed, unwrapped
from allot.task import Task

# fewer samples than this are fitted with their noise
_FEW = 16


def reconstructed(
    bank: Bank,
    task: Task,
    options: Mapping[str, Option],
    *,
    standins: Standins | None = None,
    setting: Reconstruction | None = None,
    original: Moments | None = None,
    seed: int = 0,
    known: Collection[str] = (),
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, nn.Module]:
    """Stand-ins of a plan with codes (steps, biases) learned unit by unit, in execution order.

    standins: what is started from, the bank's own where not given; they are left as they are.
    original: `moments` of the original on the setting's samples; with them every unit's statistics
    are matched to it again once its codes are found.  What is found for a unit stays only where its
    loss on the calibration data, all quantizers on, is not above that of what it started from.  The
    same seed gives the same result.  known: modules in whose stand-ins nothing is left to learn.

    Beyond the bank and the network, memory holds the stand-ins that were learned (at most the
    network once more), the variables of one unit, and what one batch makes of it; what enters and
    leaves the unit lies in temporary files.

    Raises InputError for unknown units, and for one where the plan leaves out channels or tokens
    that the original has at its border.  Warns of fewer than 16 samples.
    """
    setting = Reconstruction() if setting is None else setting
    overlay = dict(bank.standins(options) if standins is None else standins)
    _warn(min(setting.samples, len(task.calibrate)))
    units = setting.unit.of(bank.graph)
    given = source(bank, task, setting, seed=seed)
    for i, unit in enumerate(units):
        if {*inside(bank.graph, unit)} & {*known}:
            continue
        # of its own, so that a unit is learned alike wherever learning starts
        generator = torch.Generator().manual_seed(seed * len(units) + i)
        soft = softened(given, options, unit, overlay, generator)
        if variables(soft.values(), setting):
            overlay |= _better(given, options, unit, overlay, soft, original, generator)
        progress((i + 1) / len(units))
    return overlay


def _warn(samples: int) -> None:
    if samples < _FEW:
        warnings.warn(
            f"codes are learned on few calibration samples ({samples}): they will fit what is "
            "particular to these; 256 or more are usual",
            stacklevel=3,
        )


def softened(
    given: Source,
    options: Mapping[str, Option],
    unit: Unit,
    overlay: Standins,
    generator: torch.Generator,
) -> dict[str, nn.Module]:
    """Modules of a unit with variables, where there is something to be learned."""
    bank, found = given.bank, dict[str, nn.Module]()
    with bank.trial(overlay) as model:
        names = [n for n in inside(bank.graph, unit) if not left_out(model, n)]
    for name in names:
        module = overlay.get(name, bank.module(name))
        w: Tensor | None = None
        if isinstance(unwrapped(module), OnGrid):
            layer = unwrapped(bank.unrounded(name, options))
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            w = layer.weight
        new = opened(module, w, setting=given.setting, generator=generator)
        found |= {} if new is module else {name: new}
    return found


def _better(
    given: Source,
    options: Mapping[str, Option],
    unit: Unit,
    overlay: Standins,
    soft: Standins,
    original: Moments | None,
    generator: torch.Generator,
) -> dict[str, nn.Module]:
    """The stand-ins of a unit that are better than those it has, or none."""
    doing = work(given, unit, overlay)
    start = loss_of(doing, overlay)
    if start <= 0:
        return {}
    candidates = [learned(doing, overlay, soft, start=start, generator=generator)]
    if original is not None:
        more = rematched(doing, options, {**overlay, **candidates[0]}, original)
        candidates.append({**candidates[0], **more})
    losses = [loss_of(doing, {**overlay, **c}) for c in candidates]
    least = min(losses)
    return candidates[losses.index(least)] if least <= start else {}


def rematched(
    doing: Work, options: Mapping[str, Option], standins: Standins, original: Moments
) -> dict[str, nn.Module]:
    """Modules of a unit whose outputs are shifted and scaled to the original's moments.

    As in `recovered`: in order, over all samples, nothing before the first change.  The unit alone
    runs, once for every such module, on what enters it.
    """
    graph, bank = doing.source.bank.graph, doing.source.bank
    names = list(dict.fromkeys(n for n, _ in graph.order))
    first = min(names.index(n) for n in standins)
    later = {*names[first:]} & {*inside(graph, doing.unit)}
    found: dict[str, nn.Module] = {}
    for name in (n for n in matchable(graph) if n in later):
        kept = kept_positions(name, options, graph=graph, stats=bank.stats)
        goal = (original[name][0][kept], original[name][1][kept])
        now = _moments(doing, {**standins, **found}, name)
        found[name] = corrected(standins.get(name, bank.module(name)), correction(now, goal))
    return found


def _moments(doing: Work, standins: Standins, name: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [channels] of a module's output over all calls of its unit."""
    given, unit = doing.source, doing.unit
    dim, seen = channel_dim(given.bank.graph, name), list[tuple[int, Tensor, Tensor]]()
    note: list[Observer] = [lambda y: seen.append((len(y), *channel_moments(y, dim)))]
    with given.bank.trial(standins) as model, torch.no_grad():
        # a loss of the network's output holds no calls of the unit
        entering = doing.calls or calls(given.task, model, unit, given.batches)
        for call in entering:
            with observed(model, {(name, "out"): note}):
                run(model, unit, call)
    shares = torch.tensor([n for n, _, _ in seen], dtype=torch.float64)
    shares = (shares / shares.sum())[:, None]
    means = torch.stack([mean for _, mean, _ in seen])
    deviations = torch.stack([deviation for _, _, deviation in seen])
    mean = (shares * means).sum(0)
    variance = (shares * (deviations.square() + (means - mean).square())).sum(0)
    return mean, variance.sqrt()
