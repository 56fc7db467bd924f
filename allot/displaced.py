"""Displaced: how far a sampler's plan moves its samples, as a sum of what was measured of parts.

Errors of shared weights add coherently over steps, and a reused or left-out step hurts more beside
another one: so parts are vectors, not squares, and runs of cheap steps are parts of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from allot.options.steps import Drop, Reuse, StepOption
from allot.space import Point, Space
from allot.table import Array, Table

# of the squared error of features beside the Frechet distance, as in the objective of the search
WEIGHT = 0.1
# of the mean variance of features, added to every variance
RIDGE = 1e-3
# a run that is not of one option without gaps, which nobody measures
_OTHER = 1000


class Stretch(NamedTuple):
    """A taken step and the steps left out right before it.

    step: its index; the number of steps for the way to the end.  option: at it; -1 for a step that
    computes and for the end.  gap: steps left out before it.  run: steps right before it, without a
    gap, that take the same option; they reuse.
    """

    step: int
    option: int
    gap: int
    run: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Displaced(Table):
    """Harm of a sampler's plans, with vectors of the judge's features.

    As a table it knows single options and pairs of them; `predicted` knows runs of steps too.
    space: of the plans.  mild: the point that parts are measured beside, all in the most bits
    below float.  features: of the original's samples, [n, d].  atoms: [parts, n, d], the first is
    what `mild` moves.  alone: (choice, option) -> its part.  stretches: runs of steps -> part.
    """

    space: Space
    mild: Point
    features: Array
    atoms: Array
    alone: Mapping[tuple[int, int], int] = field(default_factory=dict)
    stretches: Mapping[Stretch, int] = field(default_factory=dict)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Positions of the choices of steps, in order."""
        kinds = enumerate(self.space.choices)
        return tuple(i for i, c in kinds if isinstance(c.options[0], StepOption))

    @cached_property
    def squares(self) -> Array:
        """Products of all parts: mean over noises of the product of features, [parts, parts]."""
        flat = self.atoms.reshape(len(self.atoms), -1)
        found: Array = flat @ flat.T / len(self.features)
        return found

    @cached_property
    def frechet(self) -> Array:
        """Products of all parts in the coordinates of `coordinates`, [parts, parts]."""
        flat = coordinates(self.features, self.atoms)
        found: Array = flat @ flat.T
        return found + WEIGHT * self.squares

    @cached_property
    def _own(self) -> NDArray[np.intp]:
        """Part of every option alone, -1 for none: [choices, options]."""
        found = np.full((len(self.space.choices), max(self.space.counts)), -1, dtype=np.intp)
        for (i, o), part in self.alone.items():
            found[i, o] = part
        return found

    @cached_property
    def _ways(self) -> tuple[tuple[int | None, ...], ...]:
        """`way` of every option of every step."""
        return tuple(
            tuple(
                None if isinstance(o, Drop) else k if isinstance(o, Reuse) else -1
                for k, o in enumerate(self.space.choices[c].options)
            )
            for c in self.steps
        )

    def parts(self, point: Sequence[int]) -> tuple[list[int], int]:
        """Parts that a plan consists of, and how many of its meetings nobody measured."""
        own = self._own[np.arange(len(point)), list(point)]
        found, unknown = [0, *own[own >= 0].tolist()], 0
        for s in stretches([w[point[c]] for w, c in zip(self._ways, self.steps, strict=True)]):
            known = self._known(s)
            if known is None:
                unknown += 1
                known = self._pieces(s)
            found += known
        return found, unknown

    def way(self, step: int, option: int) -> int | None:
        """None for a step left out, -1 for one that computes, the option for one that reuses."""
        return self._ways[step][option]

    def _known(self, s: Stretch) -> list[int] | None:
        if s.option == -1 and s.gap == 0:
            return []
        part = self.stretches.get(s)
        return None if part is None else [part]

    def _pieces(self, s: Stretch) -> list[int]:
        """Parts of a stretch that was not measured: shorter ones that follow one another."""
        found: list[int] = []
        end, gap = s.step, s.gap
        while gap > 0:
            longest = next(
                g for g in range(gap, -1, -1)
                if g == 0 or Stretch(step=end, option=-1, gap=g) in self.stretches
            )  # fmt: skip
            if longest == 0:
                end, gap = end - 1, gap - 1
                continue
            found.append(self.stretches[Stretch(step=end, option=-1, gap=longest)])
            end, gap = end - longest, gap - longest
        if s.option != -1:
            lone = Stretch(step=s.step, option=s.option, gap=0)
            found += [self.stretches[lone]] if lone in self.stretches else []
        return found

    def moved(self, point: Sequence[int]) -> Array:
        """Predicted displacement of the features of every sample, [n, d]."""
        found: Array = self.atoms[self.parts(point)[0]].sum(0)
        return found

    def squared(self, point: Sequence[int]) -> float:
        """Predicted mean squared error of features."""
        at = self.parts(point)[0]
        return float(self.squares[np.ix_(at, at)].sum())

    def predicted(self, point: Sequence[int]) -> float:
        """Predicted objective of the search (`allot.judging.objective`), to second order."""
        at = self.parts(point)[0]
        return float(self.frechet[np.ix_(at, at)].sum())


def stretches(ways: Sequence[int | None]) -> Iterator[Stretch]:
    """The stretches of a plan's steps, given as `Displaced.way` says; the last is to the end."""
    gap, run, before = 0, 0, -1
    for i, way in enumerate(ways):
        if way is None:
            gap += 1
            continue
        # a step that reuses right behind another one reuses the older result still
        follows = before != -1 and way != -1
        run = (run + 1 if way == before and gap == 0 else _OTHER) if follows else 0
        yield Stretch(step=i, option=way, gap=gap, run=run)
        gap, before = 0, way
    yield Stretch(step=len(ways), option=-1, gap=gap)


def coordinates(features: Array, moves: Array) -> Array:
    """Vectors whose squared length is the Frechet distance that moved features come to.

    features: [n, d].  moves: [k, n, d], small against their spread.  |s|^2 for the mean move s, and
    half the sum of D_ij^2 / (l_i + l_j) for the change D of the covariance of features, in its
    eigenvectors with eigenvalues l: the second order of the Bures distance.  D is taken to first
    order, E[x m'] + E[m x'], so all is linear in the moves: [k, d + d (d + 1) / 2].
    """
    n, d = features.shape
    x = features - features.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x / n)
    values = np.maximum(values, 0) + RIDGE * values.mean()
    shift = moves.mean(1)
    x = x @ vectors
    cross = np.einsum("ni,knj->kij", x, (moves - shift[:, None]) @ vectors, optimize=True) / n
    change = (cross + cross.transpose(0, 2, 1)) / np.sqrt(2 * (values[:, None] + values))
    i, j = np.triu_indices(d)
    # off the diagonal every entry counts twice
    rest = change[:, i, j] * np.where(i == j, 1.0, np.sqrt(2.0))
    return np.concatenate([shift, rest], axis=1)
