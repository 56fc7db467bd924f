"""Laws of flows: where one is closed, a scale is undone by its readers; where not, it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.errors import ModelError
from allot.rewrites.flow import Flow, flows
from allot.rewrites.layers import copied, layer, scale_inputs, scale_outputs
from allot.rewrites.readers import scale_readers
from allot.rewrites.rewrite import change
from allot.task import Task
from tests import small, toys
from tests.rewrites import proofs


def found(task: Task, *, rectified: bool = True) -> dict[str, Flow]:
    names = proofs.names(proofs.layers(task.model))
    return flows(task, names, rectified=rectified)


def scaled(task: Task, flow: Flow) -> float:
    """Change of the output when the source is scaled and the known readers undo it."""
    new = replace(task, model=copied(task))
    factors = proofs.spread(flow.channels, 1.0).double()
    scale_outputs(layer(new.model, flow.source), factors)
    scale_readers(new.model, flow, 1 / factors)
    return change(proofs.output(task), proofs.output(new))


class Parts(nn.Module):
    """Slices, products with another tensor, pads, pools, a flattened head, a join."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(5, 4, 3), nn.Conv2d(3, 4, 3)
        self.gate = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(8 * 16 + 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = functional.leaky_relu(self.enter(x), 0.2).split([5, 3], 1)
        gate = torch.sigmoid(self.gate(x))
        y = torch.cat([self.left(a), functional.relu(self.right(b)) * gate], 1)
        y = functional.avg_pool2d(functional.pad(y, (1, 1, 1, 1)), 2)
        return self.head(torch.cat([y.flatten(1), gate.amax((2, 3))], 1))


class Routed(nn.Module):
    """Rows of what a linear makes go to one of two linears, picked by mask and by position."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 6)
        self.a, self.b, self.c = (nn.Linear(6, 5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        flat = y.reshape(-1, 6)
        some = torch.arange(len(flat)) % 3 == 1
        out = self.c(y).reshape(-1, 5).clone()
        out[some] += self.a(flat[some])
        out.index_add_(0, torch.where(~some)[0], self.b(flat[~some]))
        return out.view(*x.shape[:2], 5).mean(1)


def parts() -> Task:
    return small.task(lambda: toys.seeded(Parts()))


def routed() -> Task:
    x = torch.randn(30, 5, 4, generator=torch.Generator().manual_seed(6))
    return proofs.of(toys.seeded(Routed()), x)


TASKS: tuple[Callable[[], Task], ...] = (
    parts,
    routed,
    *(lambda make=make: small.task(make) for make in toys.PLAIN),  # type: ignore[misc]
)


@pytest.mark.parametrize("make", TASKS)
def test_a_scale_is_undone_where_the_flow_is_closed_and_only_there(
    make: Callable[[], Task],
) -> None:
    t = make()
    for flow in found(t).values():
        if flow.closed:
            assert scaled(t, flow) < 1e-5, flow.source
        elif "hardtanh" not in flow.leak:  # ReLU6 of small values passes all
            assert scaled(t, flow) > 1e-4, (flow.source, flow.leak)


def test_which_flows_are_closed() -> None:
    closed = {n for n, f in found(parts()).items() if f.closed}
    assert closed == {"enter", "left", "right"}
    assert "sigmoid" in found(parts())["gate"].leak
    assert found(routed())["enter"].closed
    assert {r.module for r in found(routed())["enter"].readers} == {"a", "b", "c"}


def test_the_channels_of_a_slice_and_of_a_flattened_tensor() -> None:
    flow = found(parts())
    assert [r.channels for r in flow["enter"].readers] == [(0, 1, 2, 3, 4), (5, 6, 7)]
    (head,) = flow["right"].readers
    assert head.channels == (-1,) * 64 + tuple(c for c in range(4) for _ in range(16)) + (-1,) * 4


def test_without_rectifiers_any_linear_change_is_undone() -> None:
    t = routed()
    flow = found(t, rectified=False)["enter"]
    assert flow.closed
    wanted = proofs.output(t)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1))).Q
    enter = layer(t.model, "enter")
    with torch.no_grad():
        enter.weight.copy_(turn @ enter.weight)
        enter.bias.copy_(turn @ enter.bias)  # type: ignore[union-attr]
        for reading in flow.readers:
            reader = layer(t.model, reading.module)
            reader.weight.copy_(reader.weight @ turn.T)
    assert change(wanted, proofs.output(t)) < 1e-5
    assert not any(f.closed for f in found(parts(), rectified=False).values())


class Odd(nn.Module):
    """One op between two linears."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.enter, self.head, self.kind = nn.Linear(4, 4), nn.Linear(4, 5), kind

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        if self.kind == "divisor":
            y = torch.ones(4) / y
        elif self.kind == "pad":
            y = functional.pad(y[:, :3], (0, 1), value=2.0)
        elif self.kind == "zero pad":
            y = functional.pad(y[:, :3], (0, 1))
        elif self.kind == "columns":
            y = y[:, torch.tensor([3, 1, 0, 2])]
        elif self.kind == "mask":
            y = y[torch.arange(len(y)) >= 0]
        elif self.kind == "places":
            y = y[y > -1e9].view(-1, 4)
        elif self.kind == "quotient":
            y = y / torch.arange(1.0, 5.0)
        return self.head(y)


@pytest.mark.parametrize(
    ("kind", "closed"),
    [
        ("divisor", False),
        ("pad", False),
        ("zero pad", True),
        ("columns", False),
        ("mask", True),
        ("places", False),
        ("quotient", True),
    ],
)
def test_single_ops(kind: str, closed: bool) -> None:
    t = proofs.of(toys.seeded(Odd(kind)), torch.randn(9, 4, generator=torch.Generator()))
    flow = found(t)["enter"]
    assert flow.closed == closed
    assert not closed or scaled(t, flow) < 1e-5


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.b(self.a(x))))


def test_what_runs_twice_or_never_leaks() -> None:
    t = proofs.of(toys.seeded(Twice()), torch.randn(9, 4, generator=torch.Generator()))
    flow = found(t)
    assert flow["a"].leak == flow["b"].leak == "b is called more than once"
    assert flow["idle"].leak == "it never runs" and not flow["head"].closed


def test_a_source_must_make_a_tensor() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two, self.head = Two(), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.two(x)[0])

    t = proofs.of(Net(), torch.randn(9, 4, generator=torch.Generator()))
    with pytest.raises(ModelError, match="two returns tuple"):
        flows(t, ["two"])


@pytest.mark.parametrize(
    "conv",
    (
        nn.Conv2d(6, 9, 3),
        nn.Conv2d(6, 9, 3, groups=3),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Linear(6, 4),
    ),
)
def test_scales_of_inputs_and_outputs(conv: nn.Conv2d | nn.Linear) -> None:
    conv = toys.seeded(conv).double()  # type: ignore[assignment]
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 6, 5, 5, generator=g).double() if isinstance(conv, nn.Conv2d) else (
        torch.randn(2, 6, generator=g).double()
    )  # fmt: skip
    tall = (-1, *[1] * (x.dim() - 2))
    before, after = proofs.spread(6, 1).double(), proofs.spread(len(conv.weight), 1).double()
    wanted = conv(x * before.view(tall)) * after.view(tall)
    scale_inputs(conv, before)
    scale_outputs(conv, after)
    assert torch.allclose(conv(x), wanted)
