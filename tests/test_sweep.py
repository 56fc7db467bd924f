"""Laws of the sweep: observers see what flows, may change it, and leave no trace.

Faults these laws must catch: a hook left on after an exception; an observer at the wrapper and
not at what it wraps; a replacement that is dropped; batches out of order.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.options.standins import QuantizedInput, QuantizedOutput
from allot.sweep import find, observed, outputs, rewrapped, unwrapped
from tests import small, toys


def wrapped(inner: nn.Module) -> nn.Module:
    inside = QuantizedOutput(inner=inner, scale=0.1, zero_point=3, bits=8)
    return QuantizedInput(inner=inside, scale=0.2, zero_point=7, bits=4)


def test_observers_see_inputs_and_outputs_in_order() -> None:
    model, x = toys.chain(), toys.images()
    seen: list[tuple[str, Tensor]] = []
    places = [("conv1", "in"), ("conv1", "out"), ("bn1", "in"), ("head", "out")]
    hooks = {p: [lambda v, p=p: seen.append((".".join(p), v))] for p in places}
    with observed(model, hooks), torch.no_grad():
        y = model(x)
    assert [".".join(p) for p in places] == [name for name, _ in seen]
    assert torch.equal(x, seen[0][1]) and torch.equal(seen[1][1], seen[2][1])
    assert torch.equal(y, seen[3][1])


@pytest.mark.parametrize("fails", (False, True))
def test_every_hook_is_removed(fails: bool) -> None:
    model = toys.chain()

    def observe(x: Tensor) -> None:
        if fails:
            raise ValueError("stop")

    try:
        with observed(model, {("bn1", "in"): [observe], ("conv2", "out"): [observe]}):
            assert small.hooks(model) == 2
            model(toys.images())
    except ValueError:
        assert fails
    assert small.hooks(model) == 0


def test_hooks_are_removed_when_a_later_name_is_unknown() -> None:
    model = toys.chain()
    with pytest.raises(AttributeError), observed(model, {("bn1", "in"): [], ("no", "in"): []}):
        pass
    assert small.hooks(model) == 0


@pytest.mark.parametrize("role", ("in", "out"))
def test_what_an_observer_returns_takes_the_tensors_place(role: str) -> None:
    model, x = toys.chain(), toys.images()
    seen: list[Tensor] = []
    group = [lambda v: v * 2, lambda v: None, lambda v: v + 1, seen.append]
    with observed(model, {("relu1", role): group}), torch.no_grad():
        changed = model(x)
    with torch.no_grad():
        before = model.bn1(model.conv1(x))
        now = 2 * before + 1 if role == "in" else 2 * before.relu() + 1
        assert torch.equal(now, seen[0])
        by_hand = model.bn2(model.conv2(now.relu() if role == "in" else now)).relu()
        want = model.head(torch.flatten(model.pool(by_hand), 1))
    assert torch.equal(want, changed)


def test_an_observer_sits_at_what_is_wrapped() -> None:
    model, x = toys.chain(), toys.images()
    model.conv1 = wrapped(model.conv1)
    seen: list[Tensor] = []
    with observed(model, {("conv1", "in"): [seen.append]}), torch.no_grad():
        model(x)
    assert torch.equal(model.conv1.quantize(x), seen[0]) and not torch.equal(x, seen[0])


def test_a_module_called_by_keywords_alone_is_left_alone() -> None:
    class Named(nn.Module):
        def forward(self, *, x: Tensor) -> Tensor:
            return x + 1

    class Outer(nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.named = Named()

        def forward(self, x: Tensor) -> Tensor:
            return self.named(x=x)

    seen: list[Tensor] = []
    model = Outer()
    with observed(model, {("named", "in"): [seen.append], ("named", "out"): [seen.append]}):
        assert torch.equal(torch.ones(2), model(torch.zeros(2)))
    assert len(seen) == 1


def test_names_are_those_of_the_original_whatever_wraps_them() -> None:
    model = toys.separable()
    inner = model.stem[0]
    model.stem = wrapped(model.stem)
    model.stem.inner.inner[0] = wrapped(inner)
    assert unwrapped(find(model, "stem.0")) is inner
    assert find(model, "") is model and find(model, "head") is model.head


def test_rewrapping_keeps_the_wrappers_and_changes_neither() -> None:
    outer, other = wrapped(nn.ReLU()), nn.Tanh()
    inner = unwrapped(outer)
    new = rewrapped(outer, other)
    assert unwrapped(new) is other and unwrapped(outer) is inner
    assert isinstance(new, QuantizedInput) and isinstance(new.inner, QuantizedOutput)
    assert (new.scale, new.bits, new.inner.zero_point) == (0.2, 4, 3)
    assert new is not outer and new.inner is not outer.inner
    assert rewrapped(nn.ReLU(), other) is other and unwrapped(other) is other


def test_outputs_come_in_order_whatever_the_batch() -> None:
    t = small.task()
    whole = outputs(t, t.model, t.search, batch=len(t.search))
    for batch in (1, 7, 100):
        got = outputs(t, t.model, t.search, batch=batch)
        assert got.shape == whole.shape and torch.allclose(whole, got, atol=1e-5)
        assert not got.requires_grad
