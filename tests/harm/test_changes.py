"""Laws of changes and tapes: what an option changes is what the network shows with it alone.

Faults these laws must catch: a change seen on changed inputs; kept channels compared at the wrong
positions; a norm left out; a correction other than recovery's; a gradient of a batch's mean; a
tensor overwritten in place after it was recorded; hooks left after an error.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from allot.harm.changes import Change, changes, cut
from allot.harm.tape import Arguments, Place, first, taped
from allot.harm.walk import columns, replays, walk
from allot.options import depth
from allot.options.depth import Skipped
from allot.runtimes.ideal import Ideal
from allot.scene import Scene
from allot.sweep import unwrapped
from tests import small, toys
from tests.harm import laws, scenes

HARSH = ("float", "W3", "A4", "keep1", "keep0.5")


def scene(make: Callable[[], nn.Module], *kinds: str) -> Scene:
    return scenes.scene(make, space=lambda g, sp: laws.cut(sp, kinds, HARSH))


def shown(s: Scene, place: Place, standins: dict[str, nn.Module]) -> Tensor:
    """The tensor at a place of the network with stand-ins, outside any wrapper at an output."""
    seen: list[Tensor] = []
    name, role = place
    with s.bank.trial(standins) as model, torch.no_grad():
        module = model.get_submodule(name)
        if role == "in":
            target = module.inner if name in standins else module  # what arrives behind the wrapper
            assert isinstance(target, nn.Module)
            h = target.register_forward_pre_hook(lambda m, a: seen.append(a[0].clone()))
        else:
            h = module.register_forward_hook(lambda m, a, y: seen.append(first(y).clone()))
        s.task.forward(model, s.data.inputs)
        h.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("make", "kinds"),
    (
        (toys.chain, ("weight", "activation", "channels")),
        (toys.residual, ("weight", "activation")),
        (toys.dense, ("weight", "activation")),
        (toys.separable, ("weight", "activation", "channels")),
    ),
)
def test_a_change_is_what_the_network_shows_with_the_option_alone(
    make: Callable[[], nn.Module], kinds: tuple[str, ...]
) -> None:
    s = scene(make, *kinds)
    seen = 0
    for choice in s.space.choices:
        for option in choice.options[1:]:
            options = {choice.site: option}
            found = changes(s.bank, options)
            assert found
            for c in found:
                with taped(s.bank, watched={c.at, c.source}) as tape, torch.no_grad():
                    s.task.forward(s.bank.skeleton, s.data.inputs)
                want = shown(s, c.at, s.bank.standins(options)) - shown_original(s, c)
                with torch.no_grad():
                    got = c.difference(tape, 0)
                assert got.shape == want.shape and float(want.abs().max()) > 0
                assert torch.allclose(got, want, atol=1e-5)
                seen += 1
    assert seen >= 5


def shown_original(s: Scene, change: Change) -> Tensor:
    return cut(shown(s, change.at, {}), change.gives)


def test_a_wrapper_alone_runs_no_layer() -> None:
    s = scene(toys.residual, "activation")
    local, whole = columns(s)
    assert not whole and replays(s, local) == 0
    assert all(c.at_boundary for group in local.values() for c in group)
    weights = columns(scene(toys.chain, "weight"))[0]
    # every layer once, by its one option
    assert replays(s, columns(s)[0]) == 0 < len(weights)
    assert replays(scene(toys.chain, "weight"), weights) == pytest.approx(1)


def test_every_sample_has_its_own_gradient() -> None:
    s = scene(toys.residual, "weight", "activation")
    local = columns(s)[0]
    found: dict[int, list[Tensor]] = {}

    def run(data: object, batch: int) -> dict[int, Tensor]:
        found.clear()
        walk(
            s,
            local,
            data=s.data,
            directions=lambda out, rows: torch.eye(5)[:2, None].expand(-1, len(out), -1),
            each=lambda rows, k, g, c: found.setdefault(k, []).append(g.flatten(2)),
            batch=batch,
        )
        return {k: torch.cat(v, 1) for k, v in found.items()}

    one, many = run(s.data, 1), run(s.data, len(s.data))
    assert one.keys() == many.keys() == local.keys()
    for k, g in one.items():
        assert torch.allclose(g, many[k], atol=1e-5) and float(g.abs().max()) > 0
        assert not torch.allclose(g[0], g[1])


class InPlace(nn.Module):
    """Overwrites what its layers put out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.conv2, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        y = self.conv2(x)
        y += x
        return self.head(y.relu_().mean((2, 3)))


def test_tensors_are_recorded_before_they_are_overwritten() -> None:
    s = scenes.scene(lambda: toys.seeded(InPlace()), space=scenes.nudges(0.1))
    x = s.data.inputs
    assert isinstance(x, Tensor)
    places = {("conv1", "out"), ("conv2", "out"), ("conv2", "in")}
    with taped(s.bank, watched=places, marked=places) as tape, torch.enable_grad():
        output = s.task.forward(s.bank.skeleton, x)
    conv1, conv2 = s.bank.module("conv1"), s.bank.module("conv2")
    with torch.no_grad():
        a = conv1(x)
        assert torch.equal(tape.values(("conv1", "out"))[0], a)
        assert torch.equal(tape.values(("conv2", "out"))[0], conv2(a.relu()))
        assert torch.allclose(output, s.task.model(x))
    tape.differentiate(output, torch.ones(1, *output.shape))
    own = a.clone().requires_grad_()
    z = conv2(own.relu()) + own.relu()
    s.task.model.head(z.relu().mean((2, 3))).sum().backward()  # type: ignore
    assert own.grad is not None
    assert torch.allclose(tape.gradients["conv1", "out"][0][0], own.grad, atol=1e-6)


def test_a_tape_leaves_no_hook_after_an_error() -> None:
    s = scene(toys.chain, "weight")
    with pytest.raises(ZeroDivisionError):
        with taped(s.bank, watched={("conv1", "in")}, marked={("conv1", "out")}):
            raise ZeroDivisionError
    assert small.hooks(s.bank.skeleton) == 0


def test_arguments_keep_all_but_the_first_tensor() -> None:
    a, b, c = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    given = Arguments(args=("text", a), named={"more": b})
    assert given.first is a
    new = given.beginning(c)
    assert new.args == ("text", c) and new.named["more"] is b
    named = Arguments(args=(), named={"flag": True, "x": a, "y": b})
    assert named.first is a and named.beginning(c).named == {"flag": True, "x": c, "y": b}


def test_a_dropped_block_is_seen_as_a_whole_and_runs_nothing() -> None:
    s = scenes.scene(toys.residual, space=lambda g, sp: depth.space(g, Ideal()))
    local, whole = columns(s)
    assert not local and len(whole) == sum(n - 1 for n in s.space.counts) > 0
    for options in whole.values():
        (change,) = changes(s.bank, options)
        assert isinstance(unwrapped(change.through[0]), Skipped) and change.macs == 0
