"""Calibrate: one sweep over the data for every statistic that the options of a space declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from allot.option import Statistic
from allot.space import Space
from allot.sweep import Observer, observed, outputs
from allot.task import Task


def needed(space: Space) -> tuple[Statistic, ...]:
    """What the options of a space declared they need, each once, in a fixed order."""
    found: dict[Statistic, None] = {}
    for choice in space.choices:
        for name in (choice.site, *choice.tied):
            for option in choice.options:
                found |= dict.fromkeys(option.needs(space.graph.site(name), space.graph))
    return tuple(found)


def calibrate(
    task: Task,
    model: nn.Module,
    statistics: Iterable[Statistic],
    *,
    batch: int = 128,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[Statistic, Tensor]:
    """The state of every statistic after one pass over the calibration data."""
    states: dict[Statistic, Tensor] = {}
    observers: dict[tuple[str, str], list[Observer]] = {}
    for s in statistics:
        observers.setdefault((s.module, s.role), []).append(_observer(s, states))

    def batches() -> Iterable[object]:
        for i, b in enumerate(task.calibrate.batches(batch)):
            yield b
            progress(min(1.0, (i + 1) * batch / len(task.calibrate)))

    with observed(model, observers):
        outputs(task, model, task.calibrate, batch=batch, each=batches())
    return states


def _observer(statistic: Statistic, states: dict[Statistic, Tensor]) -> Observer:
    def observe(x: Tensor) -> None:
        states[statistic] = statistic.update(states.get(statistic), x)

    return observe
