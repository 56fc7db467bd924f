"""Scenes: toys with everything that a signal may look at, and a plain evaluator that counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.measure import Loss, Meter
from allot.memo import Memo
from allot.option import Effect, Option, Statistic, Stats
from allot.recover import LIGHT, Recovery
from allot.scene import Scene
from allot.site import Graph, Site, Touch
from allot.space import Choice, Point, Space
from tests import small, toys


@dataclass(kw_only=True)
class Plain:
    """An evaluator without any short cut."""

    meter: Meter
    space: Space
    repair: Recovery = LIGHT
    spent: float = 0.0
    calls: list[int] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return len(self.meter.data)

    @property
    def recovery(self) -> str:
        return self.repair.name

    def charge(self, passes: float) -> None:
        self.spent += passes

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        return [share] * len(points)

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        n = max(1, round(share * self.samples))
        self.calls.append(len(points))
        self.charge(sum(self.costs(points, share=share)))
        every = [self.meter.loss(self.space.options(p), recovery=self.repair) for p in points]
        return [Loss(divergences=x.divergences[:n], scores=x.scores[:n]) for x in every]


def scene(
    make: Callable[[], nn.Module] = toys.chain,
    *,
    space: Callable[[Graph, Space], Space] = lambda graph, space: space,
    recovery: Recovery = LIGHT,
    seed: int = 0,
    **changes: Any,
) -> Scene:
    """The scene of a small kit; `space` may put another space in place of its own."""
    k = small.kit(make, **changes)
    chosen = space(k.graph, k.space)
    bank = Bank(k.task.model, graph=k.graph, stats=k.bank.stats)
    meter = Meter(k.task, bank, k.task.search, memo=Memo(), batch=7)
    evaluator = Plain(meter=meter, space=chosen, repair=recovery)
    return Scene(
        space=chosen, task=k.task, bank=bank, data=k.task.search, evaluator=evaluator, seed=seed
    )


NOT_REPAIRED = Recovery(matched=False)


@dataclass(frozen=True, kw_only=True)
class Nudge(Option):
    """A weight moved by `size` times its own deviation in a direction drawn by seed."""

    kind: ClassVar[str] = "weight"
    level: ClassVar[int] = 1
    size: float
    seed: int = 0

    @property
    def label(self) -> str:
        return "float" if self.is_original else f"nudge{self.size:g}"

    @property
    def is_original(self) -> bool:
        return self.size == 0

    def effect(self, site: Site) -> Effect:
        return Effect()

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return ()

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        w = module.weight
        assert isinstance(w, Tensor)
        g = torch.Generator().manual_seed(self.seed + len(site.name))
        new = copy.deepcopy(module)
        noise = torch.randn(w.shape, generator=g) * w.std() * self.size
        new.weight = nn.Parameter(w.detach() + noise, requires_grad=False)
        return new


def nudges(size: float, count: int = 2) -> Callable[[Graph, Space], Space]:
    """The original and `count` nudges for every weight."""

    def make(graph: Graph, space: Space) -> Space:
        options = (Nudge(size=0), *(Nudge(size=size, seed=9 * i + 1) for i in range(count)))
        sites = [s.name for s in graph.sites if s.kind == "weight"]
        return Space(graph=graph, choices=tuple(Choice(site=n, options=options) for n in sites))

    return make


def pinned(scene: Scene, **labels: str) -> Scene:
    """The scene with some choices pinned: site (dots as underscores) = label."""
    space = scene.space
    for site, label in labels.items():
        name = next(c.site for c in space.choices if c.site.replace(".", "_") == site)
        space = space.pin(name, label)
    assert isinstance(scene.evaluator, Plain)
    evaluator = Plain(meter=scene.evaluator.meter, space=space, repair=scene.evaluator.repair)
    return replace(scene, space=space, evaluator=evaluator)
