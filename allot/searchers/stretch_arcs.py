"""Stretch arcs: the steps of a sampler as a graph whose ways are plans, each arc a taken step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from allot.displaced import Displaced, Stretch
from allot.options.steps import Drop
from allot.solve.path import Arc
from allot.table import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class StretchArcs:
    """harm: of stretches.  allowed: per choice of the space, options that may be taken.

    A node is a taken step, and which option it took how often in a row where that is a reuse.
    """

    harm: Displaced
    allowed: Sequence[Sequence[int]]

    @property
    def nodes(self) -> int:
        """Nodes of the graph; the first is the start, the last the end."""
        return 2 + len(self.harm.steps) * self._modes

    @property
    def _modes(self) -> int:
        return 1 + len(self._reuses) * self._runs

    @property
    def _reuses(self) -> list[int]:
        return sorted({s.option for s in self.harm.stretches if s.option >= 0})

    @property
    def _runs(self) -> int:
        return 1 + max((s.run for s in self.harm.stretches), default=0)

    def arcs(self, cross: Array, ways: Array) -> tuple[list[Arc], list[list[tuple[int, int]]]]:
        """The arcs, and (choice, option) that each sets.

        cross: what every part adds to the harm.  ways: what every option of every step costs,
        [steps, options].
        """
        found, sets = [], []
        for start, end, stretch, option in self._moves():
            parts = self._parts(stretch, option)
            if parts is None:
                continue
            last = stretch.step == len(self.harm.steps)
            cost = 0.0 if last else float(ways[stretch.step, option])
            left = self._left(stretch)
            if left is None:
                continue
            harm = float(sum(cross[p] for p in parts))
            found.append(Arc(start=start, end=end, harm=harm, costs=(cost,)))
            sets.append([*left, *([] if last else [(self.harm.steps[stretch.step], option)])])
        return found, sets

    def _moves(self) -> Iterator[tuple[int, int, Stretch, int]]:
        """(from, to, stretch, option taken at its step)."""
        steps = len(self.harm.steps)
        first = Stretch(step=0, option=-1, gap=0)
        for o in self.allowed[self.harm.steps[0]]:
            if self.harm.way(0, o) == -1:
                yield 0, 1, first, o
        longest = max((s.gap for s in self.harm.stretches), default=0)
        for i in range(steps):
            for mode in range(self._modes):
                for j in range(i + 1, min(i + longest + 1, steps) + 1):
                    yield from self._between(i, mode, j)

    def _between(self, i: int, mode: int, j: int) -> Iterator[tuple[int, int, Stretch, int]]:
        """From a step in a mode to another one, or to the end."""
        here, gap, steps = 1 + i * self._modes + mode, j - i - 1, len(self.harm.steps)
        if j == steps:
            yield here, self.nodes - 1, Stretch(step=j, option=-1, gap=gap), -1
            return
        for o in self.allowed[self.harm.steps[j]]:
            way = self.harm.way(j, o)
            if way == -1:
                yield here, 1 + j * self._modes, Stretch(step=j, option=-1, gap=gap), o
            elif way is not None:
                kind = self._reuses.index(o)
                taken, run = divmod(mode - 1, self._runs) if mode else (-1, 0)
                if mode and (taken != kind or gap or run + 1 == self._runs):
                    continue
                run = run + 1 if mode else 0
                to = 1 + j * self._modes + 1 + kind * self._runs + run
                yield here, to, Stretch(step=j, option=o, gap=gap, run=run), o

    def _parts(self, s: Stretch, option: int) -> list[int] | None:
        """Parts that a stretch adds; None where nobody measured it."""
        found = []
        if s.gap or s.option != -1:
            if s not in self.harm.stretches:
                return None
            found.append(self.harm.stretches[s])
        if option != -1 and (self.harm.steps[s.step], option) in self.harm.alone:
            found.append(self.harm.alone[self.harm.steps[s.step], option])
        return found

    def _left(self, s: Stretch) -> list[tuple[int, int]] | None:
        """What leaves out the steps of the gap; None where they may not be."""
        found = []
        for step in range(s.step - s.gap, s.step):
            c = self.harm.steps[step]
            options = self.harm.space.choices[c].options
            drops = [o for o in self.allowed[c] if isinstance(options[o], Drop)]
            if not drops:
                return None
            found.append((c, drops[0]))
        return found
