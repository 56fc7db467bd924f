"""Laws of faults: what was changed in a file is the layer and the cause that are named.

Faults these must catch: a layer after the broken one named; a quantizer's fault laid on the layer
behind it; a cause given where nothing differs; hooks left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from allot.errors import ParityError
from allot.faults import Fault, fault
from allot.onnx_graph import load_proto
from allot.runtimes import OnnxRuntime
from allot.target import Workload
from allot.task import kl_to_original
from allot.verify import parity, require
from tests.deployables import exported, images
from tests.small import hooks

X = images(40, seed=5)
Edit = Callable[[Any], None]


def found(edit: Edit) -> Fault:
    """What is said of the exported network after its file was edited."""
    onnx, deployed = exported()
    proto = load_proto(onnx)
    edit(proto)
    said = fault(
        proto.SerializeToString(), deployed, X, target=OnnxRuntime(), workload=Workload(batch=40)
    )
    assert hooks(deployed) == 0
    return said


def tensor(proto: Any, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for t in proto.graph.initializer:
        if t.name == name:
            array = numpy_helper.to_array(t)
            t.CopyFrom(numpy_helper.from_array(change(array).astype(array.dtype), name))


def before(proto: Any, kind: str, index: int, op: str, *constants: float) -> None:
    """Puts one node before the index-th of a kind."""
    at = [i for i, n in enumerate(proto.graph.node) if n.op_type == kind][index]
    node = proto.graph.node[at]
    names = []
    for i, value in enumerate(constants):
        names.append(f"put{i}")
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(value), names[-1]))
    new = helper.make_node(op, [node.input[0], *names], ["put"])
    node.input[0] = "put"
    proto.graph.node.insert(at, new)


def test_a_doubled_scale_is_found_with_its_layer() -> None:
    said = found(lambda p: tensor(p, "conv.inner.scale", lambda x: 2 * x))
    # the norm's shift is a bias of its own: the output is no multiple, channels are moved
    assert ("conv", "output") == (said.layer, said.at)
    said = found(lambda p: tensor(p, "stem.0.inner.codes", lambda x: -x))
    assert "stem.0" == said.layer


def test_a_lost_bias_is_an_offset() -> None:
    said = found(lambda p: tensor(p, "conv.inner.bias", np.zeros_like))
    assert ("conv", "output", "offset") == (said.layer, said.at, said.cause.kind)


def test_a_quantizer_that_stops_early_is_saturation_of_what_is_read() -> None:
    said = found(lambda p: before(p, "QuantizeLinear", 1, "Clip", 0.0, 0.9))
    assert ("conv", "input", "saturation") == (said.layer, said.at, said.cause.kind)
    assert "what it reads differs already" in said.text


def test_another_rounding_is_told_by_its_step() -> None:
    onnx, _ = exported()
    proto = load_proto(onnx)
    node = next(n for n in proto.graph.node if n.op_type == "QuantizeLinear")
    step = next(t for t in proto.graph.initializer if t.name == node.input[1])
    half = float(numpy_helper.to_array(step)) / 2
    # a whole half step down rounds nearly everything down, enough to be seen behind the layer
    said = found(lambda p: before(p, "QuantizeLinear", 0, "Sub", 8 * half))
    assert said.layer == "stem.0" and said.at == "input"


def test_nothing_is_found_in_a_file_that_is_right() -> None:
    said = found(lambda p: None)
    assert ("", "fusion") == (said.layer, said.cause.kind)


def test_the_error_names_layer_and_cause() -> None:
    said = found(lambda p: tensor(p, "conv.inner.bias", np.zeros_like))
    a = 3 * images(20).flatten(1)
    bad = parity(a, a.flip(1), divergence=kl_to_original)
    with pytest.raises(ParityError, match=r"conv is the first layer.*likely cause offset") as e:
        require(bad, where=said.layer, why=said.text)
    assert 1 == e.value.exit_code
