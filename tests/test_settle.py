"""Laws of settling: biases become whole units of the sums, and nothing else moves."""

from __future__ import annotations

import torch

from allot.deploy import deploy
from allot.deployed import DeployedLayer
from allot.settle import settled_
from allot.testing import same_tensors
from tests.deployables import graph, images, net, planned

SCALES = {"stem.0": 6.0 / 255, "conv": 4.0 / 255}


def test_biases_are_whole_units_of_the_sums_and_moved_by_half_a_unit_at_most() -> None:
    before = deploy(planned(), graph())
    after = deploy(settled_(planned(), graph()), graph())
    for name, layer in after.named_modules():
        if isinstance(layer, DeployedLayer):
            old = before.get_submodule(name)
            assert isinstance(old, DeployedLayer) and layer.bias is not None
            unit = layer.scale * SCALES[name.replace(".inner", "")]
            whole = layer.bias / unit
            assert (whole - whole.round()).abs().max() < 1e-2
            assert old.bias is not None
            assert ((layer.bias - old.bias).abs() <= 0.51 * unit).all()
            assert torch.equal(layer.codes, old.codes) and torch.equal(layer.scale, old.scale)


def test_settling_twice_is_settling_once() -> None:
    once, x = settled_(planned(), graph()), images()
    twice = settled_(settled_(planned(), graph()), graph())
    torch.testing.assert_close(once(x), twice(x), rtol=1e-5, atol=1e-5)


def test_the_network_hardly_moves() -> None:
    x = images(64)
    a, b = planned()(x), settled_(planned(), graph())(x)
    assert not torch.equal(a, b)
    assert (a - b).abs().max() < 0.05 * a.abs().max()


def test_a_network_in_float_stays_as_it_is() -> None:
    before, after = net().state_dict(), settled_(net(), graph()).state_dict()
    assert same_tensors(list(before.values()), list(after.values()))
