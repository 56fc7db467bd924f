"""Packed: the weights of an ONNX file at their true bit width, one tensor per layer, and back.

weights.safetensors holds one uint8 tensor per layer, named after the module: codes at `bits` each,
then float32 scales, then float32 biases (a float layer: weight, then bias), and one tensor "*" with
what belongs to no layer; an embedding in codes is stored as layers are, one in float there. The
header is padded to the length that the float original would need, so that its bytes, and with them
the size of a plan, are known before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from allot import entropy_layers, packed_format
from allot.deploy import named_layers, tables
from allot.deployed import CodedLayer, ExpandedLayer, FloatLayer, FormattedLayer
from allot.deployed_blocks import BlockLayer
from allot.deployed_tables import CodedEmbedding
from allot.errors import ArtefactError
from allot.files import json_bytes
from allot.num import pack as bits_of
from allot.onnx_graph import load_proto
from allot.option import count
from allot.site import Graph

VERSION = 1
REST = "*"
# a constant of the graph with more elements than this counts as weights, whoever made it
_SMALL = 16

Bytes = NDArray[np.uint8]
Stored = FloatLayer | CodedLayer | BlockLayer | CodedEmbedding


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Three files: weights (safetensors), graph (ONNX with empty tensors), layout (JSON)."""

    weights: bytes
    graph: bytes
    layout: bytes


def stored_bytes(shape: tuple[int, ...], bits: float, *, bias: bool) -> int:
    """Bytes of a layer's tensor: weight shape [out, ...], bits 2..8 or 32 for float."""
    fixed = 4 * shape[0] if bias else 0
    if bits == 32:
        return 4 * count(shape) + fixed
    return bits_of.packed_size(count(shape), int(bits)) + 4 * shape[0] + fixed


def header_bytes(graph: Graph) -> int:
    """Bytes of the weights file before the first tensor, the same for every plan of a graph."""
    names = [x.module for x in graph.layers] + ([REST] if graph.loose else [])
    names += [s.touches[0].module for s in graph.embeddings if not s.fixed]
    return 8 + _header_room(names, _digits(graph))


def _digits(graph: Graph) -> int:
    # every layer's scales fit below what its float weight takes; 8 more bytes a row to be sure
    rows = sum(x.weight[0] for x in graph.layers)
    return len(str(graph.folded_bytes + 8 * rows))


