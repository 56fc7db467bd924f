"""Laws of torch as a runtime: int8 kernels give what the stored graph says, up to rounding.

The GPU's lowering runs here on the CPU; what needs a device is skipped where there is none.

Faults that must be caught: a zero point taken for 0, scales along the inputs taken for those of
outputs, a bound or a bias lost, a tensor taken that somebody else reads too, threads left changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from allot.errors import MissingError
from allot.options.precision import Activation, Weight
from allot.runtimes.from_onnx import imported
from allot.runtimes.from_onnx.read import Network, read
from allot.runtimes.torch_cpu import TorchCpu, threads
from allot.runtimes.torch_cuda import CudaSession, TorchCuda
from allot.runtimes.torch_cuda import lowered as for_cuda
from allot.runtimes.torch_kernels import lowered as for_cpu
from allot.site import Site
from allot.target import Workload
from tests.deployables import exported, graph, images

needs_cuda = pytest.mark.skipif(
    bool(TorchCuda().missing()), reason=TorchCuda().missing() or "there is a GPU"
)


def layer(op: str, *, cut: str = "", out: bool = True, **changes: Any) -> bytes:
    """A file of one layer on uint8 codes [3, 8, 6, 6] or [3, 5, 8]: bias, a cut, codes if `out`."""
    rng = np.random.default_rng(0)
    conv = op == "Conv"
    shape = {"Conv": (6, 4, 3, 3), "Gemm": (6, 8), "MatMul": (8, 6)}[op]
    codes = rng.integers(-127, 128, shape).astype("i1")
    rows = 1 if op == "MatMul" else 0
    values: dict[str, NDArray[Any]] = {
        "s": np.float32(0.03), "z": np.uint8(7), "codes": codes,
        "ws": (rng.random(6) * 0.01 + 1e-3).astype("f"), "wz": np.zeros(6, "i1"),
        "bias": rng.standard_normal(6).astype("f"), "os": np.float32(0.05), "oz": np.uint8(100),
        "low": np.float32(-0.5), "high": np.float32(1.0),
    } | changes  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["input", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["codes", "ws", "wz"], ["w"], axis=rows),
    ]
    if conv:
        more = {"pads": [1, 1, 1, 1], "strides": [2, 1], "group": 2}
        nodes.append(helper.make_node("Conv", ["x", "w", "bias"], ["y"], **more))
    elif op == "Gemm":
        nodes.append(helper.make_node("Gemm", ["x", "w", "bias"], ["y"], transB=1))
    else:
        nodes.append(helper.make_node("MatMul", ["x", "w"], ["product"]))
        nodes.append(helper.make_node("Add", ["product", "bias"], ["y"]))
    last = "y"
    if cut:
        bounds = ["low", "high"] if cut == "Clip" else []
        nodes.append(helper.make_node(cut, [last, *bounds], ["cut"]))
        last = "cut"
    if out:
        nodes.append(helper.make_node("QuantizeLinear", [last, "os", "oz"], ["last"]))
        last = "last"
    sizes = {"Conv": [3, 8, 6, 6], "Gemm": [5, 8], "MatMul": [3, 5, 8]}
    proto = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("input", TensorProto.UINT8, sizes[op])],
        [helper.make_tensor_value_info(last, TensorProto.UINT8 if out else 1, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("op", ["Conv", "Gemm"])
def test_signed_codes_are_taken_by_linears_and_right_in_convolutions(op: str) -> None:
    file = layer(op, out=False, z=np.int8(3))
    shape = (3, 8, 6, 6) if op == "Conv" else (5, 8)
    x = np.random.default_rng(2).integers(-128, 128, shape).astype(np.int8)
    wanted = imported(file)(torch.from_numpy(x))[0].numpy()
    assert ("allot.Linear8" in operators(for_cpu(read(file)))) == (op == "Gemm")
    for session in (
        TorchCpu().open(file, workload=Workload()),
        CudaSession(file, half=False, compiled=False, device="cpu"),
    ):
        (got,) = session.run({"input": x}).values()
        np.testing.assert_allclose(wanted, got, rtol=1e-4, atol=1e-4)


def codes_for(file: bytes) -> dict[str, NDArray[Any]]:
    shape = {"Conv": (3, 8, 6, 6), "Gemm": (5, 8), "MatMul": (3, 5, 8)}
    op = next(n.op for n in read(file).nodes if n.op in shape)
    return {"input": np.random.default_rng(1).integers(0, 256, shape[op]).astype(np.uint8)}


def plain(file: bytes, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
    found: NDArray[Any] = imported(file)(torch.from_numpy(inputs["input"]))[0].numpy()
    return found


def operators(network: Network) -> list[str]:
    return [n.op for n in network.nodes]


CASES = [
    (op, cut, out)
    for op in ("Conv", "Gemm", "MatMul")
    for cut, out in (("", True), ("Relu", True), ("Clip", False), ("", False))
]


@pytest.mark.parametrize(("op", "cut", "out"), CASES)
def test_one_kernel_stands_for_the_layer_and_gives_its_values(op: str, cut: str, out: bool) -> None:
    file = layer(op, cut=cut, out=out)
    inputs = codes_for(file)
    wanted = plain(file, inputs)
    assert ["allot.Conv8" if op == "Conv" else "allot.Linear8"] == operators(for_cpu(read(file)))
    sessions: list[Any] = [TorchCpu().open(file, workload=Workload())]
    if op != "Conv":
        assert ["allot.Product"] == operators(for_cuda(read(file), half=False))
        sessions.append(CudaSession(file, half=False, compiled=False, device="cpu"))
    for session in sessions:
        (got,) = session.run(inputs).values()
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        if out:
            assert np.abs(got.astype(int) - wanted.astype(int)).max() <= 1
        else:
            np.testing.assert_allclose(wanted, got, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"wz": np.full(6, 1, "i1")},
        {"s": np.full(8, 0.03, "f"), "z": np.zeros(8, "u1")},
        {"codes": np.zeros((8, 6), "u1"), "wz": np.zeros(6, "u1")},
    ],
    ids=["weights with a zero point", "an input of several scales", "unsigned weights"],
)
def test_what_no_kernel_takes_stays_float(changes: dict[str, Any]) -> None:
    file = layer("MatMul", out=False, **changes)
    assert "allot.Linear8" not in operators(for_cpu(read(file)))


def test_a_cut_that_somebody_else_reads_is_not_taken_in() -> None:
    """The layer's sums are an output of their own: they must stay those before the cut."""
    file = layer("Gemm", cut="Relu", out=False)
    from allot.onnx_graph import load_proto

    proto = load_proto(file)
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    inputs = codes_for(file)
    found = TorchCpu().open(proto.SerializeToString(), workload=Workload()).run(inputs)
    assert (found["y"] < 0).any()
    np.testing.assert_array_equal(np.maximum(found["y"], 0), found["cut"])


