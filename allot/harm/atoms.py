"""Atoms: options run through the whole network, each alone, and felt at the outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.harm.walk import Directions
from allot.option import Option
from allot.recover import Moments, Recovery, moments, recovered
from allot.scene import Scene
from allot.task import Data, take


@dataclass(frozen=True, kw_only=True, eq=False)
class Atom:
    """What one option does to the outputs on all data: rows [samples * draws] as in the vectors of
    `fisher`, and its measured divergence [nats]."""

    rows: Tensor
    harm: float


def repair(name: str) -> Recovery:
    """The recovery of a name, as `Recovery.name` gives it."""
    found = re.search(r"matched on (\d+)", name)
    return Recovery(
        samples=int(found[1]) if found else 0,
        matched=found is not None,
        in_order="rounded in order" in name,
    )


def atoms(
    scene: Scene,
    wanted: Mapping[int, Mapping[str, Option]],
    *,
    data: Data,
    directions: Directions,
    batch: int,
) -> dict[int, Atom]:
    """Column -> atom, for options given as site -> option, after the evaluator's recovery.

    The change is the one at the outputs, so nothing is left out; scaled so that half its mean
    square is the measured divergence, which a square overstates where an option destroys much.
    """
    if not wanted:
        return {}
    recovery = repair(scene.evaluator.recovery)
    task, bank = scene.task, scene.bank
    original: Moments = {}
    if recovery.matched:
        original = moments(task, bank.skeleton, bank.graph, samples=recovery.samples)
    standins = {
        k: recovered(bank, task, o, recovery=recovery, original=original) for k, o in wanted.items()
    }
    # rounding in order takes three passes, matching one
    runs = recovery.samples * (3 if recovery.in_order else int(recovery.matched))
    seen = runs * (len(wanted) + 1) / len(scene.data)
    scene.evaluator.charge(seen + (len(wanted) + 1) * len(data) / len(scene.data))
    return _run(scene, standins, data=data, directions=directions, batch=batch)


def _run(
    scene: Scene,
    standins: Mapping[int, Mapping[str, nn.Module]],
    *,
    data: Data,
    directions: Directions,
    batch: int,
) -> dict[int, Atom]:
    task, bank = scene.task, scene.bank
    rows: dict[int, list[Tensor]] = {k: [] for k in standins}
    harms: dict[int, list[Tensor]] = {k: [] for k in standins}
    for start in range(0, len(data), batch):
        part = slice(start, min(start + batch, len(data)))
        inputs = take(data.inputs, part)
        with torch.no_grad():
            before = task.forward(bank.skeleton, inputs)
            along = directions(before, part)
            for k, group in standins.items():
                with bank.trial(group) as model:
                    after = task.forward(model, inputs)
                change = (along * (after - before).to(along)).flatten(2).sum(2)
                rows[k].append(change.T.reshape(-1))
                harms[k].append(task.divergence(before, after))
    return {k: _scaled(torch.cat(rows[k]), torch.cat(harms[k])) for k in standins}


def _scaled(rows: Tensor, harms: Tensor) -> Atom:
    harm, half = float(harms.double().mean()), float(0.5 * rows.square().mean())
    scale = (harm / half) ** 0.5 if half > 0 else 1.0
    return Atom(rows=rows * scale, harm=harm)
