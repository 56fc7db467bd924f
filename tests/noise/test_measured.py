"""Laws of the mismatches of a deployed network: none changes nothing, all are told, pairs add up.

Faults these must catch: a mismatch that is applied twice or not at all; one that is skipped without
a word; a pair of one kind; a worst pair that is none; answers compared with the wrong ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from allot.noise import files
from allot.noise.measured import Change, Deployed, Noise, noise
from allot.noise.pictures import pictures
from allot.noise.variants import KINDS, Variant, of_images, of_inference
from allot.onnx_graph import load_proto
from allot.runtimes import Ideal, OnnxRuntime, OpenVino
from allot.target import Workload
from allot.task import Data, Task
from tests.integer_only.graphs import Graph
from tests.noise.test_images import normalized, smooth

SIDE = 11


def network(
    last: Callable[[Graph, str], str] | None = None, *, side: int = SIDE, width: int = 6
) -> bytes:
    """Quantized convolution, pool with a rest, mean, linear in float."""
    g = Graph(0, (3, side, side))
    x = g.node("Relu", g.layer(g.quantized("input", 0.02, 110), 6, bits=4))
    x = g.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = last(g, x) if last else g.node("Flatten", g.node("GlobalAveragePool", x))
    weight = g.constant(g.random.normal(size=(4, width)).astype(np.float32) * 20, "head.weight")
    return g.finished(g.node("Gemm", x, weight, transB=1))


@cache
def deployed() -> Deployed:
    images = smooth(40, SIDE)
    x = normalized(images)
    task = Task(
        name="t", model=nn.Identity(), calibrate=Data(inputs=x), search=Data(inputs=x),
        certify=Data(inputs=x),
    )  # fmt: skip
    bare = Deployed(
        onnx=network(), target=Ideal(), workload=Workload(batch=8), task=task, data=Data(inputs=x)
    )
    said = bare.outputs((), None, {}).argmax(1)
    return replace(bare, data=Data(inputs=x, labels=said))


@cache
def found() -> Noise:
    return noise(deployed(), others=(OnnxRuntime(), OpenVino()))


def test_no_mismatch_changes_nothing() -> None:
    d = deployed()
    made, _ = pictures(d.data.inputs)
    clean = d.outputs((), made, {})
    still = Variant(kind="colour", name="none", images=lambda x: x, file=lambda f: f)
    change = d.change((still,), clean, d.outputs((still,), made, {}))
    assert change.same and (0.0, 0.0) == (change.lost, change.nats)


def test_every_kind_is_tried_or_told_why_not() -> None:
    kinds = {c.labels[0].partition(":")[0] for c in found().singles}
    kinds |= {s.label.partition(":")[0] for s in found().skipped}
    assert set(KINDS) == kinds and all(s.why for s in found().skipped)
    assert len({c.labels for c in found().singles}) == len(found().singles)


def test_a_variant_measures_the_same_again() -> None:
    again = noise(deployed(), others=(OnnxRuntime(), OpenVino()))
    assert found() == again


def test_the_right_answers_can_only_be_lost() -> None:
    assert 1.0 == found().clean
    assert all(c.lost is not None and c.lost >= 0 for c in (*found().singles, *found().pairs))


def test_images_that_are_changed_change_the_answers() -> None:
    by = {c.labels[0]: c for c in found().singles}
    for kind in ("resize", "colour", "ceil mode", "precision"):
        assert any(not c.same and (c.nats or 0) > 0 for n, c in by.items() if n.startswith(kind))
    assert by["batch: 1"].nats is not None and by["batch: 1"].nats < 1e-6


def test_pairs_are_of_two_kinds_and_of_the_worst_of_each() -> None:
    worst: dict[str, Change] = {}
    for c in found().singles:
        kind = c.labels[0].partition(":")[0]
        if not c.same and (kind not in worst or c.badness > worst[kind].badness):
            worst[kind] = c
    labels = {c.labels[0] for c in worst.values()}
    assert found().pairs
    for pair in found().pairs:
        assert set(pair.labels) <= labels
        assert len({x.partition(":")[0] for x in pair.labels}) == 2


def test_the_worst_pair_is_no_better_than_the_worst_alone_or_that_is_said() -> None:
    one, two = found().worst, found().worst_pair
    assert one is not None and two is not None
    assert (two.badness >= one.badness) == found().verdict.startswith("the worst pair is")
    swapped = replace(found(), pairs=tuple(replace(p, lost=0.0, nats=0.0) for p in found().pairs))
    assert "alone" in swapped.verdict and "no pair is as bad" in swapped.verdict
    assert "fewer than two kinds" in replace(found(), pairs=()).verdict
    assert "no mismatch could be tried" == replace(found(), singles=(), pairs=()).verdict


def test_outputs_that_are_no_numbers_are_the_worst() -> None:
    d = deployed()
    clean = d.outputs((), None, {})
    broken = clean.clone()
    broken[0, 0] = torch.nan
    v = Variant(kind="precision", name="p")
    change = d.change((v,), clean, broken)
    assert change.nats is None and change.badness > max(c.badness for c in found().singles)
    assert "no numbers" in replace(found(), singles=(change,), pairs=()).verdict


def test_without_labels_divergence_alone_is_told() -> None:
    d = replace(deployed(), data=Data(inputs=deployed().data.inputs))
    bare = noise(d, others=())
    assert bare.clean is None and all(c.lost is None for c in bare.singles)
    assert bare.worst is not None and (bare.worst.nats or 0) > 0
    assert {"runtime": "no other runtime is installed"}.items() <= {
        s.label: s.why for s in bare.skipped
    }.items()


def test_it_is_data_for_a_file() -> None:
    data = json.loads(json.dumps(found().dump(), allow_nan=False))
    assert len(data["singles"]) == len(found().singles) and data["verdict"] == found().verdict
    bad = [(p["nats"] is None, p["lost"], p["nats"]) for p in data["pairs"]]
    assert bad == sorted(bad, reverse=True)


def test_inputs_that_are_no_images_meet_no_mismatch_of_images() -> None:
    variants, skipped = of_images("no images", colour=False)
    assert not variants and list(KINDS[:4]) == [s.label for s in skipped]
    gray = of_images("", colour=False)
    assert "colour" in {s.label for s in gray[1]} and gray[0]


def test_ceil_mode_is_turned_only_where_that_can_run() -> None:
    assert "" == files.no_ceil(network())
    assert "without a rest" in files.no_ceil(network(side=10))

    def flat(g: Graph, x: str) -> str:
        return g.node("Reshape", x, g.constant(np.array([-1, 6 * 16])))

    assert "no other size" in files.no_ceil(network(flat, width=96))
    g = Graph(0, (3, 8, 8))
    assert "no pool" in files.no_ceil(g.finished(g.layer(g.quantized("input", 0.1), 4)))


def test_turning_ceil_mode_twice_is_nothing() -> None:
    def ceils(onnx: bytes) -> list[int]:
        nodes = load_proto(onnx).graph.node
        return [
            next((a.i for a in n.attribute if a.name == "ceil_mode"), 0)
            for n in nodes
            if n.op_type == "MaxPool"
        ]

    once = files.other_ceil(network())
    assert ([0], [1], [0]) == (ceils(network()), ceils(once), ceils(files.other_ceil(once)))


@pytest.mark.parametrize(("edit", "bits"), [(files.float16, 11), (files.bfloat16, 8)])
def test_short_floats_round_what_is_float_and_leave_codes_alone(
    edit: Callable[[bytes], bytes], bits: int
) -> None:
    d = deployed()
    kinds = [n.op_type for n in load_proto(edit(d.onnx)).graph.node]
    # the convolution goes into a pool and a mean, the linear out: all three results are floats
    assert kinds.count("Cast") == 2 * 3
    variant = Variant(kind="precision", name="x", file=edit)
    clean, short = d.outputs((), None, {}), d.outputs((variant,), None, {})
    off = float((short - clean).norm() / clean.norm())
    assert 2.0 ** -(bits + 4) < off < 2.0 ** -(bits - 3), off


def test_a_layer_from_codes_to_codes_has_no_floats() -> None:
    g = Graph(0, (3, 8, 8))
    x = g.quantized("input", 0.02, 110)
    onnx = g.finished(g.quantized(g.node("Relu", g.layer(x, 4)), 0.1))
    assert "Cast" not in [n.op_type for n in load_proto(files.float16(onnx)).graph.node]


def test_which_runtime_keeps_casts_is_found_out() -> None:
    assert files.keeps_casts(OnnxRuntime())
    rounding = [
        v
        for v in of_inference(
            network(), target=OpenVino(), workload=Workload(), others=(OnnxRuntime(),)
        )[0]
        if v.kind == "precision"
    ]
    given = None if files.keeps_casts(OpenVino()) else OnnxRuntime()
    assert {given} == {v.target for v in rounding} and 2 == len(rounding)