def test_an_exported_plan_runs_on_int8_kernels() -> None:
    onnx, deployed = exported()
    network = for_cpu(read(onnx))
    assert 2 == operators(network).count("allot.Conv8")
    x = images(4)
    got = TorchCpu().open(onnx, workload=Workload(batch=4)).run({"input": x.numpy()})["output"]
    wanted = deployed(x).numpy()
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()


def test_any_batch_runs_and_no_answer_is_overwritten() -> None:
    session = TorchCpu().open(exported()[0], workload=Workload(batch=6))
    x = images(6).numpy()
    whole = session.run({"input": x})["output"]
    kept = whole.copy()
    parts = [session.run({"input": x[a:b]})["output"] for a, b in ((0, 1), (1, 6))]
    np.testing.assert_array_equal(kept, whole)
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-4, atol=1e-4)


def test_what_is_timed_compiled_is_not_taken_for_what_is_not() -> None:
    assert TorchCpu().version() != TorchCpu(compiled=True).version()


def test_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), threads(before + 1):
        assert before + 1 == torch.get_num_threads()
        raise ZeroDivisionError
    assert before == torch.get_num_threads()


def test_float16_convolutions_come_near_the_float_ones() -> None:
    onnx, deployed = exported()
    x = images(4)
    session = CudaSession(onnx, half=True, compiled=False, device="cpu")
    got = session.run({"input": x.numpy()})["output"]
    wanted = deployed(x).numpy()
    assert 0 < np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()


def site(reach: tuple[str, ...]) -> Site:
    return Site(name="s", kind="activation", shape=(8,), touches=(), reach=reach)


def test_a_gpu_has_integers_for_linears_only() -> None:
    target = TorchCuda()
    assert "" == target.can(Activation(bits=8), site(("head",)), graph())
    assert "linears only" in target.can(Activation(bits=8), site(("head", "conv")), graph())
    assert "" == target.can(Activation(bits=32), site(("conv",)), graph())
    assert "" == target.can(Weight(bits=4), site(("conv",)), graph())


@pytest.mark.skipif(not TorchCuda().missing(), reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_so() -> None:
    assert "" == TorchCuda().version()
    with pytest.raises(MissingError, match=r"CUDA|GPU"):
        TorchCuda().open(b"", workload=Workload())


@needs_cuda
def test_the_gpu_gives_the_values_and_times_itself() -> None:
    onnx, deployed = exported()
    x = images(4)
    session = TorchCuda().open(onnx, workload=Workload(batch=4))
    got = session.run({"input": x.numpy()})["output"]
    wanted = deployed(x).numpy()
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()
    assert isinstance(session, CudaSession) and session.call_seconds({"input": x.numpy()}) > 0


@needs_cuda
@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_tensor_cores_give_the_sums_of_the_cpu(op: str) -> None:
    file = layer(op, out=False)
    inputs = codes_for(file)
    (got,) = TorchCuda().open(file, workload=Workload()).run(inputs).values()
    np.testing.assert_allclose(plain(file, inputs), got, rtol=1e-4, atol=1e-4)
