"""Laws of routing: counts are those of the router, balance is leximin, enough is enough.

Faults these laws must catch: tokens counted for another sample; the largest for the least; an
exchange that makes things worse; a sample that could be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from allot.errors import DataError, InputError
from allot.routing import balanced, enough, routes
from allot.task import Data, Task
from tests import toys


class Experts(nn.Module):
    """A router of tokens [n, t, 4] to 3 experts; flat: its rows are all tokens of a batch."""

    def __init__(self, *, flat: bool = False, chosen: str = "scores", top: int = 2) -> None:
        super().__init__()
        self.router = Router(chosen=chosen, top=top)
        self.flat = flat
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        self.router(x.flatten(0, 1) if self.flat else x)
        return x.mean(1)


class Router(nn.Module):
    def __init__(self, *, chosen: str, top: int) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.chosen, self.top = chosen, top

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        scores = self.gate(x)
        index = scores.topk(self.top, dim=-1).indices
        return {"scores": scores, "index": index, "both": (scores, index)}[self.chosen]


def task(model: nn.Module, n: int = 7) -> Task:
    x = torch.randn(n, 5, 4, generator=torch.Generator().manual_seed(0))
    data = Data(inputs=x)
    return Task(name="t", model=toys.seeded(model), calibrate=data, search=data, certify=data)


def counts(n: int = 8, experts: int = 3, seed: int = 0, most: int = 6) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, most, (n, experts), generator=g)


def value(c: Tensor, index: Sequence[int] | Tensor) -> list[int]:
    return sorted(c[torch.as_tensor(index, dtype=torch.int64)].sum(0).tolist())


@pytest.mark.parametrize("chosen", ("scores", "index", "both"))
@pytest.mark.parametrize("flat", (False, True))
def test_tokens_are_counted_by_sample_and_expert(chosen: str, flat: bool) -> None:
    t = task(Experts(flat=flat, chosen=chosen))
    assert isinstance(t.calibrate.inputs, Tensor)
    found = routes(t, t.calibrate, "router", experts=3, top=2, batch=3)
    gate = t.model.get_submodule("router.gate")
    with torch.no_grad():
        for x, row in zip(t.calibrate.inputs, found, strict=True):
            want = [0, 0, 0]
            for token in x:
                for e in gate(token).topk(2).indices.tolist():
                    want[e] += 1
            assert row.tolist() == want


def test_what_is_no_router_is_refused() -> None:
    t = task(Experts())
    with pytest.raises(InputError, match=r"'router' is no router of 4 experts.*\[7, 5, 3\]"):
        routes(t, t.calibrate, "router", experts=4)
    t = task(Experts(chosen="index"))
    with pytest.raises(InputError, match="no router of 2 experts"):
        routes(t, t.calibrate, "router", experts=2)


@pytest.mark.parametrize("seed", range(12))
def test_no_exchange_makes_the_balance_better_and_none_is_above_the_best(seed: int) -> None:
    c = counts(seed=seed)
    for k in (1, 2, 4):
        chosen = balanced(c, k).tolist()
        assert len(set(chosen)) == k
        reached = value(c, chosen)
        assert reached <= max(value(c, some) for some in combinations(range(8), k))
        for out in chosen:
            for new in set(range(8)) - set(chosen):
                assert value(c, [*(set(chosen) - {out}), new]) <= reached


def test_one_sample_is_the_leximin_one() -> None:
    for seed in range(10):
        c = counts(seed=seed)
        assert value(c, balanced(c, 1)) == max(value(c, [i]) for i in range(8))


@pytest.mark.parametrize("seed", range(6))
def test_samples_of_one_expert_each_are_balanced_as_well_as_can_be(seed: int) -> None:
    kinds = torch.randint(0, 4, (9,), generator=torch.Generator().manual_seed(seed))
    c = 5 * nn.functional.one_hot(kinds, 4)
    for k in range(1, 10):
        best = max(value(c, some) for some in combinations(range(9), k))
        assert value(c, balanced(c, k)) == best


def test_rare_experts_are_seen() -> None:
    common = torch.tensor([[50, 50, 0, 0]]).repeat(30, 1)
    rare = torch.tensor([[80, 15, 5, 0], [80, 15, 0, 5]])
    chosen = balanced(torch.cat([common, rare]), 4).tolist()
    assert {30, 31} <= set(chosen)


def test_all_of_all_are_chosen_and_order_is_of_no_account() -> None:
    c = counts()
    assert balanced(c, 8).tolist() == list(range(8))
    for seed in range(4):
        moved = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        assert value(c[moved], balanced(c[moved], 1)) == value(c, balanced(c, 1))
        assert torch.equal(balanced(c, 3), balanced(c, 3))
    with pytest.raises(DataError, match="9 of 8"):
        balanced(c, 9)


@pytest.mark.parametrize("seed", range(6))
def test_enough_is_enough_and_nothing_is_needless(seed: int) -> None:
    c = counts(10, seed=seed)
    most = int(c.sum(0).min())
    for tokens in (0, 1, most // 2, most):
        chosen = enough(c, tokens).tolist()
        assert len(set(chosen)) == len(chosen)
        assert not chosen or min(value(c, chosen)) >= tokens
        for out in chosen:
            rest = [i for i in chosen if i != out]
            assert not rest or min(value(c, rest)) < tokens
    with pytest.raises(DataError, match=f"{most + 1} are wanted.*at most {most}"):
        enough(c, most + 1)
