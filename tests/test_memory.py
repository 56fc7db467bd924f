"""Peak memory against counts by hand, and as a budget."""

from __future__ import annotations

import itertools

import numpy as np

from allot import bill, packed
from allot.memory import memory, original
from allot.runtimes.ideal import Ideal
from allot.solve import smallest, solve
from allot.space import Point, Space
from allot.table import Table, Term
from allot.target import Workload
from tests import small, toys


def _table(space: Space, batch: int = 1) -> Table:
    header = packed.header_bytes(space.graph)
    return memory(space, Ideal(), workload=Workload(batch=batch), header=header)


def _by_hand(space: Space, point: Point, batch: int) -> float:
    """Weights of the file and the largest layer's tensors, counted from the options."""
    size = bill.size(space, header=packed.header_bytes(space.graph))
    most = 0
    for layer in space.graph.layers:
        state = bill.state(space, layer, point)
        pixels_in = 1
        for n in layer.in_shape[1:]:
            pixels_in *= n
        pixels_out = 1
        for n in layer.out_shape[1:]:
            pixels_out *= n
        per_channel = layer.in_shape[0] // (
            layer.weight[1] if layer.groups == 1 else layer.weight[0]
        )
        entering = per_channel * state.ins * pixels_in
        bits = int(state.input_bits)
        most = max(most, batch * (-(-entering * bits // 8) + 4 * state.outs * pixels_out))
    return size.of(point) + most


def test_the_peak_is_that_of_a_count_by_hand() -> None:
    for make in (toys.chain, toys.residual):
        kit = small.kit(make)
        for batch in (1, 32):
            table = _table(kit.space, batch)
            for seed in range(20):
                point = small.random_point(kit.space, seed)
                assert table.of(point) == _by_hand(kit.space, point, batch)


def test_the_original_is_the_largest_layer_in_float_and_all_weights() -> None:
    kit = small.kit()
    layers = kit.graph.layers
    sizes = []
    for x in layers:
        total = 0
        for shape in (x.in_shape, x.out_shape):
            n = 1
            for s in shape:
                n *= s
            total += n
        sizes.append(4 * total)
    found = original(kit.graph, workload=Workload(batch=3))
    assert found == kit.graph.folded_bytes + 3 * max(sizes)


def test_smaller_inputs_and_fewer_channels_never_need_more() -> None:
    kit = small.kit()
    table = _table(kit.space)
    for seed in range(10):
        point = small.random_point(kit.space, seed)
        for i, choice in enumerate(kit.space.choices):
            if kit.graph.site(choice.site).kind == "weight":
                continue
            values = [
                table.of((*point[:i], o, *point[i + 1 :])) for o in range(len(choice.options))
            ]
            labels = [o.label for o in choice.options]
            if "A8" in labels and "A4" in labels:
                assert values[labels.index("A4")] <= values[labels.index("A8")] <= values[0]


def test_a_budget_on_the_peak_holds_and_names_the_least() -> None:
    kit = small.kit()
    counts = tuple(min(2, n) for n in kit.space.counts[:9]) + (1,) * (len(kit.space.counts) - 9)
    table = _table(kit.space)
    cut = _first(table, counts)
    points = list(itertools.product(*map(range, counts)))
    values = {p: table.of(p) for p in points}
    assert smallest(counts, cut)[1] == min(values.values())
    limit = sorted(set(values.values()))[len(set(values.values())) // 2]
    terms = tuple(Term(at=(i,), values=np.arange(float(n))) for i, n in enumerate(counts))
    harm = Table(unit="nat", origin="drawn", terms=terms)
    found = solve(counts, harm=harm, bills={"memory": cut}, limits={"memory": limit}, gap=0.0)
    assert found.bills["memory"] == values[found.point] <= limit
    assert found.harm == min(harm.of(p) for p in points if values[p] <= limit)


def _first(table: Table, counts: tuple[int, ...]) -> Table:
    """The table over the first options of every choice."""

    def cut(t: Term) -> Term:
        return Term(at=t.at, values=t.values[tuple(slice(counts[i]) for i in t.at)])

    return Table(
        unit=table.unit,
        origin=table.origin,
        constant=table.constant,
        terms=tuple(cut(t) for t in table.terms),
        peaks=tuple(tuple(cut(t) for t in terms) for terms in table.peaks),
    )
