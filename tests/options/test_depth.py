"""Laws of depth: a dropped block is its input going on, costs nothing, and is not in the file.

Faults these laws must catch: loose parameters of a dropped block still billed; a layer in it still
billed when another option is chosen for it; a header that depends on the plan; a repair that looks
for layers that are gone; an export that still holds them.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allot import bill, packed
from allot.bank import Bank
from allot.builtin import digits_resnet
from allot.conversions import leaving, vain
from allot.deploy import deploy, named_layers
from allot.latency import Entry, LatencyTable, Signature
from allot.latency_model import layer_sums, probes
from allot.layer_times import needed
from allot.onnx_graph import to_onnx
from allot.option import Option, Stats
from allot.options import precision
from allot.options.depth import Skip, Skipped, space
from allot.recover import LIGHT, STRONG
from allot.runtimes import OnnxRuntime, OpenVino
from allot.runtimes.ideal import Ideal
from allot.site import Graph, Site
from allot.space import Point, Space
from allot.target import Workload
from allot.task import Task
from allot.testing import OptionLaws
from allot.trace import trace
from tests import attention, small, toys

kit = functools.cache(attention.kit)
MAKES = (toys.residual, toys.padded, attention.made(entries=2), attention.made(first=False))
kinds = functools.cache(lambda i: kit(MAKES[i]))


def dropped(space: Space, point: Point, *names: str) -> Point:
    """The point with these blocks dropped and all others kept."""
    return tuple(
        int(c.site in names) if c.options[0].kind == "block" else i
        for c, i in zip(space.choices, point, strict=True)
    )


def sites(graph: Graph) -> list[Site]:
    return [s for s in graph.sites if s.kind == "block"]


class TestSkip(OptionLaws):
    def option(self) -> Option:
        return Skip(drop=True)

    def original(self) -> Option:
        return Skip(drop=False)

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        k = kinds(0)
        return k.task.model, k.graph, k.graph.site("layer1.0.block"), {}


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_what_enters_goes_on_as_a_tensor_of_its_own(entries: int) -> None:
    x = torch.randn(2, 3)
    for y in (Skipped(entries=entries)(x, 1), Skipped(entries=entries)(mask=None, hidden=x)):
        if entries:
            assert isinstance(y, tuple) and len(y) == entries and not any(y[1:])
            y = y[0]
        assert torch.equal(x, y) and y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("i", range(len(MAKES)))
def test_a_dropped_block_is_cut_out_of_the_network(i: int) -> None:
    k = kinds(i)
    for site in sites(k.graph):
        options = k.options(dropped(k.space, k.space.original, site.name))
        model = k.bank.copy(k.bank.standins(options))
        block = model.get_submodule(site.touches[0].module)
        handle = block.register_forward_hook(_same)
        small.forward(k.task, model, k.task.search, batch=20)
        assert isinstance(block, Skipped) and not list(block.parameters())
        handle.remove()


def _same(module: nn.Module, args: tuple[Tensor, ...], y: Tensor | tuple[Tensor, ...]) -> None:
    assert torch.equal(args[0], y[0] if isinstance(y, tuple) else y)


@pytest.mark.parametrize("i", range(len(MAKES)))
def test_the_bill_is_what_is_counted_whatever_else_is_chosen(i: int) -> None:
    k = kinds(i)
    size = bill.size(k.space, header=0)
    for seed, site in enumerate(sites(k.graph)):
        point = dropped(k.space, small.random_point(k.space, seed), site.name)
        there = attention.counted(k, k.bank.copy(k.bank.standins(k.options(point))))
        for x in k.graph.layers:
            s = bill.state(k.space, x, point)
            assert s.gone == (x.module in site.reach)
            assert there[x.module] == (0 if s.gone else s.elements, pytest.approx(s.macs))
            assert s.stored_bytes > 0 or s.gone
        kept = dropped(k.space, point)
        layers = [bill.state(k.space, k.graph.layer(n), kept).stored_bytes for n in site.reach]
        owned = {f"{x.module}.{p}" for x in k.graph.layers for p in ("weight", "bias")}
        block = k.task.model.get_submodule(site.touches[0].module)
        loose = [
            p.numel()
            for n, p in block.named_parameters(prefix=site.touches[0].module)
            if n not in owned and isinstance(_owner(k.task.model, n), nn.LayerNorm)
        ]
        assert size.of(kept) - size.of(point) == sum(layers) + 4 * sum(loose)


def _owner(model: nn.Module, parameter: str) -> nn.Module:
    return model.get_submodule(parameter.rpartition(".")[0])


def test_recovery_and_measurement_work_around_a_dropped_block() -> None:
    k = kinds(0)
    point = dropped(k.space, tuple(min(1, n - 1) for n in k.space.counts), "layer1.1.block")
    for recovery in (LIGHT, STRONG):
        found = k.meter.loss(k.options(point), recovery=recovery)
        assert np.isfinite(found.divergence)
    parts = small.identities(k.bank.skeleton)
    assert parts == small.identities(k.bank.skeleton) and small.hooks(k.bank.skeleton) == 0


@pytest.mark.parametrize("i", range(len(MAKES)))
def test_a_target_offers_every_block_kept_or_dropped(i: int) -> None:
    graph = kinds(i).graph
    for target in (Ideal(), OpenVino(), OnnxRuntime()):
        found = space(graph, target).only(lambda o, s, t=target: t.can(o, s, graph))  # type: ignore[misc]
        assert [c.site for c in found.choices] == [s.name for s in sites(graph)]
        assert all([o.label for o in c.options] == ["keep", "skip"] for c in found.choices)


def test_a_network_without_blocks_offers_nothing() -> None:
    k = small.kit()
    assert space(k.graph, Ideal()).choices == ()


def test_the_latency_of_a_plan_is_that_of_the_layers_it_has() -> None:
    k, target = kinds(0), OpenVino()
    s = precision.space(k.graph, target) + space(k.graph, target)
    lat = made_up(needed(s, target))
    sums = layer_sums(s, target, lat)
    converted = [count(s, target, batch=2) for count in (vain, leaving)]
    for seed in range(4):
        point = small.random_point(s, seed)
        kept = dropped(s, point)
        for site in sites(k.graph):
            without = dropped(s, point, site.name)
            own = [bill.state(s, k.graph.layer(n), kept) for n in site.reach]
            gone = sum(lat.seconds(_signature(x, target)) for x in own)
            assert sums.of(kept) - sums.of(without) == pytest.approx(gone)
            assert all(0 <= c.of(without) <= c.of(kept) for c in converted)
    assert all(len(p) == len(s.choices) for p in probes(s, count=4, generator=torch.Generator()))
    widest = probes(s, count=2, generator=torch.Generator())[1]
    assert dropped(s, widest) == widest


def _signature(state: bill.LayerState, target: OpenVino) -> Signature:
    from allot.latency import of_state

    return of_state(state, target)


def made_up(signatures: tuple[Signature, ...]) -> LatencyTable:
    entries = {
        s: Entry(median_s=1e-6 * s.ins * (s.outs + 3) / (3 if s.integer else 1), spread_s=0.0, n=9)
        for s in signatures
    }
    return LatencyTable(device="d", runtime="r", batch=32, threads=1, entries=entries)


@functools.cache
def digits() -> tuple[Task, Graph, Space, Bank]:
    from allot.calibrate import calibrate, needed

    task = digits_resnet.task()
    graph = trace(task.model, task.forward, task.example())
    both = precision.space(graph, OnnxRuntime()) + space(graph, OnnxRuntime())
    stats = calibrate(task, task.model, needed(both))
    return task, graph, both, Bank(task.model, graph=graph, stats=stats)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_plan_without_a_block_is_exported_packed_and_run(seed: int) -> None:
    task, graph, s, bank = digits()
    assert [x.name for x in sites(graph)] == ["block1.block"]
    point = dropped(s, small.random_point(s, seed) if seed else s.original, "block1.block")
    planned = bank.copy(bank.standins(s.options(point)))
    deployed = deploy(planned, graph)
    assert not any(n.startswith("block1") for n in named_layers(deployed))
    found = packed.pack(to_onnx(deployed, task.example()), deployed, graph)
    assert len(found.weights) == bill.size(s, header=packed.header_bytes(graph)).of(point)
    x = task.search.subset(slice(0, 32)).inputs
    assert isinstance(x, Tensor)
    session = OnnxRuntime().open(packed.unpack(found), workload=Workload(batch=32))
    got = torch.from_numpy(session.run({"input": x.numpy()})["output"])
    with torch.no_grad():
        want, simulated = deployed(x), planned(x)
    # sums on the border of two activation codes may go either way
    limit = (2e-2 if seed else 1e-5) * float(want.abs().max())
    assert float((got - want).abs().max()) < limit
    near = (want - simulated).abs().amax(1) < 1e-2 * simulated.abs().max()
    assert float(near.double().mean()) > 0.8


def test_the_loose_bytes_of_a_dropped_transformer_layer_leave_the_file() -> None:
    k = kinds(2)
    point = dropped(k.space, k.space.original, "layers.1.block")
    deployed = deploy(k.bank.copy(k.bank.standins(k.options(point))), k.graph)
    found = packed.pack(to_onnx(deployed, k.task.example()), deployed, k.graph)
    want = bill.size(k.space, header=packed.header_bytes(k.graph)).of(point)
    assert len(found.weights) == want
