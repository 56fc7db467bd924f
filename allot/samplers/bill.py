"""Bill: BitOPs and bytes of a sampler's plans, over the whole run from noise to sample.

Steps multiply what a layer costs, so a term is over all choices that touch a layer, and a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from allot import bill, packed
from allot.layer_state import LayerState, states
from allot.option import Option
from allot.options.by_step import ByStep
from allot.options.precision import Weight
from allot.options.steps import Compute, StepOption
from allot.samplers.graph import PREFIX
from allot.site import Graph
from allot.solve.milp import smallest
from allot.space import Point, Space
from allot.table import Array, Table, Term
from allot.target import Target

# choices that touch a layer, and BitOPs of one evaluation for every combination of their options,
# once per width that a step may ask of tensors
_Layer = tuple[tuple[int, ...], dict[int | None, Array]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Costs:
    """BitOPs of one sample.

    A layer costs macs * weight bits * input bits at every step that computes it; a tensor that is
    quantized has as many bits as the step says.
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
        return sum(self._step(i, point[i], point) for i in self.steps)

    def least(self) -> float:
        """The fewest BitOPs of any plan.

        Every layer costs a product of what each choice says, so each choice can be taken alone.
        """
        point = [self._cheapest(i) for i in range(len(self.space.choices))]
        for i in self.steps:
            ways = range(self.space.counts[i])
            point[i] = min(ways, key=lambda k: self._step(i, k, point))
        return self.of(point)

    def table(self) -> Table:
        """The same as a table."""
        terms = []
        for module, (at, by_bits) in self._layers.items():
            for i in self.steps:
                values = np.stack(
                    [
                        by_bits[o.bits] if o.computes(module) else 0.0 * by_bits[None]
                        for o in self._ways(i)
                    ],
                    axis=-1,
                )
                order = np.argsort((*at, i))
                places = tuple(sorted((*at, i)))
                terms.append(Term(at=places, values=values.transpose(order)))
        return Table(unit="bitop", origin="exact account", terms=tuple(terms))

    def _cheapest(self, at: int) -> int:
        """The option of least cost, the original's options elsewhere."""
        choice = self.space.choices[at]
        site = self.space.graph.site(choice.site)
        effects = [o.effect(site) for o in choice.options]
        cost = [0.0 if e.gone else e.compute_bits * (site.shape[0] if e.keep < 0 else e.keep)
                for e in effects]  # fmt: skip
        return int(np.argmin(cost))

    def _step(self, at: int, k: int, point: Sequence[int]) -> float:
        """BitOPs of one step taken in a way, the rest as in a plan."""
        way = self._ways(at)[k]
        return sum(
            float(by_bits[way.bits][tuple(point[i] for i in places)])
            for module, (places, by_bits) in self._layers.items()
            if way.computes(module)
        )

    def _ways(self, at: int) -> tuple[StepOption, ...]:
        return tuple(o for o in self.space.choices[at].options if isinstance(o, StepOption))

    @cached_property
    def _layers(self) -> dict[str, _Layer]:
        """By the layer's name in the denoiser."""
        widths = {o.bits for i in self.steps for o in self._ways(i)} | {None}
        found: dict[str, _Layer] = {}
        for layer in self.space.graph.layers:
            at, known = states(self.space, layer)
            shape = [self.space.counts[i] for i in at]
            by_bits = {
                b: np.array([self._once(s, b) for s in known.values()]).reshape(shape)
                for b in widths
            }
            found[layer.module.removeprefix(PREFIX)] = (at, by_bits)
        return found

    def _once(self, state: LayerState, bits: int | None) -> float:
        """BitOPs of one evaluation of a layer at a step that asks for so many bits."""
        asked = 32.0 if bits is None else float(bits)
        entering = asked if state.input_bits < 32 else 32.0
        weight, entering = self.target.computes(state.weight_bits, entering)
        return state.macs * weight * entering


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
