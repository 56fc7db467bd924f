"""A file edited from a template is what an export of the same plan would have written."""

from __future__ import annotations

import functools
from collections import Counter

import torch
from torch import nn

from allot.deploy import deploy
from allot.onnx_graph import load_proto, to_onnx
from allot.recover import LIGHT
from allot.repair import repaired
from allot.runtimes import OnnxRuntime
from allot.space import Point
from allot.target import Workload
from allot.template import Files, form
from tests import toys
from tests.small import Kit, kit, width_and_bits

WORK = Workload(batch=5)


class Exports:
    """Exports a kit's networks, and counts how many."""

    def __init__(self, k: Kit) -> None:
        self.kit, self.count = k, 0

    def __call__(self, deployed: nn.Module) -> bytes:
        self.count += 1
        return to_onnx(deployed, self.kit.task.example())


def deployed(k: Kit, point: Point, *, recovered: bool = False) -> nn.Module:
    """The stored form of a point, after a recovery where it is asked for."""
    options = k.options(point)
    standins = k.bank.standins(options)
    if recovered:
        standins = repaired(
            k.bank, k.task, options, recovery=LIGHT, original=k.meter.moments(LIGHT)
        )
    return deploy(k.bank.copy(standins), k.graph)


def formats(k: Kit, seed: int) -> Point:
    """A random point of weights and tensors in float or 8 bits, weights in fewer too."""
    g = torch.Generator().manual_seed(seed)
    most = {"weight": 7, "activation": 1, "channels": 0}
    kinds = [k.graph.site(c.site).kind for c in k.space.choices]
    return tuple(int(torch.randint(most[x] + 1, (1,), generator=g)) for x in kinds)


def operators(file: bytes) -> Counter[str]:
    return Counter(node.op_type for node in load_proto(file).graph.node)


def agree(k: Kit, a: bytes, b: bytes) -> bool:
    """Whether two files have the same operators and compute the same, bit for bit."""
    x = {"input": toys.images(5).numpy()}
    ran = [OnnxRuntime().open(f, workload=WORK).run(x)["output"] for f in (a, b)]
    return operators(a) == operators(b) and bool((ran[0] == ran[1]).all())


@functools.cache
def chain() -> tuple[Kit, Exports, Files]:
    """A chain of convolutions, and the files of its plans."""
    k = kit()
    export = Exports(k)
    return k, export, Files(k.graph, export)


def test_an_edited_file_is_that_of_the_export() -> None:
    k = kit(toys.residual)
    export = Exports(k)
    files = Files(k.graph, export)
    files.of(deployed(k, formats(k, 0)))
    plan = deployed(k, formats(k, 1), recovered=True)
    assert agree(k, files.of(plan), to_onnx(plan, k.task.example()))
    assert 1 == export.count


def test_the_float_network_and_all_in_integers_come_from_one_template() -> None:
    k, export, files = chain()
    whole = tuple(int(k.graph.site(c.site).kind != "channels") for c in k.space.choices)
    before = files.of(deployed(k, k.space.original)) and export.count
    original, integers = (operators(files.of(deployed(k, p))) for p in (k.space.original, whole))
    assert before == export.count
    assert not original["QuantizeLinear"] + original["DequantizeLinear"]
    layers, tensors = len(k.graph.layers), integers["QuantizeLinear"]
    assert integers["DequantizeLinear"] == layers + tensors
    assert tensors == len({x.input for x in k.graph.layers})


def test_a_plan_of_other_widths_is_exported_anew_and_is_right_too() -> None:
    k, export, files = chain()
    files.of(deployed(k, formats(k, 0)))
    before, narrow = export.count, deployed(k, width_and_bits(k))
    assert agree(k, files.of(narrow), to_onnx(narrow, k.task.example()))
    assert before + 1 == export.count


def test_plans_share_a_form_exactly_where_they_differ_in_formats_alone() -> None:
    k, _, _ = chain()
    forms = {form(deployed(k, formats(k, seed))) for seed in range(4)}
    assert 1 == len(forms)
    assert form(deployed(k, width_and_bits(k))) not in forms


def test_the_plan_itself_is_left_as_it_is() -> None:
    k, _, files = chain()
    plan = deployed(k, formats(k, 1))
    before = {n: v.clone() for n, v in plan.state_dict().items()}
    modules = [id(m) for m in plan.modules()]
    files.of(plan)
    assert modules == [id(m) for m in plan.modules()]
    assert all(torch.equal(v, plan.state_dict()[n]) for n, v in before.items())
