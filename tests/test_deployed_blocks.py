"""Laws of linears in blocks and of live ranges: plan, deployed form and both runtimes are one.

Faults these must catch: ranges of another block size, a scale multiplied in on the wrong side of a
bias, a tensor that another operator reads left unquantized, ranges found where none were asked for.
"""

from __future__ import annotations

import pytest

from allot import bill
from allot.deploy import named_layers
from allot.deployed import DeployedLayer, ExpandedLayer
from allot.deployed_blocks import BlockLayer
from allot.onnx_graph import load_proto
from allot.options.precision import Weight
from allot.packed import header_bytes, pack, unpack
from allot.runtimes.blocks import for_onnxruntime, for_openvino
from allot.space import Choice, Space
from allot.target import Target, Workload
from allot.verify import first_difference, layer_differences
from tests.gated import CPU, NEAR, Residual, made, tokens, weights


def operators(onnx: bytes) -> list[tuple[str, int]]:
    """Kind and accuracy level of every product with a weight, in order."""
    return [
        (n.op_type, sum(a.i for a in n.attribute if a.name == "accuracy_level"))
        for n in load_proto(onnx).graph.node
        if n.op_type in ("MatMul", "MatMulNBits")
    ]


ROWS = Weight(bits=8)
BLOCKS = (weights(4, 32), weights(4, 32, zeros=True), weights(4, 32)), (32, 32)
FLOATS = (weights(2, 32), weights(8, 32), weights(4, 32)), (None, None)
TOKENS = (ROWS, Weight(bits=4), ROWS), (0, 0)
# every form of a weight beside every other, where ranges are found and where not
PLANS = {
    "blocks": BLOCKS,
    "small blocks": ((weights(2, 16, zeros=True), weights(3, 16), weights(2, 16)), (16, 16)),
    "float beside blocks": ((weights(8, 32), weights(2, 32), weights(8, 32)), (32, None)),
    "float inputs": FLOATS,
    "tokens": TOKENS,
    "samples beside blocks": ((ROWS, weights(4, 16), weights(4, 16, zeros=True)), (-1, 16)),
    "other groups": ((weights(4, 16), ROWS, weights(2, 16)), (32, None)),
    "two sizes": ((weights(4, 16), weights(4, 16), weights(4, 32)), (16, 32)),
}


@pytest.mark.parametrize("name", PLANS)
def test_plan_file_and_runtimes_compute_the_same(name: str) -> None:
    found = made(*PLANS[name])
    assert found.holds(tokens())
    assert unpack(pack(found.onnx, found.deployed, found.graph)) == found.onnx


@pytest.mark.parametrize("name", ["blocks", "tokens", "other groups"])
def test_a_tensor_of_zeros_stays_one(name: str) -> None:
    x = tokens()
    x[2:] = 0
    assert made(*PLANS[name]).holds(x)


def test_kernels_find_the_ranges_of_their_own_blocks() -> None:
    for name, levels in (("blocks", (4, 4, 4)), ("float inputs", (0, 0, 0))):
        wanted = [("MatMulNBits", level) for level in levels]
        assert operators(made(*PLANS[name]).onnx) == wanted
    kinds = operators(made(*PLANS["other groups"]).onnx)
    assert kinds == [("MatMulNBits", 0), ("MatMul", 0), ("MatMulNBits", 0)]


def test_ranges_are_found_in_blocks_of_one_size_alone() -> None:
    onnx = made(*PLANS["two sizes"]).onnx
    assert operators(onnx) == [("MatMulNBits", 4)] * 2 + [("MatMulNBits", 0)]
    assert for_openvino(onnx)[1] == 16


def test_what_a_runtime_has_no_kernel_for_is_expanded() -> None:
    onnx = made(*PLANS["float beside blocks"]).onnx
    lowered, size = for_openvino(onnx)
    wanted = [("MatMulNBits", 4)] * 2 + [("MatMul", 0)]
    assert size == 32 and operators(lowered) == operators(for_onnxruntime(onnx)) == wanted
    onnx = made(*FLOATS).onnx
    blocks = ("MatMulNBits", 0)
    assert operators(for_onnxruntime(onnx)) == [blocks, ("MatMul", 0), blocks]
    assert for_openvino(onnx)[1] == 0 and operators(for_openvino(onnx)[0]) == operators(onnx)
    onnx = made(*TOKENS).onnx
    assert for_onnxruntime(onnx) == onnx and for_openvino(onnx) == (onnx, 0)


@pytest.mark.parametrize("live", [16, 0])
def test_another_reader_reads_the_quantized_tensor(live: int) -> None:
    found = made((weights(4, 16), ROWS, weights(4, 16)), (live, None), Residual)
    assert found.holds(tokens())


def test_samples_without_tokens_are_the_same() -> None:
    assert made((ROWS, ROWS, weights(4, 16)), (0, 16), shape=(6,)).holds(tokens(6))


def test_layers_have_the_form_that_their_input_allows() -> None:
    for name, kinds in (
        ("blocks", [BlockLayer] * 3),
        ("tokens", [DeployedLayer] * 3),
        ("other groups", [BlockLayer, ExpandedLayer, BlockLayer]),
    ):
        layers = named_layers(made(*PLANS[name]).deployed).values()
        assert [type(x) for x in layers] == kinds


@pytest.mark.parametrize("name", ["small blocks", "float inputs"])
def test_stored_bytes_are_those_of_the_account(name: str) -> None:
    options, _ = PLANS[name]
    found = made(*PLANS[name])
    sites = [s for s in found.graph.sites if s.kind == "weight"]
    choices = tuple(
        Choice(site=s.name, options=(Weight(bits=32), option))
        for s, option in zip(sites, options, strict=True)
    )
    space = Space(graph=found.graph, choices=choices)
    account = bill.size(space, header=header_bytes(found.graph)).of((1,) * len(choices))
    assert account == len(pack(found.onnx, found.deployed, found.graph).weights)


@pytest.mark.parametrize("name", ["tokens", "samples beside blocks"])
def test_every_layer_of_the_file_gives_what_the_deployed_one_gives(name: str) -> None:
    found, workload = made(*PLANS[name]), Workload(batch=6)
    for target in CPU:
        off = layer_differences(
            found.onnx, found.deployed, tokens(), target=target, workload=workload
        )
        assert len(off) == 3 and max(off.values()) < NEAR, off


@pytest.mark.parametrize("target", CPU, ids=lambda t: t.name)
def test_a_layer_that_differs_is_named(target: Target) -> None:
    found, x, workload = made(*BLOCKS), tokens(), Workload(batch=6)
    off = layer_differences(found.onnx, found.deployed, x, target=target, workload=workload)
    assert list(off) == ["up", "gate", "down"] and "" == first_difference(off)
    from onnx import numpy_helper

    proto = load_proto(found.onnx)
    for t in proto.graph.initializer:
        if t.name == "gate.scales":
            t.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(t), t.name))
    wrong = proto.SerializeToString()
    off = layer_differences(wrong, found.deployed, x, target=target, workload=workload)
    assert "gate" == first_difference(off)
