"""Laws of the importer: what torch computes of a file is what ONNX Runtime computes of it.

Faults that must be caught: halves rounded up, an axis counted from the wrong end, uneven padding
taken for even, the high bits of a packed byte read first, a zero point left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from allot.errors import ModelError
from allot.onnx_graph import to_onnx
from allot.runtimes.from_onnx import imported
from allot.runtimes.from_onnx.build import build, folded
from allot.runtimes.from_onnx.fused import fused
from allot.runtimes.from_onnx.read import read
from tests import attention, toys

Arrays = Mapping[str, NDArray[Any]]


def reals(*shape: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(*shape: int, low: int = 0, high: int = 256, kind: Any = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(1).integers(low, high, shape).astype(kind)


def reference(file: bytes, inputs: Arrays) -> list[NDArray[Any]]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def same_as_reference(file: bytes, inputs: Arrays, *, atol: float = 1e-4) -> None:
    """Every output is that of ONNX Runtime, in value, shape and type."""
    module = imported(file)
    names = read(file).inputs
    with torch.inference_mode():
        found = module(*(torch.from_numpy(inputs[n]) for n in names))
    for a, b in zip(reference(file, inputs), found, strict=True):
        assert a.dtype == b.numpy().dtype
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-4, atol=atol)


class Denoiser(nn.Module):
    """UNet-like: image [n, 3, 8, 8], step [n] -> [n, 3, 8, 8], with group norms and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.norm, self.norm2 = nn.GroupNorm(4, 8), nn.GroupNorm(4, 16)
        self.time, self.qkv = nn.Linear(16, 8), nn.Linear(16, 48)
        self.label = nn.Embedding(7, 16)
        self.up, self.turned = nn.Conv2d(16, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, *, image: Tensor, step: Tensor, label: Tensor) -> Tensor:
        waves = step[:, None].float() * torch.exp(-torch.arange(8) * 1.1)[None]
        time = torch.cat([waves.sin(), waves.cos()], -1) + self.label(label)
        h = functional.silu(self.norm(self.first(image))) + self.time(time)[:, :, None, None]
        d = functional.silu(self.norm2(self.down(h)))
        n, c, y, x = d.shape
        q, k, v = (
            self.qkv(d.flatten(2).transpose(1, 2)).view(n, y * x, 3, 2, 8).permute(2, 0, 3, 1, 4)
        )
        a = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, y * x, c)
        d = d + a.transpose(1, 2).reshape(n, c, y, x)
        u = self.up(functional.interpolate(d, scale_factor=2.0, mode="nearest"))
        side = self.turned(functional.avg_pool2d(h, 2))
        half = functional.interpolate(
            functional.max_pool2d(side, 3, 2, 1), size=(8, 8), mode="bilinear"
        )
        return self.last(torch.cat([u, h], 1)) + half[:, :3]


