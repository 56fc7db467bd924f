"""Moving: operators that commute with quantizing, done on codes instead of on floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.runtimes.lowering.draft import DOMAIN, Codes, Draft, transpose

# they move elements and change none
_MOVES = ("Slice", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Pad")
# monotone: the largest code is the code of the largest
_MONOTONE = ("Relu", "Clip", "MaxPool")
# dim of [n, c, h, w] -> where it stands with the channels last
_PLACE = (0, 3, 1, 2)


def passes(node: Any) -> bool:
    """Whether quantized f(x) = f(quantized x), f on codes, for what the node computes."""
    if node.op_type == "MaxPool" and len(node.output) > 1:
        return False
    return node.domain == "" and node.op_type in (*_MOVES, *_MONOTONE)


def codes_of(draft: Draft, name: str) -> Codes | None:
    """The 8-bit codes that a float tensor is dequantized from, or None where it is not.

    What lies between is repeated on the codes.
    """
    if name not in draft.found:
        draft.found[name] = _codes_of(draft, name)
    return draft.found[name]


def _codes_of(draft: Draft, name: str) -> Codes | None:
    node = draft.made_by.get(name)
    if node is None:
        return None
    if node.op_type == "DequantizeLinear":
        return grid(draft, node, of=node.input[0])
    # the ends of a clip may lie between codes: it may be moved to before rounding, not behind it
    movable = passes(node) and node.op_type != "Clip"
    before = codes_of(draft, node.input[0]) if movable else None
    if before is None:
        return None
    if draft.is_paired(before):
        before = draft.turned(before, last=True)
    made = applied(draft, [node], before, prefix=name)
    if made is None:
        return None
    steps, codes = made
    result = f"{name}.codes"
    if steps:
        codes = replace(codes, name=result)
        steps = named(draft, steps, codes)
    for step in steps:
        draft.behind(node, step)
    return draft.turned(codes, last=False) if not steps else replace(codes, last=False)


def grid(draft: Draft, node: Any, *, of: str) -> Codes | None:
    """The grid of a QuantizeLinear or DequantizeLinear; None unless it is one for a whole tensor
    in uint8."""
    if len(node.input) < 3 or draft.value(of) is not None:
        return None
    scale, zero = draft.value(node.input[1]), draft.value(node.input[2])
    if scale is None or zero is None or scale.size != 1 or zero.dtype != np.uint8:
        return None
    return Codes(
        name=of,
        scale_name=node.input[1],
        zero_name=node.input[2],
        scale=scale.item(),
        zero=zero.item(),
    )


def named(draft: Draft, nodes: Sequence[Any], codes: Codes) -> list[Any]:
    """The nodes with their result under the name of the codes and the channels second."""
    found = list(nodes)
    if not codes.last:
        found[-1].output[0] = codes.name
        return found
    found[-1].output[0] = f"{codes.name}.last"
    found.append(transpose(f"{codes.name}.last", codes.name, last=False))
    draft.pair(codes.name, f"{codes.name}.last")
    return found


def applied(
    draft: Draft, chain: Sequence[Any], codes: Codes, *, prefix: str
) -> tuple[list[Any], Codes] | None:
    """Nodes that do a chain of nodes on codes, none where no code changes, and their result."""
    found: list[Any] = []
    for i, node in enumerate(chain):
        result = f"{prefix}.{i}"
        step = _on_codes(draft, node, codes, result)
        if step is None and codes.last:
            second = replace(codes, name=f"{result}.second", last=False)
            step = _on_codes(draft, node, second, result)
            if step:
                found.append(transpose(codes.name, second.name, last=False))
                codes = second
        if step is None:
            return None
        found += step
        codes = replace(codes, name=result) if step else codes
    return found, codes


def _on_codes(draft: Draft, node: Any, codes: Codes, result: str) -> list[Any] | None:
    """The node on codes in their order of dims, None where it cannot be done there."""
    from onnx import helper

    if node.op_type in ("Relu", "Clip"):
        ends = _ends(draft, node, codes)
        return None if ends is None else _clipped(draft, codes, ends, result)
    inputs = _inputs(draft, node, codes, result)
    if inputs is None:
        return None
    pools = node.op_type == "MaxPool" and codes.last
    new = helper.make_node(
        "NhwcMaxPool" if pools else node.op_type, inputs, [result], domain=DOMAIN if pools else ""
    )
    new.attribute.extend(a for a in node.attribute if not (pools and a.name == "storage_order"))
    return [new]


def _inputs(draft: Draft, node: Any, codes: Codes, result: str) -> list[str] | None:
    """What a node that moves elements reads when it works on codes."""
    inputs = [codes.name, *node.input[1:]]
    if node.op_type == "Pad":
        if not _pads_with_zero(draft, node):
            return None
        inputs[2:3] = [codes.zero_name]
    if not codes.last or node.op_type == "MaxPool":
        return inputs
    if node.op_type == "Slice" and len(inputs) > 3:
        axes = draft.value(inputs[3])
        if axes is not None:
            inputs[3] = draft.constant(f"{result}.axes", _turned_axes(axes))
            return inputs
    if node.op_type == "Pad" and len(inputs) == 3:
        pads = draft.value(inputs[1])
        if pads is not None:
            turned = pads.reshape(2, 4)[:, [0, 2, 3, 1]].ravel()
            inputs[1] = draft.constant(f"{result}.pads", turned)
            return inputs
    return None


def _turned_axes(axes: NDArray[Any]) -> NDArray[Any]:
    return np.array([_PLACE[int(a)] for a in axes.ravel()], dtype=axes.dtype).reshape(axes.shape)


def _pads_with_zero(draft: Draft, node: Any) -> bool:
    """Whether a padding adds zeros."""
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"constant")
    if mode != b"constant":
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = draft.value(node.input[2])
    return value is not None and value.item() == 0


def _ends(draft: Draft, node: Any, codes: Codes) -> tuple[int, int] | None:
    """The codes that the node cuts at."""
    if node.op_type == "Relu":
        return codes.zero, 255
    found = []
    for i, free in ((1, 0), (2, 255)):
        if len(node.input) <= i or not node.input[i]:
            found.append(free)
            continue
        value = draft.value(node.input[i])
        if value is None or value.size != 1:
            return None
        # as QuantizeLinear does: float32, ties to even
        code = np.rint(np.float32(value.item()) / np.float32(codes.scale)) + codes.zero
        found.append(int(np.clip(code, 0, 255)))
    return found[0], found[1]


def _clipped(draft: Draft, codes: Codes, ends: tuple[int, int], result: str) -> list[Any]:
    from onnx import helper

    if ends == (0, 255):
        return []
    names = [
        draft.constant(f"{result}.{role}", np.array(end, dtype=np.uint8))
        for role, end in zip(("least", "most"), ends, strict=True)
    ]
    return [helper.make_node("Clip", [codes.name, *names], [result])]
