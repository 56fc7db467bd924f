"""Laws of the entropy-coded file: the same network, exactly the bytes that its bill says.

Faults these must catch: a layer lost or out of place in the file; a bill of other codes than are
stored; a sign of a folded norm that changes the bytes; a narrow or dropped layer billed wrongly.
"""

from __future__ import annotations

import json

import pytest

from allot import bill, disk, packed
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.deploy import deploy
from allot.errors import ArtefactError
from allot.onnx_graph import to_onnx
from allot.options.precision import Weight
from allot.packed import Packed
from allot.space import Choice, Space
from allot.trace import trace
from tests import small, toys
from tests.deployables import exported, graph

pytest.importorskip("constriction")

BITS = (32, 8, 4, 2)


@pytest.fixture(scope="module")
def kit() -> small.Kit:
    return small.kit(toys.residual)


def weights(k: small.Kit) -> Space:
    """Every weight in some widths, nothing else."""
    options = tuple(Weight(bits=b) for b in BITS)
    sites = [s.name for s in k.graph.sites if s.kind == "weight" and not s.fixed]
    choices = tuple(Choice(site=s, options=options) for s in sites)
    return Space(graph=k.graph, choices=choices)


@pytest.mark.parametrize("bits", [(8, 4), (3, 2), (5, 7)])
def test_it_holds_the_same_network(bits: tuple[int, int]) -> None:
    onnx, deployed = exported(bits=bits)
    whole = packed.pack(onnx, deployed, graph())
    coded = disk.coded(whole)
    assert packed.unpack(coded) == packed.unpack(whole)
    assert len(coded.weights) <= len(whole.weights)
    assert len(coded.weights) == disk.file_bytes(deployed, graph())


def test_the_bill_is_what_the_bank_s_codes_take_to_the_byte(kit: small.Kit) -> None:
    space = weights(kit)
    bank = Bank(
        kit.task.model,
        graph=kit.graph,
        stats=calibrate(kit.task, kit.task.model, needed(space)),
    )
    table = disk.table(space, bank)
    size = bill.size(space, header=packed.header_bytes(kit.graph))
    n = len(space.choices)
    for point in ((0,) * n, (1,) * n, (2,) * n, tuple(i % len(BITS) for i in range(n))):
        deployed = deploy(bank.copy(bank.standins(space.options(point))), kit.graph)
        whole = packed.pack(to_onnx(deployed, kit.task.example()), deployed, kit.graph)
        coded = disk.coded(whole)
        assert table.of(point) == len(coded.weights) == disk.file_bytes(deployed, kit.graph)
        assert size.of(point) == len(whole.weights) >= len(coded.weights)


def test_narrow_layers_save_in_proportion(kit: small.Kit) -> None:
    header = packed.header_bytes(kit.graph)
    table = disk.table(kit.space, kit.bank)
    size = bill.size(kit.space, header=header)
    for last in (False, True):
        point = tuple(len(c.options) - 1 if last else 0 for c in kit.space.choices)
        assert header < table.of(point) <= size.of(point)


def test_a_damaged_stream_is_refused() -> None:
    onnx, deployed = exported(bits=(8, 8))
    coded = disk.coded(packed.pack(onnx, deployed, graph()))
    layout = json.loads(coded.layout)
    assert any("coder" in e for e in layout["tensors"])
    for e in layout["tensors"]:
        if "coder" in e:
            e["stream"] -= 4
    damaged = Packed(weights=coded.weights, graph=coded.graph, layout=json.dumps(layout).encode())
    with pytest.raises(ArtefactError, match="do not fit"):
        packed.unpack(damaged)


def test_tasks_and_graphs_are_left_as_they_were(kit: small.Kit) -> None:
    before = {n: id(m) for n, m in kit.bank.skeleton.named_modules()}
    disk.table(weights(kit), kit.bank)
    assert before == {n: id(m) for n, m in kit.bank.skeleton.named_modules()}
    assert trace(kit.task.model, kit.task.forward, kit.task.example()).digest == kit.graph.digest
