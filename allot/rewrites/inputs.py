"""Inputs: what linears meet on calibration data, in extremes and in some tokens of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.rewrites.layers import BATCH, layer, units
from allot.sweep import observed
from allot.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Of a layer's input [..., k], float32 on the CPU.

    low, high, mean: least and largest value and mean magnitude per channel [k] over all tokens.
    rows: some of the tokens [m, k], evenly spread.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    rows: Tensor


def inputs(task: Task, model: nn.Module, names: Sequence[str], *, tokens: int) -> dict[str, Inputs]:
    """What some layers meet over all calibration inputs; about `tokens` rows of each are kept."""
    parts: dict[str, list[tuple[int, Inputs]]] = {n: [] for n in names}
    each = max(1, -(-tokens // -(-len(task.calibrate) // BATCH)))
    watch = {(n, "in"): [_observer(parts[n], each)] for n in parts}
    with torch.no_grad(), observed(model, watch):
        for batch in task.calibrate.batches(BATCH):
            task.forward(model, batch)
    return {n: _whole(found) for n, found in parts.items()}


def _observer(parts: list[tuple[int, Inputs]], tokens: int) -> Callable[[Tensor], None]:
    def observe(x: Tensor) -> None:
        rows = x.detach().float().cpu().reshape(-1, x.shape[-1])
        kept = rows[torch.linspace(0, len(rows) - 1, min(tokens, len(rows))).long()].clone()
        low, high = rows.amin(0), rows.amax(0)
        parts.append((len(rows), Inputs(low=low, high=high, mean=rows.abs().mean(0), rows=kept)))

    return observe


def _whole(parts: list[tuple[int, Inputs]]) -> Inputs:
    n = sum(count for count, _ in parts)
    return Inputs(
        low=torch.stack([p.low for _, p in parts]).amin(0),
        high=torch.stack([p.high for _, p in parts]).amax(0),
        mean=torch.stack([p.mean * (count / n) for count, p in parts]).sum(0),
        rows=torch.cat([p.rows for _, p in parts]),
    )


def linears(task: Task, model: nn.Module, names: Sequence[str] = ()) -> tuple[str, ...]:
    """The linears of these names; without names all that run, in order of their first call.

    Raises ModelError for a name of something else, and where no linear runs.
    """
    for name in names:
        if not isinstance(layer(model, name), nn.Linear):
            raise ModelError(f"{name} is a convolution; this rewrite needs a linear there")
    if names:
        return tuple(names)
    seen: dict[str, None] = {}
    every = [n for n, m in units(model) if isinstance(m, nn.Linear)]
    watch = {(n, "in"): [functools.partial(_note, seen, n)] for n in every}
    with torch.no_grad(), observed(model, watch):
        task.forward(model, task.example())
    if not seen:
        raise ModelError("the network has no linear; leave this rewrite out")
    return tuple(seen)


def _note(seen: dict[str, None], name: str, x: Tensor) -> None:
    seen.setdefault(name)
