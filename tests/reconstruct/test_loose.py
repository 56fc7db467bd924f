"""Laws of loose quantizers: between quantized and float, element by element, and hard at the end.

Faults these laws must catch: drop and keep mixed up; a draw from the global generator; the step of
a clipped element without its gradient; the wrapper itself changed.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.options.standins import QuantizedInput, QuantizedOutput
from allot.reconstruct.loose import Loose, is_static
from tests import toys

KINDS = (QuantizedInput, QuantizedOutput)


def wrapper(kind: type[nn.Module], bits: int = 4) -> QuantizedInput | QuantizedOutput:
    return kind(inner=nn.Identity(), scale=0.25, zero_point=7, bits=bits)  # type: ignore


def loose(
    edge: QuantizedInput | QuantizedOutput, *, drop: float, learned: bool = False, seed: int = 0
) -> Loose:
    generator = torch.Generator().manual_seed(seed)
    return Loose(edge, edge.inner, drop=drop, learned=learned, generator=generator)


def values() -> Tensor:
    """Away from the middle between two values of the grid."""
    x = toys.images(8)
    return torch.where(((x / 0.25) % 1 - 0.5).abs() < 1e-2, x + 0.02, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learned", (False, True))
def test_without_drop_it_is_the_wrapper_and_with_all_dropped_nothing(
    kind: type[nn.Module], learned: bool
) -> None:
    edge, x = wrapper(kind), values()
    assert torch.allclose(edge(x), loose(edge, drop=0, learned=learned)(x), atol=1e-6)
    assert torch.equal(x, loose(edge, drop=1, learned=learned)(x))


@pytest.mark.parametrize("kind", KINDS)
def test_every_element_is_quantized_or_float_by_its_own_draw(kind: type[nn.Module]) -> None:
    edge, x = wrapper(kind), values()
    module, whole = loose(edge, drop=0.3), edge(x)
    first, second = module(x), module(x)
    left = first == x
    assert bool((left | (first == whole)).all()) and not torch.equal(first, second)
    share, n = float(left.double().mean()), x.numel()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / n) ** 0.5
    assert torch.equal(first, loose(edge, drop=0.3)(x))
    assert not torch.equal(first, loose(edge, drop=0.3, seed=1)(x))


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loose(wrapper(QuantizedInput), drop=0.5)(values())
    assert torch.equal(before, torch.get_rng_state())


def test_the_gradient_of_a_step_is_that_of_clipped_elements_and_of_rounding_errors() -> None:
    edge = wrapper(QuantizedInput)
    module = loose(edge, drop=0, learned=True)
    clipped = torch.tensor([100.0, -100.0, 3.0])
    for x in clipped[:, None]:
        (g,) = torch.autograd.grad(module(x).sum(), module.stretch)
        with torch.no_grad():
            module.stretch += 1e-3
            up = module(x).sum()
            module.stretch -= 1e-3
            now = module(x).sum()
        assert torch.isclose((up - now) / 1e-3, g, rtol=1e-2)
    # inside, what rounding did to it (Esser et al. 2020, eq. 3), times the step
    x = torch.tensor([0.55])
    (g,) = torch.autograd.grad(module(x).sum(), module.stretch)
    assert torch.isclose(torch.tensor((2 - 0.55 / 0.25) * 0.25), g, rtol=1e-4)


def test_an_element_has_its_gradient_inside_the_range_and_none_outside() -> None:
    for learned in (False, True):
        x = torch.tensor([-100.0, -1.7, 0.1, 1.9, 100.0], requires_grad=True)
        (g,) = torch.autograd.grad(
            loose(wrapper(QuantizedInput), drop=0, learned=learned)(x).sum(), x
        )
        assert g.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_hard_again_it_is_the_wrapper_with_the_step_that_was_found(kind: type[nn.Module]) -> None:
    edge, inner = wrapper(kind), nn.ReLU()
    for learned in (False, True):
        module = loose(edge, drop=0.5, learned=learned)
        with torch.no_grad():
            module.stretch += 0.1
        hard = module.hard(inner)
        assert type(hard) is kind and hard.inner is inner
        want = 0.25 * (float(torch.tensor(0.1).exp()) if learned else 1)
        assert hard.scale == pytest.approx(want)
    assert edge.scale == 0.25 and isinstance(edge.inner, nn.Identity)


def test_only_plain_wrappers_have_a_static_step() -> None:
    class Other(QuantizedInput):
        pass

    assert is_static(wrapper(QuantizedOutput)) and not is_static(wrapper(Other))
    assert not loose(wrapper(Other), drop=0.5, learned=True).learned
