"""Laws of stand-ins: they compute what the cheap form will, and can be trained towards it.

Faults these laws must catch: a gradient that is zero or leaks outside the grid; weights that
leave the grid; a sign lost where a norm of negative gain is folded; a wrapper on the wrong side.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from allot.num.formats import Int, decode
from allot.options.precision import Weight
from allot.options.standins import QuantizedInput, QuantizedLayer, QuantizedOutput

G = torch.Generator


def conv(bias: bool = True, groups: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(4, 8, 3, padding=1, stride=2, bias=bias, groups=groups)
    return drawn(layer)  # type: ignore[return-value]


def drawn(layer: nn.Module, seed: int = 0) -> nn.Module:
    g = G().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.4)
    return layer


def linear() -> nn.Linear:
    return drawn(nn.Linear(10, 6))  # type: ignore[return-value]


def inputs(layer: nn.Module, seed: int = 3) -> Tensor:
    shape = (5, 10) if isinstance(layer, nn.Linear) else (5, 4, 7, 7)
    return torch.randn(shape, generator=G().manual_seed(seed))


LAYERS = (conv, lambda: conv(bias=False), lambda: conv(groups=4), linear)
BITS = (2, 4, 8)


def coded(layer: nn.Conv2d | nn.Linear, bits: int) -> QuantizedLayer:
    return Weight(bits=bits).encoded(layer, gram=None)


def holding(layer: nn.Conv2d | nn.Linear, weight: Tensor) -> nn.Module:
    """The plain layer with another weight."""
    new = copy.deepcopy(layer)
    with torch.no_grad():
        new.weight.copy_(weight)
    return new


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("bits", BITS)
def test_a_coded_layer_computes_with_its_dequantized_weight(make: object, bits: int) -> None:
    layer = make()  # type: ignore[operator]
    q, x = coded(layer, bits), inputs(layer)
    plain = holding(layer, decode(q.codes(), q.scale))
    assert torch.equal(plain(x), q(x))
    assert not torch.equal(layer(x), q(x))


@pytest.mark.parametrize("bits", BITS)
def test_the_weight_it_holds_is_on_the_grid(bits: int) -> None:
    q = coded(conv(), bits)
    assert torch.equal(q.inner.weight.detach(), decode(q.codes(), q.scale))


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("bits", BITS)
def test_a_step_of_training_moves_weights_and_codes_stay_on_the_grid(
    make: object, bits: int
) -> None:
    layer = make()  # type: ignore[operator]
    q, x = coded(layer, bits), inputs(layer)
    before, codes = q.inner.weight.detach().clone(), q.codes()
    goal = layer(x).detach()
    loss = (q(x) - goal).square().mean()
    loss.backward()
    grad = q.inner.weight.grad
    assert grad is not None and float(grad.abs().max()) > 0
    with torch.no_grad():
        q.inner.weight -= grad / grad.abs().max() * q.scale.abs().max()
    assert not torch.equal(before, q.inner.weight) and not torch.equal(codes, q.codes())
    after = q.codes()
    assert torch.equal(after, after.round())
    assert q.fmt.lo <= after.min() and after.max() <= q.fmt.hi
    assert torch.equal(holding(layer, decode(after, q.scale))(x), q(x))


@pytest.mark.parametrize("bits", (2, 3))
def test_training_lowers_the_loss_of_rounding(bits: int) -> None:
    layer = linear()
    q, x = coded(layer, bits), torch.randn(200, 10, generator=G().manual_seed(1))
    x = x @ torch.randn(10, 10, generator=G().manual_seed(2))
    goal = layer(x).detach()

    def loss() -> Tensor:
        return (q(x) - goal).square().mean()

    start, best = float(loss().detach()), float("inf")
    optimizer = torch.optim.SGD(q.parameters(), lr=0.003)
    for _ in range(200):
        optimizer.zero_grad()
        now = loss()
        now.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        best = min(best, float(now.detach()))
    assert best < 0.97 * start


def test_the_gradient_passes_through_inside_the_grid_and_stops_outside() -> None:
    layer = nn.Linear(3, 1, bias=False)
    fmt = Int(bits=3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.2, 30.0, -30.0]]))
    q = QuantizedLayer(inner=layer, scale=torch.ones(1), fmt=fmt)
    q(torch.tensor([[5.0, 7.0, 11.0]])).sum().backward()
    assert layer.weight.grad is not None
    assert [[5.0, 0.0, 0.0]] == layer.weight.grad.tolist()


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("bits", BITS)
def test_affine_shifts_and_scales_the_output_and_keeps_the_codes(make: object, bits: int) -> None:
    layer = make()  # type: ignore[operator]
    q, x = coded(layer, bits), inputs(layer)
    rows = len(q.scale)
    gain = torch.linspace(-2, 3, rows) + 0.01
    shift = torch.linspace(1, -1, rows)
    new = q.affine(gain, shift)
    y = q(x)
    shape = (1, -1, *([1] * (y.dim() - 2)))
    want = gain.view(shape) * y + shift.view(shape)
    assert torch.allclose(want, new(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(q.codes(), new.codes())


def test_affine_leaves_the_layer_as_it_is() -> None:
    q = coded(conv(), 4)
    before = {k: v.clone() for k, v in q.state_dict().items()}
    q.affine(torch.full((8,), 2.0), torch.ones(8))
    assert all(torch.equal(v, q.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("bits", BITS)
def test_what_is_stored_computes_the_layer_and_the_norm_behind_it(make: object, bits: int) -> None:
    layer = make()  # type: ignore[operator]
    q, x = coded(layer, bits), inputs(layer)
    gain = torch.linspace(-1.5, 2, len(q.scale))
    shift = torch.linspace(0.5, -0.5, len(q.scale))
    stored = q.coded(gain, shift)
    assert stored.codes.dtype == torch.int8 and stored.bits == bits
    assert bool((stored.scale < 0).any()) and bool((stored.scale > 0).any())
    folded = holding(layer, decode(stored.codes.float(), stored.scale))
    bare = folded(x) if layer.bias is None else folded(x) - _along(folded.bias, folded(x))
    y = q(x)
    want = _along(gain, y) * y + _along(shift, y)
    got = bare + _along(stored.bias, bare)
    assert torch.allclose(want, got, rtol=1e-4, atol=1e-5), (want - got).abs().max()


def _along(row: object, y: Tensor) -> Tensor:
    assert isinstance(row, Tensor)
    return row.view(1, -1, *([1] * (y.dim() - 2)))


@pytest.mark.parametrize("bits", (4, 6, 8))
def test_a_wrapped_module_is_the_module_and_quantizing_by_hand(bits: int) -> None:
    layer = conv()
    x = inputs(layer)
    scale, zero = 0.07, 2 ** (bits - 1)

    def by_hand(v: Tensor) -> Tensor:
        return (((v / scale).round() + zero).clamp(0, 2**bits - 1) - zero) * scale

    before = QuantizedInput(inner=layer, scale=scale, zero_point=zero, bits=bits)
    after = QuantizedOutput(inner=layer, scale=scale, zero_point=zero, bits=bits)
    assert torch.allclose(layer(by_hand(x)), before(x), atol=1e-5)
    assert torch.allclose(by_hand(layer(x)), after(x), atol=1e-5)
    assert len(after(x).unique()) <= 2**bits and len(before.quantize(x).unique()) <= 2**bits


def test_the_error_of_eight_bits_is_half_a_step_inside_the_range() -> None:
    edge = QuantizedInput(inner=nn.Identity(), scale=0.02, zero_point=100, bits=8)
    x = torch.linspace(-100 * 0.02, 155 * 0.02, 5001)
    error = (edge(x) - x).abs()
    assert float(error.max()) <= 0.01 + 1e-6 and float(error.max()) > 0.009
    assert float(edge(torch.tensor([99.0]))) == pytest.approx(155 * 0.02)
    assert float(edge(torch.tensor([-99.0]))) == pytest.approx(-2.0)


def test_quantizing_a_tensor_twice_is_quantizing_it_once() -> None:
    edge = QuantizedOutput(inner=nn.Identity(), scale=0.03, zero_point=7, bits=4)
    once = edge(torch.randn(100, generator=G().manual_seed(0)))
    assert torch.equal(once, edge(once))


def test_a_wrapper_hands_the_other_inputs_on() -> None:
    class Plus(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    edge = QuantizedInput(inner=Plus(), scale=1.0, zero_point=0, bits=8)
    assert torch.equal(torch.tensor([2.25]), edge(torch.tensor([1.9]), torch.tensor([0.25])))


def test_gradients_pass_through_a_wrapper() -> None:
    edge = QuantizedInput(inner=nn.Identity(), scale=0.1, zero_point=0, bits=4)
    x = torch.tensor([0.33, 9.0, -1.0], requires_grad=True)
    edge(x).sum().backward()
    assert x.grad is not None and [1.0, 0.0, 0.0] == x.grad.tolist()


@pytest.mark.parametrize("make", LAYERS)
def test_what_a_layer_has_can_be_read_through_what_stands_for_it(make: object) -> None:
    layer = make()  # type: ignore[operator]
    q = coded(layer, 4)
    edge = QuantizedInput(inner=q, scale=0.1, zero_point=3, bits=4)
    around = QuantizedOutput(inner=edge, scale=0.2, zero_point=5, bits=8)
    for module in (q, edge, around):
        assert torch.equal(module.weight, decode(q.codes(), q.scale))
        assert module.weight.dtype == layer.weight.dtype and module.bias is q.inner.bias
        names = ("in_features", "out_features") if isinstance(layer, nn.Linear) else ("stride",)
        assert all(getattr(module, n) == getattr(layer, n) for n in names)
    assert (
        around.scale == 0.2 and edge.scale == 0.1 and torch.equal(around.inner.inner.scale, q.scale)
    )


def test_what_nobody_has_is_an_attribute_error_and_a_copy_is_whole() -> None:
    edge = QuantizedOutput(inner=coded(conv(), 4), scale=0.1, zero_point=3, bits=4)
    assert not hasattr(edge, "nothing") and not hasattr(edge.inner, "is_wrapper")
    x = inputs(conv())
    for twin in (copy.copy(edge), copy.deepcopy(edge)):
        assert type(twin) is QuantizedOutput and torch.equal(edge(x), twin(x))
