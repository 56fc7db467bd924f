"""Reconstruct: all units of a planned network learned in execution order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.option import Option
from allot.options.standins import OnGrid
from allot.options.width import kept_positions
from allot.reconstruct.learn import learned, loss_of
from allot.reconstruct.opened import opened, variables
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.streams import Standins, calls
from allot.reconstruct.units import Unit, inside
from allot.reconstruct.work import Source, source, work
from allot.recover import Correction, Moments, channel_dim, corrected, matchable, matched
from allot.sweep import Observer, left_out, observed, unwrapped
from allot.task import Task, take

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
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, nn.Module]:
    """Stand-ins of a plan with codes (steps, biases) learned unit by unit, in execution order.

    standins: what is started from, the bank's own where not given; they are left as they are.
    original: `moments` of the original on the setting's samples; with them every unit's statistics
    are matched to it again once its codes are found.  What is found for a unit stays only where its
    loss on the calibration data, all quantizers on, is not above that of what it started from.  The
    same seed gives the same result.

    Beyond the bank and the network, memory holds the stand-ins that were learned (at most the
    network once more), the variables of one unit, and what enters and leaves one unit.

    Raises InputError for unknown units, and for one where the plan leaves out channels or tokens
    that the original has at its border.  Warns of fewer than 16 samples.
    """
    setting = Reconstruction() if setting is None else setting
    overlay = dict(bank.standins(options) if standins is None else standins)
    _warn(min(setting.samples, len(task.calibrate)))
    generator = torch.Generator().manual_seed(seed)
    units = setting.unit.of(bank.graph)
    given = source(bank, task, setting, seed=seed)
    for i, unit in enumerate(units):
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
        more = _matched(given, options, unit, {**overlay, **candidates[0]}, original)
        candidates.append({**candidates[0], **more})
    losses = [loss_of(doing, {**overlay, **c}) for c in candidates]
    least = min(losses)
    return candidates[losses.index(least)] if least <= start else {}


def _matched(
    given: Source,
    options: Mapping[str, Option],
    unit: Unit,
    standins: Standins,
    original: Moments,
) -> dict[str, nn.Module]:
    """Modules of a unit whose outputs are shifted and scaled to the original's moments.

    As in `recovered`: in order, on all samples as one batch, nothing before the first change.
    """
    bank, task = given.bank, given.task
    names = list(dict.fromkeys(n for n, _ in bank.graph.order))
    first = min(names.index(n) for n in standins)
    later = {*names[first:]} & {*inside(bank.graph, unit)}
    corrections: dict[str, Correction] = {}

    def matcher(name: str) -> Observer:
        kept = kept_positions(name, options, graph=bank.graph, stats=bank.stats)
        goal = (original[name][0][kept], original[name][1][kept])

        def observe(x: Tensor) -> Tensor:
            corrections[name], y = matched(x, goal, channel_dim(bank.graph, name))
            return y

        return observe

    matchers = {(n, "out"): [matcher(n)] for n in matchable(bank.graph) if n in later}
    samples = (take(task.calibrate.inputs, slice(0, given.setting.samples)),)
    with bank.trial(standins) as model, observed(model, matchers), torch.no_grad():
        for _ in calls(task, model, unit, samples):
            pass
    return {n: corrected(standins.get(n, bank.module(n)), c) for n, c in corrections.items()}
