"""Bill: BitOPs and bytes of a sampler's plans, over the whole run from noise to sample.

Steps multiply what weights and tensors cost, so a term is over three choices: a layer's weight,
the tensor it reads, and a step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from allot import bill, packed
from allot.option import Option
from allot.options.by_step import ByStep
from allot.options.precision import Weight
from allot.options.steps import Compute, StepOption
from allot.sampling.graph import PREFIX
from allot.site import Graph, Layer
from allot.solve.milp import smallest
from allot.space import Point, Space
from allot.table import Array, Table, Term
from allot.target import Target


@dataclass(frozen=True, kw_only=True, eq=False)
class Costs:
    """BitOPs of one sample, as products of what each choice says.

    A layer costs macs * weight bits * input bits at every step that computes it.
    """

    space: Space
    target: Target

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Positions of the choices of steps, in order."""
        kinds = enumerate(self.space.choices)
        return tuple(i for i, c in kinds if isinstance(c.options[0], StepOption))

    def of(self, point: Sequence[int]) -> float:
        """BitOPs of a plan."""
        total = 0.0
        for layer in self.space.graph.layers:
            w, a = self.touching(layer)
            for i in self.steps:
                total += self._term(layer, self._at(w, point), self._at(a, point), i, point[i])
        return total

    def least(self) -> float:
        """The fewest BitOPs of any plan.

        Every term is a product of what each choice says, so each choice can be taken alone.
        """
        point = [self._fewest_bits(i) for i in range(len(self.space.choices))]
        for i in self.steps:
            ways = range(self.space.counts[i])
            point[i] = min(ways, key=lambda k: self._step(i, k, point))
        return self.of(point)

    def _fewest_bits(self, at: int) -> int:
        choice = self.space.choices[at]
        site = self.space.graph.site(choice.site)
        bits = [o.effect(site).compute_bits for o in choice.options]
        return int(np.argmin(bits))

    def _step(self, at: int, k: int, point: Sequence[int]) -> float:
        """BitOPs of one step taken in a way, the rest as in a plan."""
        layers = ((x, *self.touching(x)) for x in self.space.graph.layers)
        return sum(
            self._term(x, self._at(w, point), self._at(a, point), at, k) for x, w, a in layers
        )

    def touching(self, layer: Layer) -> tuple[int | None, int | None]:
        """Positions of the choices of a layer's weight and of the tensor it reads."""
        return self._place.get(f"{layer.module}.weight"), self._place.get(layer.input)

    def table(self) -> Table:
        """The same as a table."""
        terms, constant = [], 0.0
        for layer in self.space.graph.layers:
            w, a = self.touching(layer)
            for i in self.steps:
                values = self._values(layer, w, a, i)
                at = tuple(x for x in (w, a, i) if x is not None)
                order = np.argsort(at)
                terms.append(Term(at=tuple(sorted(at)), values=values.transpose(order)))
        return Table(unit="bitop", origin="exact account", constant=constant, terms=tuple(terms))

    def _values(self, layer: Layer, w: int | None, a: int | None, step: int) -> Array:
        counts = self.space.counts
        ways: list[Sequence[int | None]]
        ways = [range(counts[x]) if x is not None else (None,) for x in (w, a)]
        values = [
            self._term(layer, self._option(w, i), self._option(a, j), step, k)
            for i, j in itertools.product(*ways)
            for k in range(counts[step])
        ]
        shape = [counts[x] for x in (w, a, step) if x is not None]
        return np.array(values, dtype=np.float64).reshape(shape)

    def _term(
        self, layer: Layer, weight: Option | None, tensor: Option | None, step: int, k: int
    ) -> float:
        way = self.space.choices[step].options[k]
        assert isinstance(way, StepOption)
        if not way.computes(layer.module.removeprefix(PREFIX)):
            return 0.0
        site = self.space.graph.site(f"{layer.module}.weight")
        stored = 32.0 if weight is None else weight.effect(site).compute_bits
        entering = 32.0 if tensor is None or tensor.is_original or way.bits is None else way.bits
        bits = self.target.computes(stored, entering)
        return layer.macs * bits[0] * bits[1]

    def _option(self, at: int | None, i: int | None) -> Option | None:
        return None if at is None or i is None else self.space.choices[at].options[i]

    def _at(self, at: int | None, point: Sequence[int]) -> Option | None:
        return None if at is None else self.space.choices[at].options[point[at]]

    @cached_property
    def _place(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for i, c in enumerate(self.space.choices):
            found |= dict.fromkeys((c.site, *c.tied), i)
        return found


def size(space: Space) -> Table:
    """Bytes of the packed weights, one copy for all steps."""
    return bill.size(space, header=packed.header_bytes(space.graph))


def least_size(space: Space) -> float:
    """The fewest bytes of any plan."""
    return smallest(space.counts, size(space))[1]


def originals(graph: Graph, steps: int) -> dict[str, float]:
    """Bills of the float original at all its steps."""
    macs = sum(x.macs for x in graph.layers)
    return {"size": float(graph.folded_bytes), "bitops": 32.0 * 32.0 * macs * steps}


def eight_bit(space: Space, costs: Costs) -> float:
    """BitOPs with every weight and tensor in 8 bits at every step: what shares are stated of.

    Raises ValueError for a space without these options.
    """
    point: Point = tuple(_eight(c.options) for c in space.choices)
    return costs.of(point)


def _eight(options: Sequence[Option]) -> int:
    for i, o in enumerate(options):
        if isinstance(o, ByStep) and not o.is_original:
            return i
        if isinstance(o, Weight | Compute) and o.bits == 8:
            return i
    raise ValueError(f"none of {[o.label for o in options]} is of 8 bits")
