"""Laws of bills: what is counted is what is there, on the network that runs and on the disk.

Faults these laws must catch: scales or biases left out; a narrowed input that still costs; the
columns of a linear behind a flattening counted per channel; a layer that no choice touches lost.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from allot import bill, packed
from allot.artefact import write_weights
from allot.deploy import deploy
from allot.onnx_graph import to_onnx
from allot.options.precision import Activation, Weight
from allot.options.standins import QuantizedLayer
from allot.runtimes.ideal import Ideal
from allot.runtimes.openvino import OpenVino
from allot.space import Space
from allot.sweep import find, unwrapped
from tests import small, toys

MAKES = toys.PLAIN


def running(k: small.Kit, seed: int) -> tuple[tuple[int, ...], nn.Module]:
    """A random point, and the network of it."""
    point = small.random_point(k.space, seed)
    return point, k.bank.copy(k.bank.standins(k.options(point)))


def counted_bytes(k: small.Kit, model: nn.Module) -> int:
    """Bytes of the running network's layers with norms folded, by its own tensors."""
    total = 0
    for x in k.graph.layers:
        layer = unwrapped(find(model, x.module))
        rows = 0
        if isinstance(layer, QuantizedLayer):
            total += math.ceil(layer.inner.weight.numel() * layer.fmt.bits / 8)
            rows = layer.scale.numel()
            layer = layer.inner
        else:
            total += 4 * layer.weight.numel()  # type: ignore[operator, union-attr]
        bias = layer.bias is not None or bool(x.norm)
        total += 4 * (rows + (len(layer.weight) if bias else 0))  # type: ignore[arg-type]
    return total + k.graph.loose


def counted_macs(k: small.Kit, model: nn.Module) -> dict[str, int]:
    """Multiplications per sample, seen in a real forward: output places x weights of a row."""
    found: dict[str, int] = {}

    def watch(name: str, layer: nn.Module):  # type: ignore[no-untyped-def]
        def hook(m: nn.Module, args: object, y: torch.Tensor) -> None:
            weight = layer.inner.weight if isinstance(layer, QuantizedLayer) else layer.weight
            found[name] = y[0].numel() * weight[0].numel()  # type: ignore[index, union-attr, operator]

        return layer.register_forward_hook(hook)

    handles = [watch(x.module, unwrapped(find(model, x.module))) for x in k.graph.layers]
    with torch.no_grad():
        k.task.forward(model, k.task.example())
    for h in handles:
        h.remove()
    return found


@pytest.mark.parametrize("make", MAKES)
def test_bytes_are_those_of_the_running_network(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    table = bill.size(k.space, header=100)
    for seed in range(6):
        point, model = running(k, seed)
        assert counted_bytes(k, model) + 100 == table.of(point)


@pytest.mark.parametrize("make", MAKES)
def test_bitops_are_those_of_the_running_network(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    table = bill.bitops(k.space, Ideal())
    for seed in range(6):
        point, model = running(k, seed)
        macs, options = counted_macs(k, model), k.options(point)
        total = 0
        for x in k.graph.layers:
            weight, entering = options.get(f"{x.module}.weight"), options.get(x.input)
            bits = weight.bits if isinstance(weight, Weight) else 32
            total += (
                macs[x.module] * bits * (entering.bits if isinstance(entering, Activation) else 32)
            )
        assert total == pytest.approx(table.of(point), rel=1e-12)


@pytest.mark.parametrize("make", MAKES)
def test_the_original_costs_its_folded_floats(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    original = bill.size(k.space, header=0).of(k.space.original)
    assert original == k.graph.folded_bytes == counted_bytes(k, k.task.model)
    macs = sum(counted_macs(k, k.task.model).values())
    assert bill.bitops(k.space, Ideal()).of(k.space.original) == macs * 1024


def test_a_count_by_hand() -> None:
    k = small.kit()
    point = small.at(
        k.space, conv1_weight="W3", conv1_channels="keep0.5", conv2_channels="keep0.5",
        head_weight="W8", conv2_input="A8",
    )  # fmt: skip
    # conv1: 4 of 8 rows of 3x9 at 3 bits, scale and folded bias; conv2: 3 of 6 rows of 4x9 in
    # float and a bias; head: 5 rows of 3 channels x 4 places at 8 bits, scale and bias
    want = math.ceil(4 * 27 * 3 / 8) + 4 * 8 + (3 * 36 + 3) * 4 + 5 * 12 + 5 * 8
    assert want + 64 == bill.size(k.space, header=64).of(point)
    # 8x8 places at 3 x 32 bits, 4x4 places at 32 x 8 bits, one place at 8 x 32 bits
    bitops = 64 * 4 * 27 * 96 + 16 * 3 * 36 * 256 + 60 * 256
    assert bitops == bill.bitops(k.space, Ideal()).of(point)


@pytest.mark.parametrize("make", MAKES)
def test_the_state_of_a_layer_is_what_its_table_was_made_from(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    table = bill.size(k.space, header=0)
    for seed in range(3):
        point = small.random_point(k.space, seed)
        states = [bill.state(k.space, x, point) for x in k.graph.layers]
        assert sum(s.stored_bytes for s in states) + k.graph.loose == table.of(point)


def test_a_space_that_leaves_layers_out_still_bills_them() -> None:
    k = small.kit()
    point = small.width_and_bits(k)
    for pattern in ("re:conv1", "re:head", "re:weight"):
        cut = k.space.exclude(pattern)
        left = tuple(
            o if len(c.options) > 1 else 0 for o, c in zip(point, cut.choices, strict=True)
        )
        whole = [
            o if n == m else 0 for o, n, m in zip(point, cut.counts, k.space.counts, strict=True)
        ]
        for table in (lambda s: bill.size(s, header=9), lambda s: bill.bitops(s, Ideal())):
            assert table(k.space).of(whole) == table(cut).of(left)
    for kept in ("conv1.weight", "head.weight", "conv2.channels"):
        choices = tuple(c for c in k.space.choices if c.site == kept)
        one = Space(graph=k.graph, choices=choices)
        for o in range(len(choices[0].options)):
            point = [o if c.site == kept else 0 for c in k.space.choices]
            for table in (lambda s: bill.size(s, header=9), lambda s: bill.bitops(s, Ideal())):
                assert table(k.space).of(point) == table(one).of((o,))


def test_a_runtime_without_the_kernel_is_billed_what_it_computes() -> None:
    k = small.kit()
    point = small.at(k.space, conv1_weight="W2", conv1_input="A8", conv2_weight="W2")
    layers = {x.module: x.macs for x in k.graph.layers}
    want = layers["conv1"] * 64 + (layers["conv2"] + layers["head"]) * 1024
    assert want == bill.bitops(k.space, OpenVino()).of(point)


@pytest.mark.parametrize("make", (toys.chain, toys.separable))
def test_bytes_are_those_of_the_file_on_disk(make: object, tmp_path: Path) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    header = packed.header_bytes(k.graph)
    point, model = running(k, 3)
    deployed = deploy(model, k.graph)
    onnx = to_onnx(deployed, k.task.example())
    written = write_weights(tmp_path, onnx, deployed, k.graph)
    assert written == bill.size(k.space, header=header).of(point)
    assert written == (tmp_path / "weights.safetensors").stat().st_size
