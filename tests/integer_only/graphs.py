"""Graphs: small files in the form that allot exports, written by hand, with random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, shape_inference

SIZE = (3, 8, 8)


class Graph:
    """A QDQ graph under construction; every method returns the name of a float tensor."""

    def __init__(self, seed: int = 0, size: Sequence[int] = SIZE) -> None:
        self.random = np.random.default_rng(seed)
        self.size = tuple(size)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.channels = {"input": self.size[0]}

    def constant(self, value: Any, name: str = "") -> str:
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, **given: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **given))
        self.channels[name] = self.channels.get(inputs[0], 0)
        return name

    def quantized(self, x: str, scale: float, zero: int = 0, bits: int = 8) -> str:
        """x on 2^bits codes, in floats again."""
        if bits < 8:
            ends = [(-zero) * scale, (2**bits - 1 - zero) * scale]
            x = self.node("Clip", x, *(self.constant(np.float32(v)) for v in ends))
        grid = self.constant(np.float32(scale)), self.constant(np.uint8(zero))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *grid), *grid)

    def weight(self, name: str, codes: np.ndarray, scale: np.ndarray) -> str:
        given = (
            self.constant(codes.astype(np.int8), f"{name}.inner.codes"),
            self.constant(scale.astype(np.float32), f"{name}.inner.scale"),
            self.constant(np.zeros(len(codes), np.int8), f"{name}.inner.zero"),
        )
        return self.node("DequantizeLinear", *given, axis=0)

    def layer(
        self, x: str, out: int, *, name: str = "layer", kernel: int = 3, bits: int = 8,
        bias: np.ndarray | None = None, codes: np.ndarray | None = None,
        scale: np.ndarray | None = None, **given: Any,
    ) -> str:  # fmt: skip
        """A convolution, or a linear layer for kernel 0, of random codes and scales."""
        ins = self.channels[x] // given.get("group", 1)
        shape = (out, ins, kernel, kernel) if kernel else (out, ins)
        half = 2 ** (bits - 1)
        drawn = self.random.integers(-half, half, shape)
        codes = np.broadcast_to(drawn if codes is None else codes, shape)
        scale = np.exp(self.random.uniform(-5, -2, out)) if scale is None else scale
        weight = self.weight(name, codes, scale)
        bias = self.random.normal(size=out) if bias is None else bias
        inputs = (x, weight, self.constant(bias.astype(np.float32), f"{name}.inner.bias"))
        made = self.node("Conv", *inputs, **given) if kernel else self.node(
            "Gemm", *inputs, alpha=1.0, beta=1.0, transB=1
        )  # fmt: skip
        self.channels[made] = out
        return made

    def finished(self, output: str) -> bytes:
        """The file with `output` as its output, shapes known."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = "output" if name == output else name
        made = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *self.size])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
            self.constants,
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 10
        return bytes(shape_inference.infer_shapes(model, data_prop=True).SerializeToString())


def start(g: Graph, bits: int = 8) -> str:
    """The network's input on a grid with a zero point inside."""
    return g.quantized("input", 6 / (2**bits - 1), zero=2 ** (bits - 1) - 3, bits=bits)


def single(g: Graph) -> str:
    return g.quantized(g.node("Relu", g.layer(start(g), 5, pads=[1, 0, 2, 1])), 0.3)


def strided(g: Graph) -> str:
    x = g.layer(start(g, 4), 6, bits=3, strides=[2, 1], dilations=[1, 2], pads=[1, 2, 1, 2])
    return g.quantized(x, 0.7, zero=9, bits=4)


def depthwise(g: Graph) -> str:
    x = g.quantized(g.node("Relu", g.layer(start(g), 6, name="a")), 0.2)
    x = g.layer(x, 6, name="b", kernel=3, group=6, pads=[1, 1, 1, 1])
    six = g.constant(np.float32(6))
    return g.quantized(g.node("Clip", x, g.constant(np.float32(0)), six), 6 / 255)


def residual(g: Graph) -> str:
    """A shortcut of codes, then one of sums."""
    x = g.quantized(g.node("Relu", g.layer(start(g), 4, name="a", pads=[1] * 4)), 0.25)
    y = g.quantized(g.node("Relu", g.layer(x, 4, name="b", pads=[1] * 4)), 0.4)
    y = g.node("Add", g.layer(y, 4, name="c", pads=[1] * 4), x)
    y = g.quantized(g.node("Relu", y), 1.1)
    short = g.layer(y, 4, name="d", kernel=1)
    y = g.node("Add", short, g.layer(y, 4, name="e", pads=[1] * 4))
    return g.quantized(y, 2.0, zero=100)


