"""Laws of tables in codes: every row its own, bytes to the byte, and no table that is another's.

Faults these must catch: a table tied to the head coded in one place alone; bytes of a table counted
in float and in codes; a scale that is not as it is stored; a repair that changes a table; a file
that holds the table in float after all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allot import bill, disk, packed
from allot.bank import Bank
from allot.bank_file import load, save
from allot.calibrate import calibrate, needed
from allot.deploy import deploy
from allot.deployed_tables import CodedEmbedding
from allot.embeddings import in_float
from allot.errors import InputError
from allot.harm.fisher import fisher
from allot.measure import Meter
from allot.memo import Memo
from allot.onnx_graph import load_proto, to_onnx
from allot.option import Option, Stats
from allot.options import precision
from allot.options.embeddings import QuantizedEmbedding, Rows, space
from allot.recover import LIGHT, STRONG, Recovery
from allot.runtimes import ALL, Ideal, OnnxRuntime, OpenVino
from allot.scene import Scene
from allot.site import Graph, Site
from allot.space import Space
from allot.target import Workload
from allot.task import Data, Task
from allot.testing import OptionLaws
from allot.trace import trace
from tests import attention, small, toys
from tests.harm import scenes

CPU = (OnnxRuntime(), OpenVino())


class Tied(nn.Module):
    """Tokens [n, t] -> [n, t, 5]; how: what is peculiar about its table."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 8, max_norm=1.0 if how == "renormalized" else None)
        if how == "of another class":
            self.embed = type("Odd", (nn.Embedding,), {})(5, 8)
        self.middle, self.head = nn.Linear(8, 8), nn.Linear(8, 5, bias=False)
        self.unused = nn.Embedding(3, 2)
        if how == "tied":
            self.head.weight = self.embed.weight
        if how == "half":
            self.embed.half()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.middle(self.embed(x).float()))
        return found


def tokens(n: int = 4, t: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(0, 5, (n, t), generator=torch.Generator().manual_seed(seed))


def traced(model: nn.Module) -> Graph:
    return trace(model, lambda m, x: m(x), tokens())


def task() -> Task:
    """Next bytes of random text by a small language model."""
    model = attention.language(last=True)
    x = tokens(80)
    with torch.no_grad():
        data = Data(inputs=x, labels=model(x).argmax(1))
    sets = {
        name: data.subset(slice(a, b))
        for name, a, b in (("calibrate", 0, 30), ("search", 30, 60), ("certify", 60, 80))
    }
    return Task(name="text", model=model, **sets)


@functools.cache
def kit() -> small.Kit:
    t = task()
    graph = trace(t.model, t.forward, t.example())
    whole = precision.space(graph, Ideal()) + space(graph, Ideal())
    bank = Bank(t.model, graph=graph, stats=calibrate(t, t.model, needed(whole), batch=10))
    meter = Meter(t, bank, t.search, memo=Memo(), batch=7)
    return small.Kit(task=t, graph=graph, space=whole, bank=bank, meter=meter)


def point(label: str) -> tuple[int, ...]:
    """All original but the table."""
    return small.at(kit().space, embed_weight=label)


@functools.cache
def made(label: str) -> tuple[nn.Module, nn.Module, bytes]:
    """Planned network, deployed network and file; not to be changed."""
    k = kit()
    planned = k.bank.copy(k.bank.standins(k.options(point(label))))
    deployed = deploy(planned, k.graph)
    return planned, deployed, to_onnx(deployed, k.task.example())


class TestRows(OptionLaws):
    def option(self) -> Option:
        return Rows(bits=4)

    def original(self) -> Option:
        return Rows(bits=32)

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        model = toys.seeded(Tied("plain")).eval()
        graph = traced(model)
        return model, graph, graph.embeddings[0], {}


@pytest.mark.parametrize("bits", [1, 9, 16, 0])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match="2 to 8 bits"):
        Rows(bits=bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_row_is_on_its_own_grid_and_near_what_it_was(bits: int, seed: int) -> None:
    graph = traced(toys.seeded(Tied("plain")))
    table = toys.seeded(nn.Embedding(37, 16, padding_idx=3), seed)
    with torch.no_grad():
        # scales of less would be below what half precision holds in full
        table.weight *= torch.logspace(-2, 3, 37)[:, None]
        table.weight[3] = 0
    site = graph.embeddings[0]
    new = Rows(bits=bits).apply(table, touch=site.touches[0], site=site, graph=graph, stats={})
    assert isinstance(new, QuantizedEmbedding)
    encoded, w = new.encoded(), table.weight.detach()
    assert torch.equal(encoded.scale, encoded.scale.half().float())
    assert torch.equal(encoded.values(), new.weight.detach())
    assert float(encoded.codes.abs().max()) <= 2 ** (bits - 1)
    # never worse than with a scale of the whole range
    fmt = new.format
    top = fmt.scales.rounded(w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1))
    plain = fmt.grid.nearest(w / top) * top
    errors = [(x.detach() - w).square().sum(1) for x in (new.weight, plain)]
    assert bool((errors[0] <= errors[1] * (1 + 1e-4) + 1e-12).all())
    assert not new.weight[3].any()
    x = torch.arange(37).view(1, -1)
    assert torch.equal(encoded.values()[None], new(x))


