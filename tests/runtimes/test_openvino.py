"""Laws of OpenVINO's targets: bfloat16 is one switch, and sums are rounded as the file says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allot.errors import MissingError
from allot.runtimes import OnnxRuntime, OpenVino, OpenVinoBf16, openvino
from allot.runtimes.terms import rounded_terms
from allot.target import Target, Workload
from tests.deployables import exported, images
from tests.runtimes import quantized

FLOATS = OpenVinoBf16()
here = pytest.mark.skipif(bool(FLOATS.missing()), reason=FLOATS.missing())


def test_a_processor_without_bfloat16_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino, "instructions", lambda: ("avx2", "avx512f", "avx512_vnni"))
    said = FLOATS.missing()
    assert "avx512_bf16 or amx_bf16" in said and "openvino-cpu" in said and "\n" not in said
    with pytest.raises(MissingError, match="avx512_bf16"):
        FLOATS.open(b"", workload=Workload())
    assert "" == OpenVino().missing()


def test_what_stays_float_computes_in_sixteen_bits() -> None:
    assert (16, 16) == FLOATS.computes(32, 32) == FLOATS.computes(4, 32) == FLOATS.computes(32, 8)
    assert (8, 8) == FLOATS.computes(4, 8)


def test_it_is_told_apart_and_allowed_more() -> None:
    assert FLOATS.version() != OpenVino().version()
    assert FLOATS.tolerance.mean_nat > Target.tolerance.mean_nat == OpenVino.tolerance.mean_nat
    assert FLOATS.tolerance.agreement < OpenVino.tolerance.agreement


@here
def test_floats_are_rounded_to_eight_bits_of_significand() -> None:
    onnx, deployed = exported(bits=(8, 8))
    x = images(16)
    workload = Workload(batch=16)
    exact = OpenVino().open(onnx, workload=workload).run({"input": x.numpy()})["output"]
    short = FLOATS.open(onnx, workload=workload).run({"input": x.numpy()})["output"]
    top = np.abs(exact).max()
    assert 1e-5 * top < np.abs(short - exact).max() < 2**-5 * top
    assert np.abs(deployed(x).numpy() - exact).max() < 0.02 * top


@pytest.mark.parametrize("name", ["sums", "mixed"])
@pytest.mark.parametrize("target", [OpenVino(), OnnxRuntime()], ids=lambda t: t.name)
def test_a_file_with_results_in_codes_means_the_same_in_both(name: str, target: Target) -> None:
    planned, _, onnx = quantized.quantized(name)
    x = quantized.images(name, 64, 9)
    got = target.open(onnx, workload=Workload(batch=64)).run({"input": x.numpy()})["output"]
    expected = planned(x)
    error = (torch.from_numpy(got) - expected).norm() / expected.norm()
    # a code that rounds the other way is a step; a term that is not rounded at all moves many
    assert float(error) < 2e-3


def test_terms_of_sums_alone_are_held_apart() -> None:
    from allot.onnx_graph import load_proto

    onnx = quantized.quantized("sums")[-1]
    before, after = load_proto(onnx).graph, load_proto(rounded_terms(onnx)).graph
    new = [n for n in after.node if n.name.endswith(".term")]
    # one shortcut adds to a convolution's codes, and so does the other
    assert [n.op_type for n in new] == ["Clip", "Clip"]
    assert len(after.node) == len(before.node) + 2
    plain, _ = exported()
    assert rounded_terms(plain) == plain


def test_inputs_may_lie_in_memory_as_they_like() -> None:
    onnx, _ = exported()
    session, x = OpenVino().open(onnx, workload=Workload(batch=4)), images(4).numpy()
    expected = session.run({"input": x})["output"]
    locked = x.copy()
    locked.flags.writeable = False
    for given in (locked, np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        before = given.copy()
        np.testing.assert_array_equal(expected, session.run({"input": given})["output"])
        np.testing.assert_array_equal(before, given)
