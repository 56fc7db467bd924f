"""Billed: the bills that are known without timing anything, of a space and of a float original."""

from __future__ import annotations

from collections.abc import Callable, Collection

from allot import bill, memory, packed
from allot.bill import LayerState
from allot.option import count
from allot.site import Graph
from allot.space import Space
from allot.table import Table
from allot.target import Target, Work, Workload

_UNITS = {"latency": "s", "energy": "J"}


def tables(
    space: Space, target: Target, *, workload: Workload, asked: Collection[str]
) -> dict[str, Table]:
    """Name of a bill -> its table.

    asked: bills with a budget.  Memory only where it is among them: it would let plans stay on
    the front that nobody wants.
    """
    header = packed.header_bytes(space.graph)
    found = {"size": bill.size(space, header=header), "bitops": bill.bitops(space, target)}
    if "memory" in asked:
        found["memory"] = memory.memory(space, target, workload=workload, header=header)
    return found | stated(space, target, workload=workload)


def stated(space: Space, target: Target, *, workload: Workload) -> dict[str, Table]:
    """Bills that a target says of every layer, of one call: sums over layers."""
    return {
        name: bill.layer_table(
            space,
            _of_layer(target, name, workload.batch),
            unit=_UNITS[name],
            origin=f"stated by {target.version()}",
        )
        for name in target.states
    }


def _of_layer(target: Target, name: str, batch: int) -> Callable[[LayerState], float]:
    def value(s: LayerState) -> float:
        return 0.0 if s.gone else target.stated(work(s, batch))[name]

    return value


def work(state: LayerState, batch: int) -> Work:
    """What a call of `batch` samples asks of a layer that is there."""
    layer = state.thinned
    left = state.tokens / state.all_tokens
    return Work(
        macs=batch * state.macs,
        weight_bits=state.weight_bits,
        input_bits=state.input_bits,
        stored_bits=state.stored_bits,
        weight_bytes=float(state.stored_bytes),
        entering=batch * count(layer.in_shape) * state.ins / layer.ins,
        leaving=batch * count(layer.out_shape) * left * state.outs / layer.weight[0],
    )


def originals(
    graph: Graph, *, workload: Workload, asked: Collection[str], target: Target | None = None
) -> dict[str, float]:
    """The same bills of the float original, those that the target states among them."""
    found = {
        "size": float(graph.folded_bytes),
        "bitops": float(sum(x.macs for x in graph.layers)) * 32 * 32,
    }
    if "memory" in asked:
        found["memory"] = memory.original(graph, workload=workload)
    if target is None:
        return found
    whole = stated(Space(graph=graph, choices=()), target, workload=workload)
    return found | {name: t.constant for name, t in whole.items()}