def test_rows_of_a_table_do_not_depend_on_each_other() -> None:
    graph = traced(toys.seeded(Tied("plain")))
    site = graph.embeddings[0]

    def coded(w: Tensor) -> Tensor:
        table = nn.Embedding.from_pretrained(w)
        return (
            Rows(bits=3)
            .apply(table, touch=site.touches[0], site=site, graph=graph, stats={})
            .weight.detach()
        )  # type: ignore[no-any-return]

    w = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    whole = coded(w)
    assert torch.equal(whole[[4, 1]], coded(w[[4, 1]]))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("plain", ""),
        ("tied", "head.weight"),
        ("renormalized", "scales its rows"),
        ("half", "16"),
    ],
)
def test_a_table_that_is_not_its_own_stays_in_float_and_says_so(how: str, why: str) -> None:
    model = toys.seeded(Tied(how)).eval()
    graph = traced(model)
    (site,) = graph.embeddings
    assert ("embed.weight", "embedding", (5, 8)) == (site.name, site.kind, site.shape)
    assert why in site.fixed and bool(why) == bool(site.fixed)
    assert (not why) == bool(space(graph, Ideal()).choices)
    said = [s for s in in_float(graph) if "embed" in s and "unused" not in s]
    assert 1 == len(said) and why in said[0]


def test_a_subclass_may_compute_something_else() -> None:
    assert () == traced(toys.seeded(Tied("of another class")).eval()).embeddings


def test_a_table_in_a_block_that_may_go_stays() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.by = nn.Linear(8, 8), nn.Linear(8, 8), nn.Embedding(5, 8)

        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x + self.b(torch.relu(self.a(x))) + self.by(index)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.block, self.head = nn.Embedding(5, 8), Block(), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(self.block(self.embed(x), x))
            return found

    graph = traced(toys.seeded(Net()).eval())
    blocks = [s for s in graph.sites if s.kind == "block" and not s.fixed]
    fixed = {s.name: s.fixed for s in graph.embeddings}
    assert "" == fixed["embed.weight"]
    assert bool(blocks) == ("block" in fixed["block.by.weight"])


def test_names_of_structure_are_as_without_tables() -> None:
    graph = kit().graph
    assert all(s.kind != "embedding" for s in graph.sites)
    assert graph.site("embed.weight") is graph.embeddings[0]


@pytest.mark.parametrize("label", ["float", "W5", "W4"])
def test_bytes_are_the_bill_and_the_file_computes_the_plan(label: str) -> None:
    k, (planned, deployed, onnx) = kit(), made(label)
    found = packed.pack(onnx, deployed, k.graph)
    table = bill.size(k.space, header=packed.header_bytes(k.graph))
    assert table.of(point(label)) == len(found.weights)
    whole = table.of(k.space.original)
    bits = Rows(bits=32 if label == "float" else int(label[1:]))
    saved = 0 if bits.is_original else 4 * 40 - (40 * bits.bits + 7) // 8 - 2 * 5
    assert whole - saved == len(found.weights)
    assert packed.unpack(found) == onnx
    x = tokens(3, 9, seed=4)
    with torch.no_grad():
        assert torch.equal(planned(x), deployed(x))
    for target in CPU:
        session = target.open(packed.unpack(found), workload=Workload(batch=3))
        got = torch.from_numpy(session.run({"input": x.numpy()})["output"])
        torch.testing.assert_close(deployed(x), got, rtol=1e-4, atol=1e-5)


