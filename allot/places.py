"""Places: the modules that options or recovery replace, and what stands there at a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from allot.bank import Bank
from allot.options.width import kept_positions
from allot.recover import Moments, channel_dim, matchable
from allot.space import Point, Space
from allot.trie import first_starts, touched


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """A module that may be switched. start: in `graph.order`.  choices: that touch it, by
    position.  dim: of its output's channels where it is matched, else None."""

    name: str
    start: int
    choices: tuple[int, ...]
    dim: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """What stands in a place under some options, and the moments that its output should have."""

    module: nn.Module
    goal: tuple[Tensor, Tensor] | None


class Places:
    """All places of a space by their starts. goals: moments of the original where outputs are
    matched to them; empty where none are."""

    def __init__(self, space: Space, bank: Bank, goals: Moments) -> None:
        self.space, self.bank, self.goals = space, bank, goals
        self.all = self._found()
        self._made: dict[tuple[str, Point], Encoded] = {}

    def _found(self) -> list[Place]:
        begun = first_starts(self.bank.graph.order)
        reach: dict[str, list[int]] = {}
        for i, choice in enumerate(self.space.choices):
            for name in touched(self.space, choice):
                reach.setdefault(name, []).append(i)
        matches = [n for n in matchable(self.bank.graph) if n in self.goals]
        places = [
            Place(
                name=name,
                start=begun.get(name, len(self.bank.graph.order)),
                choices=tuple(reach.get(name, ())),
                dim=channel_dim(self.bank.graph, name) if name in matches else None,
            )
            for name in dict.fromkeys((*reach, *matches))
        ]
        return sorted(places, key=lambda p: (p.start, p.name))

    def encode(self, points: Sequence[Point]) -> None:
        """Every stand-in that the points need is made, before stations hide the modules."""
        for point in points:
            keys = [(p, (p.name, tuple(point[i] for i in p.choices))) for p in self.all]
            new = [(p, key) for p, key in keys if key not in self._made]
            if not new:
                continue
            options = self.space.options(point)
            standins = self.bank.standins(options)
            for p, key in new:
                goal = None
                if p.dim is not None:
                    kept = kept_positions(
                        p.name, options, graph=self.bank.graph, stats=self.bank.stats
                    )
                    mean, deviation = self.goals[p.name]
                    goal = (mean[kept], deviation[kept])
                module = standins.get(p.name, self.bank.module(p.name))
                self._made[key] = Encoded(module=module, goal=goal)

    def at(self, place: Place, point: Point) -> Encoded:
        return self._made[place.name, tuple(point[i] for i in place.choices)]

    def changed(self, point: Point) -> int:
        """Where the first module starts that is not the original's; beyond all where none is."""
        return next(
            (
                p.start
                for p in self.all
                if p.choices and self.at(p, point).module is not self.bank.module(p.name)
            ),
            len(self.bank.graph.order),
        )
