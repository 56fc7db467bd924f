"""Laws of what integers cannot hold: refused by name and with a way out, or carried another way.

Faults these must catch: a sum that leaves 32 bits in silence; a bound that is off by one channel; a
bias or a dead channel that is lost; an operator in float that is taken for another.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from allot.errors import ModelError
from allot.integer_only import reference
from allot.integer_only.graph import Convolution, reals
from allot.integer_only.lower import integer_only
from tests.integer_only import graphs
from tests.integer_only.graphs import Graph
from tests.integer_only.running import in_float, ran


def test_sums_that_could_leave_32_bits_are_refused_by_name() -> None:
    def wide(g: Graph) -> str:
        x = g.quantized("input", 0.1)
        return g.quantized(g.layer(x, 2, name="deep", kernel=1, codes=np.int8(-128)), 1.0)

    fits, size = (2**31 - 1) // (255 * 128), (1, 1)
    graph = integer_only(graphs.made(wide, size=(fits, *size)))
    worst = np.full((1, fits, 1, 1), 255, np.uint8)
    assert np.array_equal(reference.run(graph, {"input": worst})["output"], ran(graph, worst))
    assert -255 * 128 * fits >= graph.spans["conv_3"][0] - 2**15
    with pytest.raises(ModelError, match=r"sums of deep can reach 2147516160.*fewer bits"):
        integer_only(graphs.made(wide, size=(fits + 1, *size)))


def test_a_bias_that_does_not_fit_is_added_in_the_rescale() -> None:
    bias = np.array([1e6, 1.0, -3e9, 0.0])

    def biased(g: Graph) -> str:
        x = g.quantized("input", 1e-3)
        return g.quantized(g.layer(x, 4, kernel=1, bias=bias), 1e7, zero=90)

    onnx = graphs.made(biased)
    graph = integer_only(onnx)
    x = graphs.inputs()
    op = next(o for o in graph.operations if isinstance(o, Convolution))
    assert [0, 0] == op.bias[[0, 2]].tolist() and op.bias[1] > 0
    got = reference.run(graph, {"input": x})["output"]
    assert np.array_equal(ran(graph, x), got)
    assert np.array_equal(np.rint(in_float(onnx, graph, x) / 1e7 + 90), got)
    assert {90, 0} <= set(np.unique(got).tolist())


def test_a_channel_that_is_all_but_dead_keeps_its_bias() -> None:
    def dead(g: Graph) -> str:
        x, scale = g.quantized("input", 0.1), np.array([1e-30, 1e-12, 1e-2])
        bias = np.array([0.5, 0.7, 0.9])
        return g.quantized(g.layer(x, 3, kernel=1, bias=bias, scale=scale), 0.01)

    onnx = graphs.made(dead)
    graph = integer_only(onnx)
    x = graphs.inputs()
    got = reference.run(graph, {"input": x})["output"]
    assert {50} == set(np.unique(got[:, 0])) and {70} == set(np.unique(got[:, 1]))
    assert np.abs(reals(graph.outputs[0], got) - in_float(onnx, graph, x)).max() < 0.011


def test_what_is_in_float_is_listed_with_the_pins_that_change_it() -> None:
    def float_weight(g: Graph) -> str:
        x = g.quantized("input", 0.1)
        w = g.constant(np.ones((2, 3, 1, 1), np.float32), "stem.inner.0.weight")
        return g.quantized(g.node("Conv", x, w), 1.0)

    with pytest.raises(ModelError, match=r"--pin stem\.0\.weight=W8"):
        integer_only(graphs.made(float_weight))

    def float_input(g: Graph) -> str:
        x = g.node("Relu", g.layer(g.quantized("input", 0.1), 3, name="a"))
        return g.quantized(g.layer(x, 3, name="b"), 1.0)

    with pytest.raises(ModelError, match=r"--pin b\.input=A8"):
        integer_only(graphs.made(float_input))


def refused(last: Callable[[Graph, str], str]) -> str:
    def build(g: Graph) -> str:
        return g.quantized(last(g, g.layer(g.quantized("input", 0.1), 4)), 1.0)

    with pytest.raises(ModelError) as found:
        integer_only(graphs.made(build))
    return str(found.value)


def test_what_has_no_integer_form_is_named() -> None:
    assert "Sigmoid sigmoid_" in refused(lambda g, x: g.node("Sigmoid", x))
    assert "multiplies two tensors" in refused(lambda g, x: g.node("Mul", x, x))
    assert "averages over windows of several sizes" in refused(
        lambda g, x: g.node("AveragePool", x, kernel_shape=[2, 2], pads=[1, 1, 1, 1])
    )
    assert "runs backwards" in refused(
        lambda g, x: g.node("Slice", x, *(g.constant(np.array([v])) for v in (-1, -(2**62), 2, -1)))
    )
    assert "padding with a fixed number of zeros" in refused(
        lambda g, x: g.node("Pad", x, g.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])), mode="edge")
    )
    assert "max pool before" in refused(
        lambda g, x: g.node("Add", g.node("MaxPool", x, kernel_shape=[1, 1]), x)
    )
    assert "the network's input input before it is quantized" in refused(
        lambda g, x: g.node("Add", x, g.node("Relu", g.node("Identity", "input")))
    )
