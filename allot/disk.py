"""Disk: a weights file whose codes are entropy coded, and its bytes as a bill of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from allot import bill, entropy_coding, packed
from allot.bank import Bank
from allot.deploy import deploy
from allot.errors import MissingError
from allot.files import json_bytes
from allot.option import Option, count
from allot.packed import Packed
from allot.site import Graph, Layer
from allot.space import Choice, Space
from allot.table import Table, Term


def coded(whole: Packed) -> Packed:
    """The same network with the codes of every layer where it pays entropy coded.

    `packed.unpack` reads both and makes the same file of them, bit for bit.  The header keeps its
    length.  Raises MissingError without the library.
    """
    from safetensors.numpy import load

    payload = load(whole.weights)
    layout = json.loads(whole.layout)
    entries: list[Any] = []
    for entry in layout["tensors"]:
        new = entry
        if entry["kind"] != "raw":
            new, payload[entry["name"]] = entropy_coding.coded(entry, payload[entry["name"]])
        entries.append(new)
    room = int.from_bytes(whole.weights[:8], "little")
    ordered = {k: payload[k] for k in _names(whole.weights)}
    return Packed(
        weights=packed.safetensors(ordered, room),
        graph=whole.graph,
        layout=json_bytes({**layout, "tensors": entries}),
    )


def _names(weights: bytes) -> list[str]:
    """Tensors of a safetensors file in the order in which they lie."""
    end = 8 + int.from_bytes(weights[:8], "little")
    found: dict[str, Any] = json.loads(weights[8:end])
    return sorted(found, key=lambda k: int(found[k]["data_offsets"][0]))


def saved(deployed: nn.Module) -> dict[str, int]:
    """Layer -> bytes that entropy coding takes off what is stored of it."""
    found = {}
    for name, (entry, data) in packed.stored(deployed).items():
        found[name] = len(data) - len(entropy_coding.coded(entry, data)[1])
    return found


def table(space: Space, bank: Bank) -> Table:
    """Bytes of the entropy-coded weights file.

    Exact for the bank's own codes in layers of full width.  A narrower layer saves in proportion
    to its elements; codes that a recovery rounds anew save a little more or less than the bank's:
    finalists are counted again.  Raises MissingError without the library.
    """
    lacking = entropy_coding.missing()
    if lacking:
        raise MissingError(lacking)
    size = bill.size(space, header=packed.header_bytes(space.graph))
    takes = _savings(space, bank)
    terms = [_term(space, layer, takes) for layer in space.graph.layers]
    return replace(
        size,
        origin="entropy-coded size of the bank's codes",
        terms=(*size.terms, *(t for t in terms if t is not None)),
    )


# (layer, label of its weight's option) -> bytes saved at full width
_Savings = Mapping[tuple[str, str], int]


def _savings(space: Space, bank: Bank) -> _Savings:
    """All layers with their first options, then all with their second, and so on."""
    weights = [c for c in space.choices if space.graph.site(c.site).kind == "weight"]
    found: dict[tuple[str, str], int] = {}
    for i in range(max((len(c.options) for c in weights), default=0)):
        options = {s: c.options[i] for c in weights if i < len(c.options) for s in _sites(c)}
        deployed = deploy(bank.copy(bank.standins(options)), space.graph)
        for name, less in saved(deployed).items():
            option = options.get(f"{name}.weight")
            if option is not None:
                found[name, option.label] = less
    return found


def _sites(choice: Choice) -> tuple[str, ...]:
    return choice.site, *choice.tied


def _term(space: Space, layer: Layer, takes: _Savings) -> Term | None:
    """What a layer saves for every combination of the options that touch it, below zero."""
    at, found = bill.states(space, layer, tokens=False)
    own = [i for i in at if f"{layer.module}.weight" in _sites(space.choices[i])]
    if not own:
        return None
    place = at.index(own[0])
    options: tuple[Option, ...] = space.choices[own[0]].options
    values = [
        _less(s, takes[layer.module, options[point[place]].label]) for point, s in found.items()
    ]
    shape = [len(space.choices[i].options) for i in at]
    return Term(at=at, values=np.array(values, dtype=np.float64).reshape(shape))


def _less(state: bill.LayerState, at_full_width: int) -> float:
    if state.gone:
        return 0.0
    return -float(at_full_width * state.elements // count(state.layer.weight))


def file_bytes(deployed: nn.Module, graph: Graph) -> int:
    """Bytes of the entropy-coded weights file of a deployed network, before it is written."""
    stored = packed.stored(deployed)
    whole = packed.header_bytes(graph) + graph.loose + sum(len(d) for _, d in stored.values())
    return whole - sum(saved(deployed).values())
