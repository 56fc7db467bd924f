"""Laws of targets: they say what they can, run what they are given, speak when absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allot import part
from allot.errors import InputError, MissingError
from allot.option import Option
from allot.options.precision import Activation, Weight
from allot.options.width import Keep
from allot.runtimes import ALL, Ideal, OnnxRuntime, OpenVino, by_name, kernels
from allot.site import Site
from allot.target import Target, Workload
from allot.verify import first_difference, layer_differences
from tests.deployables import exported, graph, images

CPU = (OpenVino(), OnnxRuntime())
HERE = tuple(t for t in ALL if not t.missing())
NAMES = [t.name for t in HERE]


def site(kind: str, size: int = 32) -> Site:
    return Site(name="s", kind=kind, shape=(size,), touches=(), reach=())


@pytest.mark.parametrize("target", HERE, ids=NAMES)
def test_the_same_values_come_out_as_of_the_simulation(target: Target) -> None:
    onnx, deployed = exported()
    x = images(4)
    got = target.open(onnx, workload=Workload(batch=4)).run({"input": x.numpy()})
    assert ["output"] == list(got)
    expected = deployed(x).numpy()
    assert np.abs(got["output"] - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("target", CPU, ids=[t.name for t in CPU])
def test_any_batch_gives_what_the_planned_one_gives(target: Target) -> None:
    session = target.open(exported()[0], workload=Workload(batch=6))
    x = images(6).numpy()
    whole = session.run({"input": x})["output"]
    parts = [session.run({"input": x[a:b]})["output"] for a, b in ((0, 1), (1, 6))]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", CPU, ids=[t.name for t in CPU])
def test_an_answer_is_not_overwritten_by_the_next(target: Target) -> None:
    session = target.open(exported()[0], workload=Workload(batch=6))
    first = session.run({"input": images(6).numpy()})["output"]
    kept = first.copy()
    session.run({"input": -images(6).numpy()})
    np.testing.assert_array_equal(kept, first)


@pytest.mark.parametrize("target", HERE, ids=NAMES)
def test_every_layer_agrees_and_a_wrong_one_is_found(target: Target) -> None:
    onnx, deployed = exported()
    found = layer_differences(onnx, deployed, images(4), target=target, workload=Workload(batch=4))
    assert ["stem.0", "conv", "head"] == list(found)
    assert "" == first_difference(found)
    from onnx import numpy_helper

    from allot.onnx_graph import load_proto

    proto = load_proto(onnx)
    for t in proto.graph.initializer:
        if t.name == "conv.inner.scale":
            t.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(t), t.name))
    wrong = layer_differences(
        proto.SerializeToString(), deployed, images(4), target=target, workload=Workload(batch=4)
    )
    assert "conv" == first_difference(wrong)


@pytest.mark.parametrize("target", HERE, ids=NAMES)
def test_a_target_survives_a_file(target: Target) -> None:
    assert target == part.load(target.dump()) == by_name(target.name)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"openvino-cpu, .*onnxruntime-cpu, ideal"):
        by_name("gpu")


@pytest.mark.parametrize("target", HERE, ids=NAMES)
def test_originals_are_always_possible(target: Target) -> None:
    for kind, option in (
        ("weight", Weight(bits=32)),
        ("activation", Activation(bits=32)),
        ("channels", Keep(ratio=1.0)),
    ):
        assert "" == target.can(option, site(kind), graph())


@pytest.mark.parametrize("target", HERE, ids=NAMES)
def test_activations_are_possible_in_the_widths_it_names_and_no_other(target: Target) -> None:
    for bits in (4, 6, 8):
        answer = target.can(Activation(bits=bits), site("activation"), graph())
        assert (answer == "") == (bits in target.activation_bits()), answer


@pytest.mark.parametrize("target", HERE, ids=NAMES)
def test_weights_are_stored_in_two_to_eight_bits(target: Target) -> None:
    for bits in range(2, 9):
        assert "" == target.can(Weight(bits=bits), site("weight"), graph())


@pytest.mark.parametrize("target", HERE, ids=NAMES)
@pytest.mark.parametrize("size", [16, 24, 64])
def test_channels_stay_in_steps(target: Target, size: int) -> None:
    step = target.channel_step(size)
    for k in range(1, size):
        option: Option = Keep(ratio=k / size)
        answer = target.can(option, site("channels", size), graph())
        assert (answer == "") == (k % step == 0), (k, answer)


def test_steps_by_hand() -> None:
    assert all((2 if t == Ideal() else 8) == t.channel_step(16) for t in ALL)
    assert (1, 5) == (Ideal().channel_step(5), OpenVino().channel_step(5))


def test_integers_compute_only_with_integers() -> None:
    assert (8, 8) == OpenVino().computes(4, 8)
    assert (32, 32) == OpenVino().computes(4, 32) == OpenVino().computes(32, 8)
    assert (8, 8) == OnnxRuntime().computes(4, 8)
    assert (32, 32) == OnnxRuntime().computes(4, 32) == OnnxRuntime().computes(32, 8)
    assert (4, 6) == Ideal().computes(4, 6)


def test_only_what_runs_states_latency() -> None:
    assert all((t != Ideal()) == ("latency" in t.bills) == t.timed for t in ALL)


# torch is what allot itself runs on
NOT_TORCH = tuple(t for t in HERE if not t.name.startswith("torch"))


@pytest.mark.parametrize("target", NOT_TORCH, ids=[t.name for t in NOT_TORCH])
def test_an_absent_runtime_says_how_to_get_it(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "" == target.missing()
    monkeypatch.setattr(kernels.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="pip install"):
        target.open(b"", workload=Workload())
    if target in CPU:
        assert "pip install" in target.missing()
        assert "" == target.version()


def test_fewer_activation_bits_run_right_through_ideal() -> None:
    onnx, deployed = exported(bits=(8, 4), activations=4)
    x = images(8)
    got = Ideal().open(onnx, workload=Workload(batch=8)).run({"input": x.numpy()})["output"]
    torch.testing.assert_close(deployed(x), torch.from_numpy(got), rtol=1e-3, atol=1e-3)