def _header_room(names: list[str], digits: int) -> int:
    room = 2 + sum(len(_entry(n, 0, 0, 0)) - 3 + 3 * digits + 1 for n in names)
    return -(-room // 8) * 8


def _entry(name: str, size: int, start: int, end: int) -> bytes:
    value = {"dtype": "U8", "shape": [size], "data_offsets": [start, end]}
    return json.dumps({name: value}, separators=(",", ":")).encode()[1:-1]


def pack(onnx: bytes, deployed: nn.Module, graph: Graph) -> Packed:
    """The exported network with its weights taken out and packed; `unpack` gives it back.

    Raises JobError where the exporter did not keep a tensor under the name of its module.
    """
    proto = load_proto(onnx)
    tensors = {t.name: t for t in proto.graph.initializer}
    paths = {id(m): path for path, m in deployed.named_modules()}
    held = stored(deployed)
    layout, payload = (
        [e for e, _ in held.values()],
        {name: data for name, (_, data) in held.items()},
    )
    for entry in layout:
        packed_format.expect(entry, tensors)
    taken = {t for e in layout for t in e["into"].values()}
    zeros = {f"{paths[id(m)]}.zero" for m in named_layers(deployed).values()}
    keep = set(deployed.state_dict())
    rest = [
        t
        for n, t in sorted(tensors.items())
        if n not in taken and n not in zeros and (n in keep or count(tuple(t.dims)) > _SMALL)
    ]
    payload |= {REST: _rest_payload(rest, layout)} if rest else {}
    for t in [*(tensors[n] for n in taken), *rest]:
        _empty(t)
    return Packed(
        weights=safetensors(payload, header_bytes(graph) - 8),
        graph=proto.SerializeToString(deterministic=True),
        layout=json_bytes({"version": VERSION, "tensors": layout}),
    )


def stored(deployed: nn.Module) -> dict[str, tuple[dict[str, Any], Bytes]]:
    """Layer, or table in codes -> its entry of layout.json and its packed bytes."""
    paths = {id(m): path for path, m in deployed.named_modules()}
    layers = [*named_layers(deployed).items(), *tables(deployed).items()]
    return {n: (_layer_entry(n, paths[id(m)], m), _layer_payload(m)) for n, m in layers}


def layer_tensors(deployed: nn.Module) -> dict[str, str]:
    """Layer -> the tensor of the exported graph that enters its multiplication last."""
    paths = {id(m): path for path, m in deployed.named_modules()}
    found = {}
    for name, layer in named_layers(deployed).items():
        into = _layer_entry(name, paths[id(layer)], layer)["into"]
        found[name] = into.get("bias") or next(iter(into.values()))
    return found


def _layer_entry(name: str, path: str, layer: Stored) -> dict[str, Any]:
    dot = f"{path}." if path else ""
    coded = isinstance(layer, CodedLayer)
    whole = isinstance(layer, FloatLayer | ExpandedLayer)
    into = {r: f"{dot}{r}" for r in layer.roles}
    if layer.bias is not None:
        into["bias"] = f"{dot}bias"
    if isinstance(layer, FormattedLayer | BlockLayer | CodedEmbedding):
        return {"name": name, "into": into, **packed_format.entry(layer)}
    weight = layer.codes if isinstance(layer, CodedLayer) else layer.weight
    return {
        "name": name,
        "bits": layer.bits if isinstance(layer, CodedLayer) else 32,
        "shape": list(weight.shape),
        "kind": "float" if not coded else "expanded" if whole else "codes",
        "into": into,
    }


def _layer_payload(layer: Stored) -> Bytes:
    bias = [] if layer.bias is None else [layer.bias.numpy()]
    if isinstance(layer, FormattedLayer | BlockLayer | CodedEmbedding):
        return _joined([*packed_format.payload(layer), *bias])
    if isinstance(layer, FloatLayer):
        return _joined([layer.weight.numpy(), *bias])
    codes, scale = layer.codes.numpy(), layer.scale.numpy()
    rows = codes.reshape(len(codes), -1)
    # a row that reaches +2^(bits-1) is stored with both signs turned: that code has no own place
    turned = rows.max(axis=1) == 2 ** (layer.bits - 1)
    sign = np.where(turned, -1, 1).astype(np.int8)
    data = bits_of.pack((rows * sign[:, None]).astype(np.int8).reshape(-1), layer.bits)
    return _joined([data, scale * sign.astype(np.float32), *bias])


def _joined(parts: list[Any]) -> Bytes:
    return np.concatenate([np.ascontiguousarray(p).reshape(-1).view(np.uint8) for p in parts])


def _rest_payload(rest: list[Any], layout: list[dict[str, Any]]) -> Bytes:
    from onnx import numpy_helper

    parts = []
    for t in rest:
        parts.append(np.frombuffer(numpy_helper.to_array(t).tobytes(), dtype=np.uint8))
        entry = {"name": REST, "kind": "raw", "into": {"raw": t.name}, "bytes": parts[-1].size}
        layout.append(entry)
    return np.concatenate(parts)


def _empty(tensor: Any) -> None:
    for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
        tensor.ClearField(field)


def safetensors(payload: Mapping[str, Bytes], room: int) -> bytes:
    """The file format by hand (8 bytes of length, JSON, data): the library pads no header."""
    at, entries = 0, []
    for name, data in payload.items():
        entries.append(_entry(name, data.size, at, at + data.size))
        at += data.size
    header = b"{" + b",".join(entries) + b"}"
    # what is no layer's may be more than the graph knew of: then the header grows
    header = header.ljust(max(room, -(-len(header) // 8) * 8))
    return (
        len(header).to_bytes(8, "little") + header + b"".join(d.tobytes() for d in payload.values())
    )


def unpack(packed: Packed) -> bytes:
    """The complete ONNX file; raises ArtefactError where the three files do not fit together."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        payload = load(packed.weights)
        layout = json.loads(packed.layout)
        if layout["version"] != VERSION:
            raise ArtefactError(f"layout.json has version {layout['version']}, not {VERSION}")
        return _filled(load_proto(packed.graph), payload, layout["tensors"])
    except (SafetensorError, KeyError, TypeError, ValueError) as e:
        raise ArtefactError(f"the packed weights do not fit the graph: {e!r}") from e


def _filled(proto: Any, payload: Mapping[str, Bytes], layout: list[dict[str, Any]]) -> bytes:
    tensors = {t.name: t for t in proto.graph.initializer}
    at = 0
    for entry in layout:
        data = payload[entry["name"]]
        if entry["kind"] == "raw":
            values = {"raw": data[at : at + entry["bytes"]]}
            at += entry["bytes"]
        else:
            values = layer_values(entry, entropy_layers.plain(entry, data))
        for role, name in entry["into"].items():
            tensors[name].raw_data = values[role].tobytes()
    return bytes(proto.SerializeToString(deterministic=True))


def layer_values(entry: Mapping[str, Any], data: Bytes) -> dict[str, NDArray[Any]]:
    """codes, scale, weight, bias (those that apply) of a layer's tensor [bytes]; of one on a format
    what its file holds: weight and bias."""
    if entry["kind"] == "format":
        return packed_format.values(entry, data)
    shape, bits = tuple(entry["shape"]), entry["bits"]
    has_bias = "bias" in entry["into"]
    if data.size != stored_bytes(shape, bits, bias=has_bias):
        raise ValueError(f"{entry['name']} has {data.size} bytes, not what its shape takes")
    n, rows = count(shape), shape[0]
    first = 4 * n if bits == 32 else bits_of.packed_size(n, bits)
    floats = np.frombuffer(data[first:].tobytes(), dtype=np.float32)
    found: dict[str, NDArray[Any]] = {"bias": floats[-rows:]} if has_bias else {}
    if bits == 32:
        return {**found, "weight": np.frombuffer(data[:first].tobytes(), np.float32).reshape(shape)}
    sign = np.where(floats[:rows] < 0, -1, 1).astype(np.int8).reshape(-1, *[1] * (len(shape) - 1))
    codes = (bits_of.unpack(data[:first], n, bits).reshape(shape) * sign).astype(np.int8)
    scale = np.abs(floats[:rows])
    weight = codes.astype(np.float32) * scale.reshape(sign.shape)
    return {**found, "codes": codes, "scale": scale, "weight": weight}
