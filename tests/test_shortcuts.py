"""Laws of shortcuts: a path past every layer is one, a path through a layer is none.

Faults these laws must catch: a module taken for a shortcut because its layers' outputs depend on
its input; one lost because it works in place, is called by keyword or returns a tuple.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allot.shortcuts import shortcuts
from allot.task import call
from tests import small, toys


class Part(nn.Module):
    """A convolution whose input and output are put together by `how`."""

    def __init__(self, how: Callable[[Tensor, nn.Module], Any]) -> None:
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 3, 1), how

    def forward(self, x: Tensor) -> Any:
        return self.how(x, self.conv)


class Net(nn.Module):
    def __init__(self, how: Callable[[Tensor, nn.Module], Any], keyword: bool) -> None:
        super().__init__()
        self.before, self.part = nn.Conv2d(3, 3, 1), Part(how)
        self.keyword = keyword

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        y = self.part(x=x) if self.keyword else self.part(x)
        return y[0] if isinstance(y, tuple) else y


def found(how: Callable[[Tensor, nn.Module], Any], *, keyword: bool = False) -> dict[str, int]:
    model = toys.seeded(Net(how, keyword)).requires_grad_(False)
    return shortcuts(model, ["part"], forward=call, example=toys.images(2))


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        lambda x, f: x + f(x),
        lambda x, f: torch.relu_(f(x).add_(x)),
        lambda x, f: f(x.relu_()) + x,
        lambda x, f: x * f(x).sigmoid(),
        lambda x, f: torch.cat([x[:, :1], f(x)[:, 1:]], 1),
    ],
)
def test_a_path_past_the_layer_is_found(
    how: Callable[[Tensor, nn.Module], Any], keyword: bool
) -> None:
    assert found(how, keyword=keyword) == {"part": 0}


@pytest.mark.parametrize(
    "how",
    [
        lambda x, f: f(x),
        lambda x, f: f(x) + f(f(x)),
        lambda x, f: f(x) + torch.ones_like(x),
        lambda x, f: (x + f(x))[:, :2],
        lambda x, f: (x + f(x)).double(),
        lambda x, f: {"hidden": x + f(x)},
    ],
)
def test_what_is_no_shortcut_is_not_found(how: Callable[[Tensor, nn.Module], Any]) -> None:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x)
        return y["hidden"] if isinstance(y, dict) else y

    model = toys.seeded(Net(how, False)).requires_grad_(False)
    assert {} == shortcuts(model, ["part"], forward=forward, example=toys.images(2))


@pytest.mark.parametrize("entries", [1, 2, 3])
def test_the_entries_of_a_tuple_are_counted(entries: int) -> None:
    assert found(lambda x, f: (x + f(x), *[x] * (entries - 1))) == {"part": entries}


def test_the_network_and_its_values_are_left_as_they_are() -> None:
    model = toys.residual().requires_grad_(False)
    before, x = small.state(model), toys.images(2)
    want = model(x)
    shortcuts(model, ["layer1", "layer1.0"], forward=call, example=x)
    assert small.same_state(before, model.state_dict()) and small.hooks(model) == 0
    assert torch.equal(want, model(x)) and not x.requires_grad and not want.requires_grad