class Modulated(nn.Module):
    """DiT-like with turned queries as in Llama: tokens [n, t, 16], condition [n, 16] -> tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.root = nn.LayerNorm(16, elementwise_affine=False), nn.RMSNorm(16)
        self.six, self.qkv = nn.Linear(16, 64), nn.Linear(16, 48, bias=False)
        self.up, self.down = nn.Linear(16, 40), nn.Linear(20, 16)

    def forward(self, *, tokens: Tensor, condition: Tensor) -> Tensor:
        a, b, gate, last = self.six(functional.silu(condition)).chunk(4, -1)
        h = self.norm(tokens) * (1 + a[:, None]) + b[:, None]
        n, t, c = h.shape
        q, k, v = self.qkv(h).view(n, t, 3, 2, 8).permute(2, 0, 3, 1, 4)
        place = torch.arange(t, device=h.device)[:, None] * torch.exp(-torch.arange(4.0))
        cos, sin = torch.cat([place.cos()] * 2, -1), torch.cat([place.sin()] * 2, -1)
        q, k = (x * cos + torch.cat([-x[..., 4:], x[..., :4]], -1) * sin for x in (q, k))
        found = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        tokens = tokens + gate[:, None] * found.transpose(1, 2).reshape(n, t, c)
        one, two = self.up(self.root(tokens)).chunk(2, -1)
        return tokens + last[:, None] * self.down(functional.gelu(one, approximate="tanh") * two)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "padded": (toys.padded, toys.images),
    "separable": (toys.separable, toys.images),
    "vision": (attention.made(depth=1), toys.images),
    "language": (attention.language, lambda: torch.arange(36).view(4, 9) % 5),
    "denoiser": (
        lambda: toys.seeded(Denoiser()),
        lambda: {"image": toys.images(), "step": torch.arange(4) * 9, "label": torch.arange(4)},
    ),
    "modulated": (
        lambda: toys.seeded(Modulated()),
        lambda: {"tokens": torch.randn(4, 6, 16), "condition": torch.randn(4, 16)},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_what_onnx_runtime_gives(name: str) -> None:
    make, data = NETWORKS[name]
    inputs = data()
    named = {"input": inputs} if isinstance(inputs, Tensor) else inputs
    two = {k: v[:2] for k, v in named.items()}
    file = to_onnx(
        make(), two["input"] if isinstance(inputs, Tensor) else two, input_names=list(named)
    )
    same_as_reference(file, {k: v.numpy() for k, v in named.items()})


def file_of(
    op: str, inputs: Arrays, constants: Arrays, *, outs: int = 1, opset: int = 18, **settings: Any
) -> bytes:
    """A file of one operator; inputs first, then constants, "" for one left out."""
    domain, _, kind = op.rpartition(".")
    order = [*inputs, *("" if v is None else k for k, v in constants.items())]
    names = [f"out{i}" for i in range(outs)]
    node = helper.make_node(kind, order, names, domain=domain, **settings)
    types = {k: helper.np_dtype_to_tensor_dtype(v.dtype) for k, v in inputs.items()}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(k, types[k], list(v.shape)) for k, v in inputs.items()],
        [onnx.ValueInfoProto(name=n) for n in names],
        [numpy_helper.from_array(v, k) for k, v in constants.items() if v is not None],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("name", ["vision", "language"])
def test_what_is_fused_gives_the_same_in_fewer_operators(name: str) -> None:
    make, data = NETWORKS[name]
    x = data()
    whole = folded(read(to_onnx(make(), x[:2])))
    short = fused(whole)
    before, after = (Counter(n.op for n in w.nodes) for w in (whole, short))
    linears = sum(isinstance(m, nn.Linear) for m in make().modules())
    assert before["Erf"] == after["Gelu"] == before["Gelu"] + 1 + (name == "language")
    assert after["Erf"] == 0 and after["Gemm"] >= linears - 1
    for a, b in zip(build(whole)(x), build(short)(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_bias_that_somebody_else_reads_before_is_not_fused() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Add", ["y", "b"], ["z"]),
        helper.make_node("Relu", ["y"], ["r"]),
    ]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("z", "r")]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])],
        outs,
        [numpy_helper.from_array(v, k) for k, v in {"w": reals(4, 5), "b": reals(5)}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    network = read(model.SerializeToString())
    assert network.nodes == fused(network).nodes


def ints(*values: int) -> NDArray[Any]:
    return np.array(values, dtype=np.int64)


ZERO, STEP = np.array(7, dtype=np.uint8), np.array(0.05, dtype=np.float32)
IMAGE = {"x": reals(2, 4, 7, 6)}
# operator, inputs, constants, settings
ONES: tuple[tuple[str, Arrays, Any, dict[str, Any]], ...] = (
    (
        "Conv",
        IMAGE,
        {"w": reals(6, 2, 3, 3)},
        {"pads": [0, 1, 2, 1], "group": 2, "strides": [2, 1]},
    ),
    ("MaxPool", IMAGE, {}, {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", IMAGE, {}, {"kernel_shape": [3, 3], "pads": [0, 1, 1, 1]}),
    ("AveragePool", IMAGE, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ("Gemm", {"x": reals(5, 4)}, {"w": reals(4, 3), "b": reals(5, 3)}, {"alpha": 0.5, "beta": 2.0}),
    ("Slice", IMAGE, {"a": ints(-2, 6), "b": ints(-9, 1), "c": ints(3, 2), "d": ints(-2, -1)}, {}),
    ("Pad", IMAGE, {"p": ints(0, 0, 1, 2, 0, 0, 0, 1)}, {"mode": "reflect"}),
    ("Pad", IMAGE, {"p": ints(0, 1, 0, 2, 1, 0, 0, 1), "v": np.array(3, np.float32)}, {}),
    ("Gather", IMAGE, {"i": ints(-1, 0)}, {"axis": 2}),
    ("Gather", IMAGE, {"i": np.array(2)}, {"axis": 1}),
    ("GatherElements", IMAGE, {"i": np.full((2, 4, 7, 2), -1)}, {"axis": -1}),
    ("Split", IMAGE, {"s": ints(1, 3)}, {"axis": 1, "outs": 2}),
    ("Split", IMAGE, {}, {"axis": 2, "num_outputs": 3, "outs": 3}),
    ("TopK", IMAGE, {"k": ints(2)}, {"axis": 2, "largest": 0, "outs": 2}),
    ("Round", {"x": np.array([0.5, 1.5, -0.5, 2.4], np.float32)}, {}, {}),
    ("Div", {"x": ints(-7, 7)}, {"y": ints(2, 2)}, {}),
    ("ReduceMean", IMAGE, {"a": ints(1, -1)}, {"keepdims": 0}),
    ("CumSum", IMAGE, {"a": np.array(1)}, {"exclusive": 1}),
    ("DepthToSpace", IMAGE, {}, {"blocksize": 2, "mode": "DCR"}),
    ("HardSigmoid", IMAGE, {}, {"alpha": 0.3}),
    ("Resize", IMAGE, {"r": None, "s": None, "n": ints(2, 4, 5, 9)}, {"mode": "linear"}),
    ("QuantizeLinear", {"x": reals(3, 4)}, {"s": STEP, "z": ZERO}, {}),
    ("QuantizeLinear", {"x": reals(3, 4)}, {"s": abs(reals(4)), "z": np.int8([0, 1, -2, 3])}, {}),
    ("DequantizeLinear", {"x": integers(3, 4)}, {"s": reals(3), "z": integers(3)}, {"axis": -2}),
    ("DynamicQuantizeLinear", {"x": reals(3, 4)}, {}, {"outs": 3}),
    ("MatMulInteger", {"x": integers(3, 8)}, {"w": integers(8, 5), "a": ZERO, "b": ZERO}, {}),
    (
        "com.microsoft.MatMulIntegerToFloat",
        {"x": integers(3, 8)},
        {
            "w": integers(8, 5, low=-99, high=99, kind=np.int8),
            "s": STEP,
            "t": abs(reals(5)),
            "z": ZERO,
            "y": np.zeros(5, np.int8),
            "b": reals(5),
        },
        {},
    ),
    (
        "com.microsoft.DynamicQuantizeMatMul",
        {"x": reals(3, 8)},
        {"w": integers(8, 5, low=-99, high=99, kind=np.int8), "s": abs(reals(5))},
        {},
    ),
)


@pytest.mark.parametrize("case", ONES, ids=[f"{i}-{c[0]}" for i, c in enumerate(ONES)])
def test_an_operator_gives_what_onnx_runtime_gives(case: Any) -> None:
    op, inputs, constants, settings = case
    same_as_reference(file_of(op, inputs, constants, **settings), inputs, atol=1e-5)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_block_weights_of_any_width_are_read(bits: int, zeros: bool) -> None:
    n, k, block = 5, 40, 16
    blocks = -(-k // block)
    constants: dict[str, Any] = {
        "w": integers(n, blocks, block * bits // 8),
        "s": abs(reals(n * blocks)) + 0.1,
    }
    if zeros:
        constants["z"] = integers(n * -(-blocks * bits // 8))
    inputs = {"x": reals(3, k)}
    file = file_of(
        "com.microsoft.MatMulNBits", inputs, constants, K=k, N=n, bits=bits, block_size=block
    )
    same_as_reference(file, inputs, atol=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_of_an_input_are_rounded_where_the_file_says_so(bits: int) -> None:
    n, k, block = 5, 64, 32
    constants = {"w": integers(n, 2, block * bits // 8), "s": abs(reals(n * 2)) + 0.1}
    inputs = {"x": reals(3, k)}
    given = {"K": k, "N": n, "bits": bits, "block_size": block}
    op = "com.microsoft.MatMulNBits"
    rounded = file_of(op, inputs, constants, accuracy_level=4, **given)
    same_as_reference(rounded, inputs, atol=1e-3)
    x = torch.from_numpy(inputs["x"])
    exact = imported(file_of(op, inputs, constants, **given))(x)[0]
    assert (imported(rounded)(x)[0] - exact).abs().max() > 1e-2


def test_block_weights_are_expanded_once_on_load() -> None:
    file = file_of(
        "com.microsoft.MatMulNBits",
        {"x": reals(1, 16)},
        {"w": integers(3, 1, 8), "s": reals(3)},
        K=16, N=3, bits=4, block_size=16,
    )  # fmt: skip
    module = imported(file)
    assert (16, 3) in {tuple(b.shape) for b in module.buffers()}
    assert all(b.is_floating_point() for b in module.buffers())


@pytest.mark.parametrize(
    ("op", "settings", "said"),
    [
        ("Hardmax", {}, "operator Hardmax"),
        ("com.microsoft.Gelu", {}, "operator com.microsoft.Gelu"),
        ("Conv", {"auto_pad": "SAME_UPPER"}, "auto_pad"),
    ],
)
def test_what_torch_does_not_run_is_named(op: str, settings: dict[str, Any], said: str) -> None:
    constants = {"w": reals(4, 4, 3, 3)} if op == "Conv" else {}
    with pytest.raises(ModelError, match=said):
        imported(file_of(op, IMAGE, constants, **settings))


def test_another_opset_is_refused() -> None:
    with pytest.raises(ModelError, match="opset 9"):
        imported(file_of("Relu", IMAGE, {}, opset=9))


def test_a_setting_that_is_not_known_is_named() -> None:
    file = file_of(
        "Resize", IMAGE, {"r": None, "s": None, "n": ints(2, 4, 5, 9)}, axes=[0, 1, 2, 3]
    )
    with pytest.raises(ModelError, match=r"Resize.*axes"):
        imported(file)


def test_shapes_stay_on_the_host() -> None:
    """A reshape to a size that is read off another tensor needs no tensor of numbers."""
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Gather", ["size", "first"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "zero"], ["row"]),
        helper.make_node("Concat", ["row", "rest"], ["new"], axis=0),
        helper.make_node("Reshape", ["x", "new"], ["out"]),
    ]
    constants = {"first": np.array(0), "zero": ints(0), "rest": ints(-1)}
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    module = imported(model.SerializeToString())
    assert [] == list(module.buffers())
    assert (5, 6) == tuple(module(torch.zeros(5, 2, 3))[0].shape)
