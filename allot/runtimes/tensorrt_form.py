"""TensorRT form: which rules of TensorRT's explicit quantization an exported graph keeps.

The rules are those of NVIDIA's guide (TensorRT 10, "Working with quantized types" and "Explicit
quantization") and of its ONNX parser: everything quantized is symmetric and signed, weights may be
stored in codes, tensors have one scale.  Nothing is run: whether an engine is fast is another
question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.runtimes.onnx_file import parsed

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# with 13 scales along an axis came in
_OPSET = 13


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule.  broken: tensors or operators that do not keep it.  change: what would."""

    says: str
    broken: tuple[str, ...]
    change: str

    @property
    def holds(self) -> bool:
        return not self.broken


def tensorrt_form(onnx: bytes) -> tuple[Rule, ...]:
    """All rules, with what breaks them in the graph."""
    graph = _Graph(onnx)
    return (
        Rule(
            says="operators are ONNX's own, of version 13 or later",
            broken=graph.foreign(),
            change="write the operation with operators of ONNX; for integers in groups "
            "DequantizeLinear with block_size (version 21)",
        ),
        Rule(
            says="scales are positive constants",
            broken=graph.each(graph.pairs, lambda n: not _positive(graph.value(n.input[1]))),
            change="calibrate: ranges found at run time have no kernel in int8",
        ),
        Rule(
            says="weights are signed 8-bit codes with zero point 0",
            broken=graph.each(graph.weights, lambda n: not graph.is_signed(n, weight=True)),
            change="store codes of -128..127 around 0",
        ),
        Rule(
            says="weights have one scale, or one for every output channel",
            broken=graph.each(graph.weights, lambda n: not graph.is_per_output(n)),
            change="put the scales along the output channels: axis 0 of a convolution",
        ),
        Rule(
            says="tensors have one scale",
            broken=graph.each(graph.tensors, lambda n: not graph.is_single(n)),
            change="use one range for the whole tensor",
        ),
        Rule(
            says="tensors are signed 8-bit codes with zero point 0",
            broken=graph.each(graph.tensors, lambda n: not graph.is_signed(n, weight=False)),
            change="choose ranges of -128..127 steps around 0; unsigned codes around 128 are the "
            "same values, but behind a ReLU half of the codes are then never used",
        ),
        Rule(
            says="codes are read by DequantizeLinear alone, on the grid they were written on",
            broken=graph.unpaired(),
            change="put QuantizeLinear and DequantizeLinear next to each other",
        ),
        Rule(
            says="biases are float",
            broken=graph.coded_biases(),
            change="store the bias as float32; the builder folds it in",
        ),
    )


def _positive(scale: NDArray[Any] | None) -> bool:
    return scale is not None and bool((scale > 0).all())


class _Graph:
    """What the rules ask of a graph."""

    def __init__(self, onnx: bytes) -> None:
        self._proto = parsed(onnx)
        self.nodes: tuple[Any, ...] = tuple(self._proto.graph.node)

    @cached_property
    def _constants(self) -> dict[str, Any]:
        return {t.name: t for t in self._proto.graph.initializer}

    @cached_property
    def _readers(self) -> dict[str, list[tuple[Any, int]]]:
        found: dict[str, list[tuple[Any, int]]] = {}
        for n in self.nodes:
            for i, x in enumerate(n.input):
                found.setdefault(x, []).append((n, i))
        return found

    def value(self, name: str) -> NDArray[Any] | None:
        """A constant, None for what is computed."""
        from onnx import numpy_helper

        found = self._constants.get(name)
        return None if found is None else np.asarray(numpy_helper.to_array(found))

    @cached_property
    def pairs(self) -> tuple[Any, ...]:
        return tuple(n for n in self.nodes if n.op_type in (_QUANTIZE, _DEQUANTIZE))

    @cached_property
    def weights(self) -> tuple[Any, ...]:
        """DequantizeLinear of constants."""
        return tuple(
            n for n in self.pairs if n.op_type == _DEQUANTIZE and n.input[0] in self._constants
        )

    @cached_property
    def tensors(self) -> tuple[Any, ...]:
        """QuantizeLinear of what is computed."""
        return tuple(n for n in self.pairs if n.op_type == _QUANTIZE)

    def each(self, nodes: Sequence[Any], is_broken: Any) -> tuple[str, ...]:
        """What those nodes of several make that break a rule."""
        return tuple(n.output[0] for n in nodes if is_broken(n))

    def foreign(self) -> tuple[str, ...]:
        found = dict.fromkeys(n.op_type for n in self.nodes if n.domain not in ("", "ai.onnx"))
        versions = {x.domain: x.version for x in self._proto.opset_import}
        old = versions.get("", versions.get("ai.onnx", 0)) < _OPSET
        return (*found, *(["the version"] if old else []))

    def is_signed(self, node: Any, *, weight: bool) -> bool:
        """int8 around 0.  Of a weight the codes tell, of a tensor the zero point."""
        zero = self.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        codes = self.value(node.input[0]) if weight else zero
        signed = codes is not None and codes.dtype == np.int8
        return signed and (zero is None or not zero.any())

    def is_single(self, node: Any) -> bool:
        scale = self.value(node.input[1])
        return scale is not None and scale.size == 1

    def is_per_output(self, node: Any) -> bool:
        scale = self.value(node.input[1])
        if scale is None or scale.ndim > 1 or _number(node, "block_size", 0):
            return False
        return scale.size == 1 or all(
            _number(node, "axis", 1) == dim for dim in self._output_dims(node.output[0])
        )

    def _output_dims(self, name: str) -> Iterator[int]:
        """The dim of the output channels of a weight, for everyone who multiplies with it."""
        for reader, place in self._readers.get(name, []):
            if reader.op_type == "Transpose":
                yield from (1 - dim for dim in self._output_dims(reader.output[0]))
            elif reader.op_type == "Gemm" and place == 1:
                yield 0 if _number(reader, "transB", 0) else 1
            elif reader.op_type == "MatMul" and place == 1:
                yield 1
            elif reader.op_type == "ConvTranspose":
                yield 1
            elif reader.op_type == "Conv":
                yield 0

    def unpaired(self) -> tuple[str, ...]:
        found = []
        for n in self.tensors:
            readers = [r for r, _ in self._readers.get(n.output[0], [])]
            same = all(
                r.op_type == _DEQUANTIZE and list(r.input[1:]) == list(n.input[1:]) for r in readers
            )
            if not readers or not same:
                found.append(n.output[0])
        return tuple(found)

    def coded_biases(self) -> tuple[str, ...]:
        made = {n.output[0] for n in self.weights}
        layers = (n for n in self.nodes if n.op_type in ("Conv", "Gemm") and len(n.input) > 2)
        return tuple(n.output[0] for n in layers if n.input[2] in made)


def _number(node: Any, name: str, usual: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), usual)
