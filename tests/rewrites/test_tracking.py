"""Laws of spaces: who writes and reads which channels, and what does not pass.

Faults these must catch: an op taken as harmless that is not, grouped values in the wrong order, a
reader of a part taken for one of the whole, a shared parameter missed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.rewrites.norms import norm_kind
from allot.rewrites.spaces import Space
from allot.rewrites.tracking import spaces
from allot.task import Task
from tests import toys
from tests.rewrites import proofs
from tests.rewrites import transformers_small as made


def by_writer(task: Task) -> dict[str, Space]:
    return {w.name: s for s in spaces(task) for w in s.writers}


class Between(nn.Module):
    """norm, something, linear: [n, 6] or [n, 3, 6] -> the same."""

    def __init__(self, between: Callable[[Tensor], Tensor], reads: int = 6) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
        self.between = between
        self.last = nn.Linear(reads, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.norm(self.first(x))))


def between(op: Callable[[Tensor], Tensor], reads: int = 6) -> Space:
    x = torch.randn(6, 3, 6, generator=torch.Generator().manual_seed(0))
    return by_writer(proofs.of(toys.seeded(Between(op, reads)), x))["norm"]


def free(space: Space) -> str:
    """Initials of the changes that pass: r, s, h(ift)."""
    told = {"r": space.rotate, "s": space.scale, "h": space.shift}
    return "".join(k for k, why in told.items() if not why)


HALF = torch.linspace(0.5, 1, 6)


@pytest.mark.parametrize(
    ("op", "passes"),
    [
        (lambda x: x, "rsh"),
        (lambda x: x.view(6, 6).view(2, 3, 6), "rsh"),
        (lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)[:, :2], "rsh"),
        (lambda x: x[:, 0], "rsh"),
        (lambda x: x.mean(1), "rsh"),
        (lambda x: torch.cat([x[:, :1], x], 1), "rsh"),
        (lambda x: x * 2.0, "rs"),
        (lambda x: x / x.new_tensor(3.0), "rs"),
        (lambda x: x * HALF, "s"),
        (lambda x: functional.relu(x), "s"),
        (lambda x: torch.full((2, 2, 3), 0.5) @ x, "s"),
        (lambda x: x + 1.0, ""),
        (lambda x: x + HALF, ""),
        (lambda x: 1.0 / x, ""),
        (lambda x: x * x, ""),
        (lambda x: x + x, "rs"),
        (lambda x: x - x[:, :1], "rs"),
        (lambda x: functional.gelu(x), ""),
        (lambda x: x.softmax(-1), ""),
        (lambda x: x.cumsum(1), ""),
        (lambda x: x.mean(-1, keepdim=True).expand(2, 3, 6), ""),
        (lambda x: x.flip(-1), ""),
        (lambda x: x.reshape(2, 9, 2).transpose(1, 2).reshape(2, 3, 6), ""),
    ],
)  # fmt: skip
def test_what_passes_an_op_is_known(op: Callable[[Tensor], Tensor], passes: str) -> None:
    assert free(between(op)) == passes


def test_columns_that_read_channels_in_another_order_are_told() -> None:
    space = between(lambda x: torch.cat([x[..., 3:], x[..., :2]], -1), reads=5)
    assert space.readers[0].index == (3, 4, 5, 0, 1) and not space.readers[0].whole
    assert free(space) == "sh"
    assert free(between(lambda x: x[..., :4], reads=4)) == "sh"


def test_what_is_handed_on_by_keyword_is_seen() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = nn.LayerNorm(6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(input=self.norm(input=x))

    x = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    space = by_writer(proofs.of(toys.seeded(Named()), x))["norm"]
    assert [r.name for r in space.readers] == ["last"] and free(space) == "rsh"


def test_grouped_values_are_found_through_attention() -> None:
    found = by_writer(made.gated())
    space = found["layers.0.v"]
    assert [r.name for r in space.readers] == ["layers.0.o"]
    assert space.readers[0].index == tuple(range(4)) * 3 and not space.scale and space.rotate
    for name in ("layers.0.q", "layers.0.k", "layers.0.gate", "head"):
        assert found[name].scale and found[name].rotate, name


def test_products_hand_on_the_scale_of_the_side_that_no_function_bends() -> None:
    space = by_writer(made.gated())["layers.1.up"]
    assert [r.name for r in space.readers] == ["layers.1.down"]
    assert not space.scale and space.rotate and space.shift


@pytest.mark.parametrize("make", [made.gated, made.vision])
def test_the_residual_stream_is_one_space(make) -> None:
    task = make()
    found = [s for s in spaces(task) if s.norms]
    assert len(found) == 1 and not found[0].rotate and found[0].scale
    norms = {n for n, m in task.model.named_modules() if norm_kind(m)}
    assert set(found[0].norms) == norms
    first = {"embed"} if make is made.gated else {"patches", "first", "places"}
    assert first <= {w.name for w in found[0].writers}


def test_an_output_of_the_network_may_not_change() -> None:
    x = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))
    found = by_writer(proofs.of(toys.seeded(model), x))
    assert "output of the network" in found["1"].scale and not found["0"].rotate


def test_the_caller_s_network_is_left_alone() -> None:
    task = made.gated()
    before = {n: id(m) for n, m in task.model.named_modules()}
    spaces(task)
    assert before == {n: id(m) for n, m in task.model.named_modules()}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in task.model.modules())