def test_the_file_holds_codes_not_floats() -> None:
    _, deployed, onnx = made("W4")
    held = load_proto(onnx).graph.initializer
    shapes = {t.name: (t.data_type, list(t.dims)) for t in held if t.name.startswith("embed")}
    assert {"embed.codes": (3, [5, 8]), "embed.scale": (1, [5, 1])} == shapes
    assert any(isinstance(m, CodedEmbedding) for m in deployed.modules())


def test_every_target_here_runs_it() -> None:
    k, (_, deployed, onnx) = kit(), made("W4")
    x = tokens(4)
    expected = deployed(x).numpy()
    for target in (t for t in ALL if not t.missing()):
        assert "" == target.can(Rows(bits=4), k.graph.embeddings[0], k.graph)
        got = target.open(onnx, workload=Workload(batch=4)).run({"input": x.numpy()})["output"]
        # bfloat16 has eight bits
        assert np.abs(got - expected).max() < 2e-2 * np.abs(expected).max(), target.name


@pytest.mark.parametrize("label", ["W5", "W4"])
def test_the_coded_file_is_the_bill_of_the_disk(label: str) -> None:
    pytest.importorskip("constriction")
    k = kit()
    tables = Space(graph=k.graph, choices=space(k.graph, Ideal()).choices)
    chosen = small.at(tables, embed_weight=label)
    _, deployed, onnx = made(label)
    whole = packed.pack(onnx, deployed, k.graph)
    coded = disk.coded(whole)
    assert packed.unpack(whole) == packed.unpack(coded)
    assert disk.table(tables, k.bank).of(chosen) == len(coded.weights)
    assert len(coded.weights) == disk.file_bytes(deployed, k.graph)


def _state(modules: Mapping[str, nn.Module], name: str) -> dict[str, Tensor]:
    return dict(modules[name].state_dict())


@pytest.mark.parametrize("recovery", [LIGHT, STRONG])
def test_repair_leaves_tables_alone(recovery: Recovery) -> None:
    k = kit()
    both = list(point("W4"))
    both[k.space.position("head.weight")] = 5
    options = k.options(tuple(both))
    before = {n: x.clone() for n, x in _state(k.bank.standins(options), "embed").items()}
    found = k.meter.standins(options, recovery)
    for after in (_state(found, "embed"), _state(k.bank.standins(options), "embed")):
        assert all(torch.equal(x, after[n]) for n, x in before.items())
    weight = k.bank.module("embed").get_parameter("weight")
    assert torch.equal(weight, k.task.model.get_submodule("embed").get_parameter("weight"))
    assert "embed" not in k.bank.standins(k.options(k.space.original))


def test_a_bank_in_a_file_holds_them(tmp_path: Path) -> None:
    k = kit()
    save(k.bank, k.space, tmp_path)
    bank = load(tmp_path, k.task.model, k.graph)
    options = k.options(point("W3"))
    x = tokens(5)
    both = [b.copy(b.standins(options)) for b in (k.bank, bank)]
    with torch.no_grad():
        assert torch.equal(both[0](x), both[1](x))


def test_its_harm_is_felt_to_second_order() -> None:
    t = task()
    graph = trace(t.model, t.forward, t.example())
    tables = space(graph, Ideal())
    bank = Bank(t.model, graph=graph, stats={})
    meter = Meter(t, bank, t.search, memo=Memo(), batch=10)
    evaluator = scenes.Plain(meter=meter, space=tables, repair=scenes.NOT_REPAIRED)
    scene = Scene(space=tables, task=t, bank=bank, data=t.search, evaluator=evaluator)
    table = fisher(scene, draws=64)
    for label in ("W8", "W6"):
        at = small.at(tables, embed_weight=label)
        measured = meter.loss(tables.options(at), recovery=scenes.NOT_REPAIRED).divergence
        assert 0 < table.of(at) and table.of(at) == pytest.approx(measured, rel=0.4)
    assert 0 == table.of(tables.original)
