"""Laws of the prefix: outputs with replay equal those without, bit for bit, for every change.

Faults these laws must catch: a stage replayed that has not ended; a change in place that others
would have seen; a recording of another batch; a replay given out twice without a copy.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.options.precision import Weight
from allot.prefix import Prefix, Replay, stages
from tests import small, toys


class InPlace(nn.Module):
    """Changes tensors under others' feet: a relu whose input is read again, adds in place."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.same = nn.Identity()
        self.block = InPlaceBlock()
        self.conv3 = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv1(x)
        b = self.relu(a)
        c = self.bn(self.conv2(b))
        c += a
        d = self.same(c)
        d += 0.5
        e = self.block(c) + c
        return self.head(functional.relu_(self.conv3(e)).mean((2, 3)))


class InPlaceBlock(nn.Module):
    """Shifts its input in place, and puts out something else."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.3
        return self.conv(x)


class Twin(nn.Module):
    """A module that puts out two tensors, and one that is called twice."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.first = Two()
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x)
        return self.head(self.again(self.again(a) + b).mean((2, 3)))


class Two(nn.Module):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), self.b(x)


def in_place() -> nn.Module:
    return toys.seeded(InPlace())


def twin() -> nn.Module:
    return toys.seeded(Twin())


MAKES = (*toys.PLAIN, in_place, twin)


@pytest.mark.parametrize("make", MAKES)
def test_replay_changes_no_bit_of_any_single_change(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    for choice in k.space.choices:
        for option in choice.options[1:4]:
            standins = k.bank.standins({choice.site: option})
            with k.bank.trial(standins) as model:
                plain = small.forward(k.task, model, k.task.search)
            got = k.meter.prefix.outputs(k.task, standins)
            assert torch.equal(plain, got), f"{choice.site} {option.label}"
            assert not torch.equal(plain, k.meter.original), f"{choice.site} {option.label}"


@pytest.mark.parametrize("make", MAKES)
def test_replay_changes_no_bit_of_many_changes(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    for seed in range(4):
        standins = k.bank.standins(k.options(small.random_point(k.space, seed)))
        with k.bank.trial(standins) as model:
            plain = small.forward(k.task, model, k.task.search)
        assert torch.equal(plain, k.meter.prefix.outputs(k.task, standins))


@pytest.mark.parametrize("make", MAKES)
def test_no_change_gives_the_original(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    assert torch.equal(k.meter.original, small.forward(k.task, k.task.model, k.task.search))
    assert torch.equal(k.meter.original, k.meter.prefix.outputs(k.task, {}))


def test_what_comes_before_a_change_is_not_run_again() -> None:
    k = small.kit(toys.residual)
    ran: list[str] = []
    watched = [n for n, _ in k.graph.order if n.startswith(("layer1.0.conv", "layer2.1.conv"))]
    handles = [
        k.bank.module(n).register_forward_hook(lambda m, a, y, n=n: ran.append(n)) for n in watched
    ]
    k.meter.prefix.outputs(k.task, k.bank.standins({"layer2.0.conv1.weight": Weight(bits=3)}))
    for h in handles:
        h.remove()
    assert ran and all(n.startswith("layer2") for n in ran)


def test_the_same_change_twice_gives_the_same() -> None:
    k = small.kit(in_place)
    standins = k.bank.standins({"conv3.weight": Weight(bits=3)})
    first = k.meter.prefix.outputs(k.task, standins)
    assert torch.equal(first, k.meter.prefix.outputs(k.task, standins))


def test_memory_may_be_short_and_the_outputs_stay() -> None:
    k = small.kit(toys.residual)
    for most in (0, 20_000, 60_000):
        tight = Prefix(k.task, k.bank, k.task.search, batch=7, most_bytes=most)
        standins = k.bank.standins({"linear.weight": Weight(bits=2)})
        replayed = tight.replays(set(standins))
        held = sum(t.nbytes for r in replayed.values() if isinstance(r, Replay) for t in r.recorded)
        assert held <= most and (most > 0 or not replayed)
        assert torch.equal(
            k.meter.prefix.outputs(k.task, standins), tight.outputs(k.task, standins)
        )


def test_recording_leaves_no_trace() -> None:
    k = small.kit()
    assert small.hooks(k.bank.skeleton) == 0
    k.meter.prefix.outputs(k.task, k.bank.standins({"head.weight": Weight(bits=3)}))
    assert small.same_state(small.state(k.task.model), small.state(k.bank.skeleton))


@pytest.mark.parametrize("make", MAKES)
def test_stages_are_called_once_in_order_and_do_not_nest(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    found = stages(k.bank.skeleton, k.graph)
    starts = [n for n, event in k.graph.order if event == "start"]
    assert found and [n for n in starts if n in found] == list(found)
    assert not any(a != b and b.startswith(f"{a}.") for a in found for b in found)
