"""Laws of the latency table and of the layers it is made of; its numbers are made up."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from allot.errors import ArtefactError
from allot.latency import (
    Entry,
    LatencyTable,
    Signature,
    fitting,
    load,
    of_state,
    signature,
)
from allot.latency_model import layer_sums
from allot.layer_times import measure, needed
from allot.memo import Memo
from allot.one_layer import graph as one_layer
from allot.one_layer import input_of
from allot.option import Option
from allot.options.precision import Activation, Weight
from allot.options.width import Keep
from allot.runtimes import OnnxRuntime, OpenVino
from allot.site import Graph, Layer, Site, Touch
from allot.space import Choice, Space
from allot.target import Workload
from tests.deployables import graph

TARGET = OpenVino()


def space(channels: int = 8) -> Space:
    """Weights float or 8 or 4 bits, activations float or 8, and the stem's channels if > 8."""
    g, choices = graph(), []
    for site in g.sites:
        options: tuple[Option, ...] = (Activation(bits=32), Activation(bits=8))
        if site.kind == "weight":
            options = tuple(Weight(bits=b) for b in (32, 8, 4))
        choices.append(Choice(site=site.name, options=options))
    return Space(graph=g, choices=tuple(choices))


def wide() -> Space:
    """Two convolutions of 64 channels with a group of their own between them, in steps of 8."""
    one = Layer(
        module="a", op="conv2d", weight=(64, 64, 3, 3), stride=(1, 1), padding=(1, 1),
        dilation=(1, 1), in_shape=(64, 8, 8), out_shape=(64, 8, 8), macs=64 * 64 * 9 * 64,
    )  # fmt: skip
    index = tuple(range(64))
    touches = tuple(Touch(module=m, role=r, index=index) for m, r in (("a", "out"), ("b", "in")))
    group = Site(name="a.channels", kind="channels", shape=(64,), touches=touches, reach=("a", "b"))
    g = Graph(layers=(one, replace(one, module="b")), sites=(group,), norms=(), order=())
    keeps = tuple(Keep(ratio=k / 64) for k in range(64, 0, -8))
    return Space(graph=g, choices=(Choice(site="a.channels", options=keeps),))


def made_up(signatures: tuple[Signature, ...]) -> LatencyTable:
    """Seconds linear in each width, a third of it in integers."""
    entries = {
        s: Entry(median_s=1e-6 * s.ins * (s.outs + 3) / (3 if s.integer else 1), spread_s=0.0, n=9)
        for s in signatures
    }
    return LatencyTable(device="d", runtime="r", batch=32, threads=1, entries=entries)


def test_only_distinct_shapes_are_measured() -> None:
    found = needed(space(), TARGET)
    assert len(set(found)) == len(found) == 2 * len(graph().layers)


@pytest.mark.parametrize("most", [150, 8])
def test_bilinear_times_are_met_between_measured_widths(most: int) -> None:
    s = wide()
    found = needed(s, TARGET, most=most)
    assert len(found) <= most
    lat = made_up(found)
    whole = made_up(needed(s, TARGET, most=10**6))
    np.testing.assert_allclose(
        [layer_sums(s, TARGET, whole).of((k,)) for k in range(8)],
        [layer_sums(s, TARGET, lat).of((k,)) for k in range(8)],
    )


def test_a_depthwise_layer_is_narrowed_in_both_widths_at_once() -> None:
    layer = replace(graph().layers[1], weight=(8, 1, 3, 3), groups=8)
    sigs = tuple(signature(layer, ins=n, outs=n, integer=False) for n in (8, 16))
    lat = made_up(sigs)
    middle = lat.seconds(signature(layer, ins=12, outs=12, integer=False))
    assert np.mean([lat.seconds(s) for s in sigs]) == pytest.approx(middle)


def test_a_shape_that_was_never_measured_is_no_guess() -> None:
    lat = made_up(needed(wide(), TARGET))
    with pytest.raises(KeyError):
        lat.seconds(signature(graph().layers[0], ins=3, outs=8, integer=False))


def test_a_table_survives_a_file_and_a_changed_number_does_not() -> None:
    lat = made_up(needed(space(), TARGET))
    data = json.loads(json.dumps(lat.dump()))
    assert lat.entries == load(data).entries
    data["entries"][0]["median_s"] *= 2
    with pytest.raises(ArtefactError, match="hash"):
        load(data)
    with pytest.raises(ArtefactError, match="version"):
        load({**data, "version": 0})
    with pytest.raises(ArtefactError, match="damaged"):
        load({k: v for k, v in data.items() if k != "entries"})


