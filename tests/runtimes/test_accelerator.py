"""Laws of an accelerator that is described: its bills follow the roofline, its file is checked.

Faults that must be caught: sum for maximum, bits for bytes, a batch counted once, a format that
does not hold the weight, a line counted from 0.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from allot import billed, part
from allot.artefact import open_artefact
from allot.bill import state
from allot.cli.entry import call
from allot.errors import InputError
from allot.job import budget, say
from allot.options.precision import Activation
from allot.options.width import Keep
from allot.runtimes import by_name
from allot.runtimes.accelerator import Accelerator, Kernel
from allot.runtimes.accelerator_file import load
from allot.site import Site
from allot.space import Choice, Space
from allot.target import Work, Workload
from tests import tiny
from tests.deployables import exported, graph, images
from tests.test_latency import space

EXAMPLE = "examples/npu.yaml"
NPU = load(EXAMPLE)
LOAD = Workload(batch=4)
WORK = Work(
    macs=1e6, weight_bits=8, input_bits=8, stored_bits=8, weight_bytes=9000.0, entering=2000.0,
    leaving=1000.0,
)  # fmt: skip


def slow(**changes: float) -> Accelerator:
    return replace(NPU, **changes)  # type: ignore[arg-type]


def test_the_example_is_a_target_that_survives_a_file() -> None:
    found = by_name(EXAMPLE)
    assert NPU == found == part.load(found.dump())
    assert (EXAMPLE, "small-npu") == (found.name, NPU.title)
    assert found.version().startswith("small-npu ") and not found.missing() and not found.timed


def test_a_layer_by_hand() -> None:
    """1e6 MACs at 1024 a cycle of 800 MHz; 9000 + 3000 bytes at 6.4e9 a second."""
    computing, moving = 1e6 / (1024 * 800e6), 12000 / 6.4e9
    assert NPU.stated(WORK)["latency"] == pytest.approx(max(computing, moving), rel=1e-12)
    energy = 1e-12 * (1e6 * 0.3 + 12000 * 80)
    assert NPU.stated(WORK)["energy"] == pytest.approx(energy, rel=1e-12)


def test_time_is_the_longer_of_two_terms() -> None:
    computing = slow(bytes_per_second=1e30).stated(WORK)["latency"]
    moving = slow(clock_hz=1e30).stated(WORK)["latency"]
    assert moving > computing
    for bandwidth in (1e8, 6.4e9, 1e12):
        found = slow(bytes_per_second=bandwidth).stated(WORK)["latency"]
        assert found == pytest.approx(max(computing, moving * 6.4e9 / bandwidth), rel=1e-12)


def test_floats_are_held_in_the_widest_format() -> None:
    """A weight that is stored in 32 bits moves in 16, and so do tensors."""
    real = replace(WORK, weight_bits=32, input_bits=32, stored_bits=32, weight_bytes=36000.0)
    assert 18000 + 3000 * 2 == pytest.approx(NPU.moved(real), rel=1e-12)


@pytest.mark.parametrize(
    ("bits", "computes"),
    [
        ((32, 32), (16, 16)),
        ((4, 32), (16, 16)),
        ((8, 8), (8, 8)),
        ((5, 8), (8, 8)),
        ((4, 8), (4, 8)),
        ((2, 4), (4, 8)),
        ((4, 16), (16, 16)),
    ],
)
def test_the_fastest_format_that_holds_both(
    bits: tuple[int, int], computes: tuple[int, int]
) -> None:
    assert computes == NPU.computes(*bits)


def test_fewer_bits_never_take_longer() -> None:
    tables = billed.stated(space(), NPU, workload=LOAD)
    counts = space().counts
    for at in range(len(counts)):
        for rest in ((0,) * len(counts), tuple(n - 1 for n in counts)):
            points = [(*rest[:at], i, *rest[at + 1 :]) for i in range(counts[at])]
            times = [tables["latency"].of(p) for p in points]
            assert all(a >= b for a, b in itertools.pairwise(times)), (at, times)


def test_fewer_channels_never_take_longer() -> None:
    g = graph()
    keeps = tuple(Keep(ratio=k / 8) for k in range(8, 0, -1))
    touches = tuple(
        replace(g.site("conv.weight").touches[0], module=m, role=r, index=tuple(range(8)))
        for m, r in (("stem.0", "out"), ("conv", "in"))
    )
    group = Site(name="c", kind="channels", shape=(8,), touches=touches, reach=("stem.0", "conv"))
    narrow = Space(
        graph=replace(g, sites=(*g.sites, group)), choices=(Choice(site="c", options=keeps),)
    )
    for name, t in billed.stated(narrow, NPU, workload=LOAD).items():
        found = [t.of((i,)) for i in range(8)]
        assert all(a > b for a, b in itertools.pairwise(found)), name


def test_a_plan_takes_what_its_layers_take() -> None:
    """Layers one after another: the table of a plan is the sum of what is stated of each."""
    s = space()
    tables = billed.stated(s, NPU, workload=LOAD)
    for point in [s.original, tuple(n - 1 for n in s.counts)]:
        for name in ("latency", "energy"):
            each = [NPU.stated(billed.work(state(s, x, point), 4))[name] for x in s.graph.layers]
            assert sum(each) == pytest.approx(tables[name].of(point), rel=1e-12)


def test_the_original_costs_what_the_plan_of_originals_costs() -> None:
    s = space()
    tables = billed.stated(s, NPU, workload=LOAD)
    found = billed.originals(s.graph, workload=LOAD, asked=(), target=NPU)
    for name in ("latency", "energy"):
        assert tables[name].of(s.original) == pytest.approx(found[name], rel=1e-12)


def test_a_batch_computes_and_moves_more_but_its_weights_once() -> None:
    one, two = (billed.stated(space(), NPU, workload=Workload(batch=b)) for b in (1, 2))
    for name in ("latency", "energy"):
        a, b = one[name].of(space().original), two[name].of(space().original)
        assert a < b < 2 * a


def test_energy_is_a_budget() -> None:
    assert 2e-3 == pytest.approx(budget("energy=2mJ").limit(1.0))
    assert "2 mJ" == say("energy", 2e-3)
    with pytest.raises(InputError, match="no unit of energy"):
        budget("energy=2ms")


def test_options_are_cut_to_its_formats() -> None:
    site = Site(name="s", kind="activation", shape=(8,), touches=(), reach=())
    only8 = replace(NPU, formats=NPU.formats[:2])
    assert "" == only8.can(Activation(bits=8), site, graph())
    assert "integers of 8 bits" in only8.can(Activation(bits=4), site, graph())
    none = replace(NPU, formats=NPU.formats[:1])
    assert "integers of no bits" in none.can(Activation(bits=8), site, graph())
    assert (16, 5) == (NPU.channel_step(64), NPU.channel_step(5))


def test_its_files_run() -> None:
    onnx, deployed = exported()
    x = images(4)
    got = NPU.open(onnx, workload=LOAD).run({"input": x.numpy()})["output"]
    expected = deployed(x).numpy()
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()


GOOD = Path(EXAMPLE).read_text()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("clock_hz: 800e6", "clock_hz: -1", r"line 3: clock_hz is '-1'; give a number above 0"),
        ("clock_hz: 800e6", "clock_hz: fast", r"line 3: clock_hz is 'fast'; give a number"),
        ("clock_hz: 800e6", "clock_hz: .inf", r"line 3: clock_hz is '.inf'"),
        ("clock_hz: 800e6\n", "", r"line 2: the field clock_hz is missing"),
        ("clock_hz", "clock", r"line 3: unknown field clock; there are name, clock_hz"),
        ("pj_per_byte: 80", "pj_per_byte: -80", r"line 5: pj_per_byte .* 0 or more"),
        ("channels: 16", "channels: 2.5", r"line 6: channels is '2.5'; give a whole number"),
        ("channels: 16", "channels: 16\nchannels: 8", r"line 7: the field channels is given twice"),
        ("name: small-npu", "name: [a]", r"line 2: name is no such thing; give a name"),
        (
            "weight: 4, input: 8",
            "weight: 9, input: 8",
            r"line 10: formats.weight is '9'; allot has",
        ),
        ("weight: 4, input: 8", "weight: 4, input: 5", r"line 10: formats.input is '5'"),
        (
            "weight: 4, input: 8",
            "weight: 8, input: 8",
            r"line 10: weight 8 with input 8 is given t",
        ),
        ("macs_per_cycle: 2048, ", "", r"line 10: the field formats.macs_per_cycle is missing"),
        ("weight: 16, input: 16", "weight: 6, input: 6", r"computes in floats"),
        ("weight: 16, input: 16", "weight: 16, in: 16", r"line 8: unknown field formats.in;"),
        (GOOD[GOOD.index("formats:") :], "formats: 8\n", r"line 7: formats is '8'; give a list"),
        (GOOD, "- 1\n- 2\n", r"line 1: the file is no mapping of fields"),
        (GOOD, "name: [1\n", r"line 2: not YAML"),
        (GOOD, "", r"is empty; it has the fields name, clock_hz"),
    ],
)
def test_a_bad_file_is_told_by_line_and_field(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in GOOD
    file = tmp_path / "npu.yaml"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError, match=said) as e:
        by_name(str(file))
    assert str(file) in str(e.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"there is no file nowhere\.yaml"):
        by_name("nowhere.yaml")


def test_a_kernel_of_equal_speed_is_chosen_by_its_energy() -> None:
    two = (
        *NPU.formats,
        Kernel(weight=8, input=16, macs_per_cycle=1024, pj_per_mac=0.1),
    )
    assert (8, 16) == replace(NPU, formats=two).computes(8, 8)


def test_a_job_keeps_within_what_is_stated_and_times_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    budgets = ("--budget", "latency=60%", "--budget", "energy=65%")
    given = ("compress", tiny.COMPRESS[1], "--target", EXAMPLE, *budgets, "--max-drop", "20")
    assert 0 == call([*given, "--json", "--out", str(folder)]), capsys.readouterr().err
    summary = json.loads((folder / "summary.json").read_text())
    before, after = summary["original"], summary["compressed"]
    assert after["latency"] <= 0.6 * before["latency"]
    assert after["energy"] <= 0.65 * before["energy"]
    assert "latency_interval" not in after
    assert NPU == open_artefact(folder).target()
