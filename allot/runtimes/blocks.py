"""Blocks in a runtime: MatMulNBits where its kernel is fast and computes what was measured.

The operator with accuracy_level 4 finds ranges of its input itself, without it computes in float.
Found on ONNX Runtime 1.31 and OpenVINO 2026.4: both put blocks of the input on signed integers of
8 bits, scale = max |x| / 127, nearest, and differ from that by rounding of float32 alone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.num.blocks import apart, together, values

_INTEGERS = 4
# of codes of 2 bits, for which ONNX Runtime has kernels
_PAIRS = (32, 64, 128)


def for_onnxruntime(onnx: bytes) -> bytes:
    """The file with codes in a width that it has a kernel for, or expanded to float.

    Where it has none it takes a loop that is 20 to 30 times as slow as float: for codes of 2 and 8
    bits that meet a float input, and for codes of 2 bits in blocks of 16 and 256.
    """
    if b"MatMulNBits" not in onnx:
        return onnx
    proto = _load(onnx)
    for node in _blocks(proto):
        live, bits = _live(node), _number(node, "bits")
        if bits == 2 and not (live and _number(node, "block_size") in _PAIRS):
            _widen(proto, node, 4)
        elif bits == 8 and not live:
            _expand(proto, node)
    return _saved(proto)


def for_openvino(onnx: bytes) -> tuple[bytes, int]:
    """The file, and the size of blocks of an input whose ranges are to be found; 0 for none.

    OpenVINO finds them for every operator whose blocks have that size or a larger one: of those,
    what meets a float input is expanded to float. Where zero points of a row fill no whole byte it
    finds none: such codes become 8 bits wide.
    """
    if b"MatMulNBits" not in onnx:
        return onnx, 0
    proto = _load(onnx)
    # the export lets operators of one size alone find ranges
    size = min((_number(n, "block_size") for n in _blocks(proto) if _live(n)), default=0)
    for node in _blocks(proto) if size else ():
        groups, bits = _number(node, "K") // _number(node, "block_size"), _number(node, "bits")
        if _live(node) and len(node.input) > 3 and groups * bits % 8:
            _widen(proto, node, 8)
        elif not _live(node) and _number(node, "block_size") >= size:
            _expand(proto, node)
    return _saved(proto), size


def _expand(proto: Any, node: Any) -> None:
    """A product with a float matrix in the operator's place."""
    codes, scales, *zeros = _tensors(proto, node)
    weight = values(codes, scales, zeros[0] if zeros else None, bits=_number(node, "bits"))
    del node.input[1:], node.attribute[:]
    node.op_type, node.domain = "MatMul", ""
    _read(proto, node, {"weight": weight.T.copy()})


def _widen(proto: Any, node: Any, wide: int) -> None:
    """The same operator on codes of more bits, in place."""
    bits = _number(node, "bits")
    data, scales, *zeros = _tensors(proto, node)
    del node.input[1:]
    # without zero points half the range is taken off, which has grown
    shift = 0 if zeros else 2 ** (wide - 1) - 2 ** (bits - 1)
    codes = apart(data, bits) + np.uint8(shift)
    new = {"blocks": together(codes, wide), "scales": scales}
    if zeros:
        new["zeros"] = together(apart(zeros[0], bits)[:, : scales.shape[1]], wide)
    _read(proto, node, new)
    next(a for a in node.attribute if a.name == "bits").i = wide


def _tensors(proto: Any, node: Any) -> list[NDArray[Any]]:
    from onnx import numpy_helper

    held = {t.name: t for t in proto.graph.initializer}
    return [numpy_helper.to_array(held[name]) for name in node.input[1:]]


def _read(proto: Any, node: Any, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Tensors as further inputs of a node, under names of its own."""
    from onnx import numpy_helper

    for role, value in tensors.items():
        name = f"{node.output[0]}.{role}"
        proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        node.input.append(name)


def _saved(proto: Any) -> bytes:
    """As bytes, without tensors that nothing reads any more."""
    read = {name for n in proto.graph.node for name in n.input}
    kept = [t for t in proto.graph.initializer if t.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return bytes(proto.SerializeToString(deterministic=True))


def _load(onnx: bytes) -> Any:
    import onnx as library

    return library.load(io.BytesIO(onnx), load_external_data=False)


def _blocks(proto: Any) -> list[Any]:
    return [n for n in proto.graph.node if n.op_type == "MatMulNBits"]


def _live(node: Any) -> bool:
    return _number(node, "accuracy_level") == _INTEGERS


def _number(node: Any, name: str) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), 0)
