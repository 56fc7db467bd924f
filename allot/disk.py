"""Disk: a weights file whose codes are entropy coded, and its bytes as a bill of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from allot import bill, entropy_coding, entropy_layers, packed
from allot.bank import Bank
from allot.deploy import deploy, tables
from allot.errors import MissingError
from allot.files import json_bytes
from allot.option import count
from allot.packed import Packed
from allot.site import Graph, Layer
from allot.space import Choice, Space
from allot.table import Table, Term

# (layer or table, label of its option) -> bytes saved at full width
_Savings = Mapping[tuple[str, str], int]
# the label where nothing is chosen
_LEFT = ""


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
            new, payload[entry["name"]] = entropy_layers.coded(entry, payload[entry["name"]])
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
        found[name] = len(data) - len(entropy_layers.coded(entry, data)[1])
    return found


def table(space: Space, bank: Bank) -> Table:
    """Bytes of the entropy-coded weights file.

    Exact for the bank's own codes in layers of full width.  A narrower layer saves in proportion
    to its elements; codes that a recovery rounds anew save a little more or less than the bank's:
    of 10 random plans of ResNet-20 and 5 of a byte-level Llama, rounded again in order, files took
    0.9997 to 1.0005 of what is said here.  Finalists are counted again.
    Raises MissingError without the library.
    """
    lacking = entropy_coding.missing()
    if lacking:
        raise MissingError(lacking)
    size = bill.size(space, header=packed.header_bytes(space.graph))
    takes = _savings(space, bank)
    terms, constant = list(_tables(space, takes)), size.constant
    for layer in space.graph.layers:
        at, values = _less(space, layer, takes)
        if at:
            terms.append(Term(at=at, values=-values))
        else:
            constant -= float(values)
    return replace(
        size,
        origin="entropy-coded size of the bank's codes",
        constant=constant,
        terms=(*size.terms, *terms),
    )


def _tables(space: Space, takes: _Savings) -> Iterator[Term]:
    """What every embedding saves."""
    for i, c in enumerate(space.choices):
        site = space.graph.site(c.site)
        if site.kind == "embedding":
            name = site.touches[0].module
            values = [-float(takes.get((name, o.label), 0)) for o in c.options]
            yield Term(at=(i,), values=np.array(values))


def _savings(space: Space, bank: Bank) -> _Savings:
    """All layers and tables with their first options, then all with their second, and so on."""
    weights = [c for c in space.choices if _is_stored(space, c)]
    found: dict[tuple[str, str], int] = {}
    for i in range(max((len(c.options) for c in weights), default=1)):
        options = {s: c.options[i] for c in weights if i < len(c.options) for s in _sites(c)}
        deployed = deploy(bank.copy(bank.standins(options)), space.graph)
        for name, less in saved(deployed).items():
            option = options.get(f"{name}.weight")
            found[name, _LEFT if option is None else option.label] = less
    return found


def _is_stored(space: Space, choice: Choice) -> bool:
    """Whether it is about what is stored of one layer or table."""
    return space.graph.site(choice.site).kind in ("weight", "embedding")


def _sites(choice: Choice) -> tuple[str, ...]:
    return choice.site, *choice.tied


def _less(
    space: Space, layer: Layer, takes: _Savings
) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """The choices that touch a layer, and what it saves for every combination of their options."""
    at, found = bill.states(space, layer, tokens=False)
    own = [i for i in at if f"{layer.module}.weight" in _sites(space.choices[i])]
    labels = [o.label for o in space.choices[own[0]].options] if own else [_LEFT]
    values = [
        _of(s, takes[layer.module, labels[point[at.index(own[0])] if own else 0]])
        for point, s in found.items()
    ]
    shape = [len(space.choices[i].options) for i in at]
    return at, np.array(values, dtype=np.float64).reshape(shape)


def _of(state: bill.LayerState, at_full_width: int) -> int:
    """What is saved in a layer's state."""
    return 0 if state.gone else at_full_width * state.elements // count(state.layer.weight)


def file_bytes(deployed: nn.Module, graph: Graph) -> int:
    """Bytes of the entropy-coded weights file of a deployed network, before it is written."""
    stored = packed.stored(deployed)
    # what is loose counts every table in float
    loose = graph.loose - sum(4 * count(t.shape) for t in tables(deployed).values())
    whole = packed.header_bytes(graph) + loose + sum(len(d) for _, d in stored.values())
    return whole - sum(saved(deployed).values())