def padded_shortcut(g: Graph) -> str:
    """Every second place, channels of zeros on both sides: ResNet's option A."""
    x = g.quantized(g.node("Relu", g.layer(start(g), 4, name="a", pads=[1] * 4)), 0.25, zero=3)
    cut = [g.constant(np.array(v)) for v in ([0, 0], [2**62, 2**62], [2, 3], [2, 2])]
    short = g.node("Slice", x, *cut)
    short = g.node("Pad", short, g.constant(np.array([0, 2, 0, 0, 0, 2, 0, 0])))
    y = g.layer(x, 8, name="b", strides=[2, 2], pads=[1] * 4)
    return g.quantized(g.node("Relu", g.node("Add", y, short)), 0.9)


def pools(g: Graph) -> str:
    """A max pool before and one after a quantizer, hanging over; an average that overlaps."""
    x = g.node("Relu", g.layer(start(g), 4, name="a", pads=[1] * 4))
    x = g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = g.quantized(x, 0.3, zero=7)
    x = g.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, pads=[1, 0, 0, 0])
    x = g.layer(x, 5, name="b", kernel=1)
    x = g.node(
        "AveragePool", x, kernel_shape=[2, 2], strides=[1, 1], pads=[1, 0, 0, 1],
        count_include_pad=1,
    )  # fmt: skip
    return g.quantized(x, 0.5, zero=128)


def classifier(g: Graph) -> str:
    """Mean of rectified sums, flattened, linear: logits of several scales."""
    x = g.node("Relu", g.layer(start(g), 6, name="a"))
    x = g.node("GlobalAveragePool", x)
    x = g.quantized(g.node("Flatten", x), 0.1)
    g.channels[x] = 6
    return g.layer(x, 4, name="head", kernel=0)


def reduced(g: Graph) -> str:
    """A mean by ReduceMean of codes with a zero point, out as a mean of sums."""
    x = g.quantized(g.layer(start(g), 6, name="a"), 0.4, zero=120)
    dims = g.constant(np.array([-1, -2]))
    return g.node("ReduceMean", x, dims, keepdims=0)


def affine(g: Graph) -> str:
    """A scale and a shift per channel, some of them negative, around a clip."""
    x = g.node("Relu", g.layer(start(g), 4, name="a"))
    gain = g.constant(np.array([0.5, -1.5, 2.0, -0.1], np.float32).reshape(4, 1, 1))
    shift = g.constant(np.array([0.5, 3.0, -2.0, 0.0], np.float32).reshape(1, 4, 1, 1))
    x = g.node("Add", g.node("Mul", x, gain), shift)
    return g.quantized(g.node("Add", x, g.constant(np.float32(0.25))), 0.6, zero=60)


def joined(g: Graph) -> str:
    """Codes beside sums beside what was rectified, along channels."""
    x = g.quantized(g.node("Relu", g.layer(start(g), 4, name="a", pads=[1] * 4)), 0.3)
    y = g.layer(x, 3, name="b", kernel=1)
    z = g.node("Relu", g.layer(x, 2, name="c", kernel=1))
    return g.quantized(g.node("Concat", x, y, z, axis=1), 0.8, zero=50)


def clips(g: Graph) -> str:
    """Three clips, each of which leaves a bound of the others, two of them around a pool."""
    x = g.layer(start(g), 4, name="a", pads=[1] * 4)
    for low, high in ((0.5, 9.0), (-1.0, 4.0), (-2.0, 3.0)):
        x = g.node("Clip", x, *(g.constant(np.float32(v)) for v in (low, high)))
        if low == -1.0:
            x = g.node("MaxPool", x, kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1)
    return g.quantized(x, 0.02, zero=5)


ALL: tuple[Callable[[Graph], str], ...] = (
    single, strided, depthwise, residual, padded_shortcut, pools, classifier, reduced, affine,
    joined, clips,
)  # fmt: skip


def made(build: Callable[[Graph], str], seed: int = 0, size: Sequence[int] = SIZE) -> bytes:
    """The file of one of them."""
    g = Graph(seed, size)
    return g.finished(build(g))


def inputs(n: int = 40, seed: int = 1, size: Sequence[int] = SIZE) -> np.ndarray:
    """Codes [n, *size]: nothing, everything, and random ones."""
    x = np.random.default_rng(seed).integers(0, 256, (n, *size)).astype(np.uint8)
    x[0], x[1] = 0, 255
    return x
