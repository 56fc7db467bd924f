"""Laws of the deployed form: it computes the plan, and the exported graph computes it too."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from allot.deploy import deploy, fold_norm, named_layers, original_name
from allot.deployed import (
    CodedLayer,
    DeployedLayer,
    EdgeQuant,
    ExpandedLayer,
    FloatLayer,
    positive,
)
from allot.errors import ModelError
from allot.num.formats import rowwise
from allot.onnx_graph import load_proto, to_onnx
from tests.deployables import coded, edge, exported, graph, images, net, planned


def test_folding_leaves_the_float_network_as_it_was() -> None:
    model, x = net(), images()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.testing.assert_close(model(x), deploy(model, graph())(x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_folding_without_the_norm_would_be_seen() -> None:
    model, x = net(), images()
    deployed = deploy(model, graph())
    named_layers(deployed)["conv"].bias.zero_()
    assert not torch.allclose(model(x), deployed(x), rtol=1e-2)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("activations", [4, 8])
def test_the_deployed_form_computes_the_plan(bits: int, activations: int) -> None:
    model, x = planned(bits=(8, bits), activations=activations), images(64)
    expected, got = model(x), deploy(model, graph())(x)
    # a sum that falls on the border of two activation codes may go either way, rarely
    off = ((expected - got).abs() > 1e-3 * expected.abs().max()).any(1).double().mean()
    assert float(off) < 0.15, off


def test_signs_of_scales_move_into_the_codes() -> None:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (12, 3, 2), generator=g, dtype=torch.int8)
    scale = torch.randn(12, generator=g)
    scale[3] = 0.0
    new, above = positive(codes, scale)
    assert bool((above > 0).all())
    assert torch.equal(codes * rowwise(scale, codes), new * rowwise(above, new) + 0.0)


def test_a_code_without_a_negative_is_refused() -> None:
    codes = torch.tensor([[-128, 0]], dtype=torch.int8)
    assert torch.equal(codes, positive(codes, torch.ones(1))[0])
    with pytest.raises(ModelError, match="-128"):
        positive(codes, -torch.ones(1))


@pytest.mark.parametrize("affine", [True, False])
def test_fold_norm_is_the_norm(affine: bool) -> None:
    norm = nn.BatchNorm2d(4, affine=affine).eval()
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    gain, shift = fold_norm(norm, 4)
    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm(x), x * gain.view(1, 4, 1, 1) + shift.view(1, 4, 1, 1))


def test_a_norm_of_the_batch_itself_cannot_be_folded() -> None:
    with pytest.raises(ModelError, match="cannot be folded"):
        fold_norm(nn.BatchNorm2d(4, track_running_stats=False), 4)


def test_a_layer_computes_in_integers_only_where_its_input_is_quantized() -> None:
    model = planned()
    model._modules["conv"] = model.conv.inner  # type: ignore[assignment]
    layers = named_layers(deploy(model, graph()))
    assert [DeployedLayer, ExpandedLayer, FloatLayer] == [type(x) for x in layers.values()]


def test_names_are_those_of_the_original_through_wrappers() -> None:
    model = planned()
    model._modules["stem"] = edge(model.stem, low=-3.0, high=3.0)
    deployed = deploy(model, graph())
    assert ["stem.0", "conv", "head"] == list(named_layers(deployed))
    assert "stem.0.codes" == original_name(deployed, "stem.inner.0.inner.codes")


def test_a_layer_may_be_called_inner() -> None:
    model = nn.Sequential()
    model.add_module("inner", nn.Linear(2, 2))
    assert "inner" == original_name(model, "inner")


def test_edges_with_fewer_bits_reach_no_further_than_their_codes() -> None:
    for bits in (4, 6, 8):
        quant = EdgeQuant(nn.Identity(), role="out", scale=0.5, zero_point=3, bits=bits)
        found = quant(torch.linspace(-1000, 1000, 4001)).unique() / 0.5 + 3
        assert (0, 2**bits - 1) == (found.min(), found.max())
        assert len(found) <= 2**bits


def test_a_layer_that_has_no_deployed_form_is_refused() -> None:
    model = net()
    model._modules["conv"] = nn.Identity()
    with pytest.raises(ModelError, match="conv is a Identity"):
        deploy(model, graph())


def test_the_exported_graph_keeps_codes_and_names() -> None:
    onnx, deployed = exported()
    from onnx import numpy_helper

    proto = load_proto(onnx)
    found = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for name in ("stem.0.inner", "conv.inner"):
        layer = deployed.get_submodule(name)
        assert isinstance(layer, CodedLayer)
        assert np.int8 == found[f"{name}.codes"].dtype
        np.testing.assert_array_equal(layer.codes.numpy(), found[f"{name}.codes"])
        np.testing.assert_array_equal(layer.scale.numpy(), found[f"{name}.scale"])
    kinds = [n.op_type for n in proto.graph.node]
    assert (2, 4) == (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear"))
    assert "BatchNormalization" not in kinds and "Constant" not in kinds


def test_equal_tensors_of_two_layers_keep_both_names() -> None:
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.load_state_dict(a.state_dict())
    names = {
        t.name for t in load_proto(to_onnx(nn.Sequential(a, b), torch.ones(2, 4))).graph.initializer
    }
    assert {"0.weight", "1.weight", "0.bias", "1.bias"} <= names


def test_two_exports_are_the_same_bytes() -> None:
    assert exported()[0] == to_onnx(exported()[1], images(2))


def test_export_leaves_logging_as_it_was() -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    to_onnx(nn.Linear(3, 2), torch.ones(2, 3))
    assert level == logger.level


def test_what_torch_cannot_export_is_named() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ModelError, match="cannot export"):
        to_onnx(Branch(), torch.ones(2, 3))


def test_a_coded_layer_stands_for_its_values() -> None:
    layer = nn.Conv2d(3, 4, 3)
    stand_in = coded(layer, 4)
    found = DeployedLayer(stand_in.coded(torch.ones(4), torch.zeros(4)), bias=layer.bias)
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stand_in(x), found(x))