def test_nothing_is_measured_twice() -> None:
    sig = needed(space(), TARGET)[:2]
    memo, seen = Memo(), []
    first = measure(
        sig, target=TARGET, workload=Workload(batch=2), memo=memo,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    again = measure(sig, target=TARGET, workload=Workload(batch=2), memo=memo)
    assert first.digest == again.digest
    assert [(1, 2), (2, 2)] == seen


def test_what_a_table_knows_is_not_measured_again() -> None:
    signatures = needed(space(), TARGET)[:2]
    known = made_up(signatures)
    assert known.entries == measure(
        signatures, target=TARGET, workload=Workload(), known=known
    ).entries  # fmt: skip


def test_a_table_of_another_place_is_refused_and_says_what_differs() -> None:
    work = Workload(batch=2)
    here = measure(needed(space(), TARGET)[:1], target=TARGET, workload=work)
    assert fitting(here, target=TARGET, workload=work) is here
    others = {
        "amx_none": replace(here, instructions=(*here.instructions, "amx_none")),
        "openvino 1999.1": replace(here, runtime="openvino 1999.1"),
        "batch 7": replace(here, batch=7),
        "abacus": replace(here, device="abacus"),
    }
    for words, other in others.items():
        with pytest.raises(ArtefactError, match=words):
            fitting(other, target=TARGET, workload=work)


@pytest.mark.parametrize("target", [OpenVino(), OnnxRuntime()], ids=["openvino", "onnxruntime"])
@pytest.mark.parametrize("integer", [False, True])
def test_every_kind_of_layer_runs_alone(target: OpenVino | OnnxRuntime, integer: bool) -> None:
    conv, head = graph().layers[1], graph().layers[2]
    depth = replace(conv, weight=(8, 1, 3, 3), groups=8)
    for layer in (conv, depth, head):
        outs = 16 if layer is conv else layer.weight[0]
        s = signature(layer, ins=8, outs=outs, integer=integer)
        found = target.open(one_layer(s), workload=Workload(batch=2)).run({"input": input_of(s, 2)})
        assert (2, outs) == found["output"].shape[:2]
        assert (np.uint8 if integer else np.float32) == found["output"].dtype


@pytest.mark.parametrize("target", [OpenVino(), OnnxRuntime()], ids=["openvino", "onnxruntime"])
@pytest.mark.parametrize("live", [0, 1])
def test_a_linear_from_integers_in_groups_runs_alone(
    target: OpenVino | OnnxRuntime, live: int
) -> None:
    head = replace(graph().layers[2], weight=(16, 64), in_shape=(64,), out_shape=(16,))
    s = signature(head, ins=64, outs=16, integer=False, block=(4, 32, live))
    found = target.open(one_layer(s), workload=Workload(batch=2)).run({"input": input_of(s, 2)})
    assert (2, 16) == found["output"].shape
    assert np.float32 == found["output"].dtype


@pytest.mark.parametrize(("group", "integers"), [(4, True), (2, False)])
def test_groups_are_multiplied_as_integers_only_where_input_and_weight_share_them(
    group: int, integers: bool
) -> None:
    from allot.bill import states
    from allot.num.formats import Format, Int
    from allot.options.formatted import Formatted
    from allot.options.sharing import PerGroup
    from allot.options.tensors import ActivationFormat, AtRunTime

    g, head = graph(), graph().layers[2]
    weight = Formatted(name="W4", format=Format(grid=Int(bits=4), group=16))
    entering = ActivationFormat(
        grid=Int(bits=8), sharing=PerGroup(size=4 * group), ranges=AtRunTime()
    )
    choices = (
        Choice(site=f"{head.module}.weight", options=(weight,)),
        Choice(site=head.input, options=(entering,)),
    )
    (found,) = states(Space(graph=g, choices=choices), head)[1].values()
    assert integers == (max(found.weight_bits, found.input_bits) <= 8)
    assert (4, 16, int(integers)) == of_state(found, TARGET).block


def test_integer_layers_are_those_of_the_bill() -> None:
    s = space()
    from allot.bill import state

    layer = graph().layers[1]
    assert of_state(state(s, layer, (0, 0, 1, 2, 0, 0)), TARGET).integer
    assert not of_state(state(s, layer, (0, 0, 0, 2, 0, 0)), TARGET).integer
