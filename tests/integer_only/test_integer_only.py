"""Laws of the integer form: exact in every bit in the runtime, near the float graph, no float left.

Faults these must catch: a zero point forgotten at a padded place; a shift that rounds otherwise
than is said; a residual side at the wrong scale; a sum that leaves 32 bits in silence; a bias that
is lost; a pool taken before its clip; a float operator left in the file; the last layer's channels
at scales of their own.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from allot.integer_only import nodes, reference
from allot.integer_only.graph import Convolution, Rescale, Window, codes, reals
from allot.integer_only.lower import integer_only
from allot.integer_only.onnx import to_onnx
from allot.onnx_graph import load_proto
from tests.deployables import images
from tests.integer_only import graphs
from tests.integer_only.graphs import Graph
from tests.integer_only.running import in_float, ran, session

each = pytest.mark.parametrize("build", graphs.ALL, ids=lambda b: b.__name__)
Build = Callable[[Graph], str]


@each
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_runtime_computes_every_bit_of_the_reference(build: Build, seed: int) -> None:
    graph = integer_only(graphs.made(build, seed))
    x = graphs.inputs(seed=seed).clip(graph.inputs[0].low, graph.inputs[0].high)
    expected = reference.run(graph, {"input": x})["output"]
    got = ran(graph, x)
    assert got.dtype in (np.uint8, np.int32) and got.size
    assert np.array_equal(expected, got), np.abs(expected - got).max()


@each
def test_it_is_near_the_float_graph(build: Build) -> None:
    onnx = graphs.made(build)
    graph = integer_only(onnx)
    x = graphs.inputs().clip(graph.inputs[0].low, graph.inputs[0].high)
    port = graph.outputs[0]
    expected = in_float(onnx, graph, x)
    off = np.abs(reals(port, reference.run(graph, {"input": x})["output"]) - expected)
    # a sum on the border of two codes may go either way, rarely, and the next layer spreads it
    assert (off <= 1e-3 * np.ptp(expected)).mean() > 0.97
    assert off.mean() < 2e-3 * np.ptp(expected)


@each
def test_every_tensor_keeps_within_what_was_proven(build: Build) -> None:
    graph = integer_only(graphs.made(build))
    x = graphs.inputs().clip(graph.inputs[0].low, graph.inputs[0].high)
    for name, value in reference.everything(graph, {"input": x}).items():
        low, high = graph.spans[name]
        assert low <= value.min() and value.max() <= high, name
    for p in (*graph.inputs, *graph.outputs):
        assert (p.low, p.high) == graph.spans[p.tensor]


@each
def test_no_float_is_left_in_the_file(build: Build) -> None:
    import onnx
    from onnx import TensorProto

    model = onnx.load_from_string(to_onnx(integer_only(graphs.made(build))))
    onnx.checker.check_model(model, full_check=True)
    whole = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    kinds = {v.type.tensor_type.elem_type for v in whole.graph.value_info}
    kinds |= {v.type.tensor_type.elem_type for v in (*whole.graph.input, *whole.graph.output)}
    kinds |= {t.data_type for t in whole.graph.initializer}
    integers = (TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT64)
    assert kinds <= set(integers) and len(whole.graph.value_info) >= len(whole.graph.node) - 1
    assert not {"Div", "Mod", "Round", "Floor"} & {n.op_type for n in whole.graph.node}


def test_a_convolution_by_hand() -> None:
    graph = integer_only(graphs.made(graphs.strided))
    op = next(o for o in graph.operations if isinstance(o, Convolution))
    x = graphs.inputs(3).clip(graph.inputs[0].low, graph.inputs[0].high)
    got = reference.everything(graph, {"input": x})[op.output]
    w, (dh, dw), (sh, sw) = op.window, op.window.dilation, op.window.stride
    top, left = w.padding[:2]
    for n, o, i, j in np.ndindex(*got.shape):
        total = int(op.bias[o])
        for c, a, b in np.ndindex(*op.codes.shape[1:]):
            row, column = i * sh + a * dh - top, j * sw + b * dw - left
            if 0 <= row < 8 and 0 <= column < 8:
                total += int(op.codes[o, c, a, b]) * (int(x[n, c, row, column]) - op.zero)
        assert total == got[n, o, i, j]


def exact(op: Rescale, tensors: dict[str, np.ndarray], at: tuple[int, ...]) -> Fraction:
    """The sum before it is rounded, as a fraction."""
    channel = at[1]

    def of(x: np.ndarray) -> int:
        return int(x[channel] if x.size > 1 else x[0])

    total = Fraction(of(op.offset))
    for t in op.terms:
        total += of(t.factors) * (int(tensors[t.tensor][at]) - t.zero)
    return total / 2 ** of(op.shift)


@pytest.mark.parametrize("build", [graphs.residual, graphs.padded_shortcut, graphs.affine])
def test_a_rescale_is_one_rounding_of_the_exact_sum(build: Build) -> None:
    graph = integer_only(graphs.made(build))
    tensors = reference.everything(graph, {"input": graphs.inputs(4)})
    for op in (o for o in graph.operations if isinstance(o, Rescale)):
        got, g = tensors[op.output], np.random.default_rng(0)
        for _ in range(50):
            at = tuple(int(g.integers(n)) for n in got.shape)
            nearest = math.floor(exact(op, tensors, at) + Fraction(1, 2)) + op.zero
            assert min(max(nearest, op.low), op.high) == got[at]


def test_both_sides_of_a_residual_sum_keep_their_scale() -> None:
    """The dyadic sum is the real one of the float graph, to a part in a billion."""
    onnx = graphs.made(graphs.residual)
    graph = integer_only(onnx)
    tensors = reference.everything(graph, {"input": graphs.inputs(4)})
    op = next(o for o in graph.operations if isinstance(o, Rescale) and len(o.terms) == 2)
    held = nodes.arrays(load_proto(onnx))
    sums, short = op.terms
    scale = held["c.inner.scale"].astype(np.float64) * float(np.float32(0.4))
    ratio = sums.factors / 2.0**op.shift * float(np.float32(1.1))
    assert np.allclose(scale, ratio, rtol=2e-9)
    assert np.allclose(0.25, short.factors / 2.0**op.shift * float(np.float32(1.1)), rtol=2e-9)
    assert tensors[sums.tensor].shape == tensors[short.tensor].shape


def test_windows_have_the_places_of_a_pool() -> None:
    for size, kernel, stride, pad, dilation, ceil in itertools.product(
        range(3, 9), (1, 2, 3), (1, 2, 3), (0, 1), (1, 2), (False, True)
    ):
        if 2 * pad > kernel or dilation * (kernel - 1) >= size + 2 * pad:
            continue
        x = torch.zeros(1, 1, size, size + 1)
        expected = torch.nn.functional.max_pool2d(x, kernel, stride, pad, dilation, ceil)
        window = Window(
            kernel=(kernel, kernel), stride=(stride, stride), padding=(pad,) * 4,
            dilation=(dilation, dilation), ceil=ceil,
        )  # fmt: skip
        assert expected.shape[2:] == window.places((size, size + 1)), window


def test_codes_of_inputs_are_those_of_the_quantizer() -> None:
    onnx = graphs.made(lambda g: graphs.start(g))
    port = integer_only(onnx).inputs[0]
    x = np.concatenate([images(4).numpy() * 3, graphs.inputs(4).astype(np.float32) * 0.0117])
    expected = session(onnx).run(None, {"input": x})[0]
    assert np.allclose(expected, (codes(port, x) - float(port.zero)) * port.scale, rtol=1e-6)
    four = integer_only(graphs.made(lambda g: graphs.start(g, 4))).inputs[0]
    assert (0, 15) == (four.low, four.high) == (codes(four, x).min(), codes(four, x).max())


def test_the_file_says_what_its_codes_stand_for() -> None:
    import onnx

    graph = integer_only(graphs.made(graphs.classifier))
    model = onnx.load_from_string(to_onnx(graph))
    said = json.loads(next(p.value for p in model.metadata_props if p.key == "allot"))
    assert [p.dump() for p in graph.inputs] == said["inputs"]
    assert "int32" == said["outputs"][0]["kind"] and said["outputs"][0]["scale"] > 0
    assert to_onnx(graph) == to_onnx(integer_only(graphs.made(graphs.classifier)))


def test_any_batch_gives_the_same() -> None:
    graph = integer_only(graphs.made(graphs.pools))
    x, s = graphs.inputs(7), session(to_onnx(graph))
    whole = s.run(None, {"input": x})[0]
    parts = [s.run(None, {"input": x[i : i + 1]})[0] for i in range(7)]
    assert np.array_equal(whole, np.concatenate(parts))
